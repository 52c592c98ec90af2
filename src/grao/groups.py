"""Groups: a prompt, its reference and G sampled answers, and what the rewards say of them."""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from grao.data import Encoded, decode_completion
from grao.rewards import Mix, MixedRewards, RewardBatch
from grao.rollouts import Completion, Generator, Sampling


@dataclass(frozen=True)
class Group:
    """One prompt with its samples."""

    item: Encoded
    completions: list[Completion]
    """G."""
    texts: list[str]
    """G, without the token that ended them."""


def sample_groups(
    items: Sequence[Encoded],
    keys: Sequence[int],
    generator: Generator,
    sampling: Sampling,
    tokenizer: PreTrainedTokenizerBase,
) -> list[Group]:
    """B groups; the samples of a group depend on its key only."""
    sampled = generator.generate([item.prompt_ids for item in items], keys, sampling)
    return [
        Group(item, completions, [_text(tokenizer, item, completion) for completion in completions])
        for item, completions in zip(items, sampled, strict=True)
    ]


def reward_groups(groups: Sequence[Group], rewards: Mix) -> MixedRewards:
    """R(o, y) of every sample, (B, G)."""
    return rewards(
        RewardBatch(
            prompts=[group.item.example.prompt for group in groups],
            completions=[group.texts for group in groups],
            references=[group.item.reference_text for group in groups],
            columns=[group.item.example.columns for group in groups],
            completion_ids=[[completion.token_ids for completion in group.completions] for group in groups],
            reference_ids=[group.item.reference_ids for group in groups],
        )
    )


def _text(tokenizer: PreTrainedTokenizerBase, item: Encoded, completion: Completion) -> str:
    said = completion.token_ids if completion.truncated else completion.token_ids[:-1]
    return decode_completion(tokenizer, item.prompt_ids, said)
