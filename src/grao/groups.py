"""Groups: a prompt, its reference and G sampled answers, and what the rewards say of them."""

from collections.abc import Callable, Mapping, Sequence
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
    done: Callable[[Sequence[Group]], None] = lambda groups: None,
) -> list[Group]:
    """B groups; the samples of a group depend on its key only. `done` hears of groups as soon as they are there."""
    groups: dict[int, Group] = {}

    def keep(sampled: Mapping[int, list[Completion]]) -> None:
        new = {place: _group(items[place], completions, tokenizer) for place, completions in sampled.items()}
        groups.update(new)
        done(list(new.values()))

    generator.generate([item.prompt_ids for item in items], keys, sampling, keep)
    return [groups[place] for place in range(len(items))]


def reward_batch(groups: Sequence[Group]) -> RewardBatch:
    """Groups as rewards see them."""
    return RewardBatch(
        prompts=[group.item.example.prompt for group in groups],
        completions=[group.texts for group in groups],
        references=[group.item.reference_text for group in groups],
        columns=[group.item.example.columns for group in groups],
        completion_ids=[[completion.token_ids for completion in group.completions] for group in groups],
        reference_ids=[group.item.reference_ids for group in groups],
    )


def reward_groups(groups: Sequence[Group], rewards: Mix) -> MixedRewards:
    """R(o, y) of every sample, (B, G)."""
    return rewards(reward_batch(groups))


def _group(item: Encoded, completions: list[Completion], tokenizer: PreTrainedTokenizerBase) -> Group:
    return Group(item, completions, [_text(tokenizer, item, completion) for completion in completions])


def _text(tokenizer: PreTrainedTokenizerBase, item: Encoded, completion: Completion) -> str:
    said = completion.token_ids if completion.truncated else completion.token_ids[:-1]
    return decode_completion(tokenizer, item.prompt_ids, said)
