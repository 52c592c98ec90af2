"""Sample groups, decode them and pass them to the rewards."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from transformers import PreTrainedTokenizerBase

from grao.data.encoding import decode_completion
from grao.rewards.base import RewardBatch
from grao.rewards.mix import Mix, MixedRewards
from grao.rollouts.base import Generator, Sampling
from grao.types import Answer, Encoded, Group


def sample_groups(
    items: Sequence[Encoded],
    keys: Sequence[int],
    generator: Generator,
    sampling: Sampling,
    tokenizer: PreTrainedTokenizerBase,
    finished: Callable[[Group], None] = lambda group: None,
) -> list[Group]:
    """Sample a group for each prompt.

    Args:
        items: B encoded prompts.
        keys: B random keys; the samples of a group depend on its key only.
        generator: the sampling engine.
        sampling: group size, temperature and length.
        tokenizer: tokenizer of the policy.
        finished: called with each group as soon as it is complete.

    Returns:
        B groups, in the order of `items`.
    """
    groups: dict[int, Group] = {}
    for number, samples in generator.generate([item.prompt_ids for item in items], keys, sampling):
        groups[number] = decoded_group(items[number], samples, tokenizer)
        finished(groups[number])
    return [groups[number] for number in range(len(items))]


def decoded_group(item: Encoded, samples: Sequence[Answer], tokenizer: PreTrainedTokenizerBase) -> Group:
    """Build the group of a prompt, with the texts of its samples."""
    return Group.of(item, [replace(sample, text=_text(tokenizer, item, sample)) for sample in samples])


def reward_batch(groups: Sequence[Group]) -> RewardBatch:
    """Convert groups to the input of rewards."""
    return RewardBatch(
        prompts=[group.item.example.prompt for group in groups],
        completions=[group.texts for group in groups],
        references=[group.item.reference_text for group in groups],
        columns=[group.item.example.columns for group in groups],
        completion_ids=[[sample.ids for sample in group.samples] for group in groups],
        reference_ids=[group.item.reference_ids for group in groups],
    )


def reward_groups(groups: Sequence[Group], rewards: Mix) -> MixedRewards:
    """Score all samples and return R(o, y), (B, G)."""
    return rewards(reward_batch(groups))


def _text(tokenizer: PreTrainedTokenizerBase, item: Encoded, sample: Answer) -> str:
    """Return the text of a sample, without its end token."""
    return decode_completion(tokenizer, item.prompt_ids, sample.ids if sample.truncated else sample.ids[:-1])
