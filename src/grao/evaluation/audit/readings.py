"""Rewards asked about single texts, each against the reference of its prompt, as they are asked about samples."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from grao.data import Encoded
from grao.evaluation.audit.calibration import bradley_terry
from grao.records.audit import Reading
from grao.rewards import Mix, Reward, RewardBatch
from grao.rewards.judge import Comparison, JudgeReward, JudgeTally, Pair, Verdict


@dataclass(frozen=True)
class Text:
    """A text that answers a prompt."""

    item: Encoded
    text: str
    """In the form of `item.reference_text` (`as_reference`)."""


def as_reference(item: Encoded, answer: str) -> str:
    """An answer of the data in the form of `item.reference_text`: with a leading space where that was given one."""
    spaced = item.reference_text != item.example.reference and not answer[:1].isspace()
    return f" {answer}" if spaced else answer


def read(
    reward: Reward, texts: Sequence[Text], tokenizer: PreTrainedTokenizerBase, logistic: bool = False
) -> tuple[list[Reading], JudgeTally]:
    """What a reward says of each text, and what asking took.

    A judge is asked about texts that equal their reference too, which in training it is not: there R is 0, and only the
    verdicts in their places tell what it said.

    Args:
        reward: of any kind; of a judge the two orders and the probabilities are kept.
        texts: N.
        tokenizer: the model's.
        logistic: read a difference of scores as Bradley and Terry's probability.

    Raises:
        InputError, RewardUnavailableError: as `Reward.relative`.
    """
    if isinstance(reward, JudgeReward):
        pairs = [Pair(one.item.example.prompt, one.text, one.item.reference_text) for one in texts]
        return [_judged(*each) for each in zip(pairs, reward.judge.compare(pairs), strict=True)], reward.judge.tally
    values = [_known(value) for value in reward.relative(_batch(texts, tokenizer)).squeeze(1).tolist()]
    claimed = bradley_terry(values) if logistic else [None] * len(values)
    return [Reading(value, probability=p) for value, p in zip(values, claimed, strict=True)], JudgeTally()


def combined(mix: Mix, parts: Sequence[Sequence[Reading]]) -> list[Reading]:
    """The sum of a mix from what each of its rewards said of the same texts; each text counts as a group of its own."""
    values = [[math.nan if one.value is None else one.value for one in part] for part in parts]
    total = mix.combine([torch.tensor(part, dtype=torch.float64)[:, None] for part in values])
    return [Reading(_known(value)) for value in total.squeeze(1).tolist()]


def added(one: JudgeTally, other: JudgeTally) -> JudgeTally:
    """Both counts together."""
    return JudgeTally(*(vars(one)[name] + vars(other)[name] for name in vars(one)))


def _judged(pair: Pair, found: Comparison) -> Reading:
    better = found.probabilities
    return Reading(
        value=0.0 if pair.a.strip() == pair.b.strip() else _known(found.value),
        shown_first=_reward(found.a_first),
        shown_second=_reward(found.b_first),
        probability=_known(better[0] + better[1] / 2) if better else None,
    )


def _reward(verdict: Verdict | None) -> float | None:
    return verdict.reward if verdict else None


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _batch(texts: Sequence[Text], tokenizer: PreTrainedTokenizerBase) -> RewardBatch:
    """N groups of one, each closed with the token that closes its reference."""
    ids = tokenizer([one.text for one in texts], add_special_tokens=False)["input_ids"]
    closed = [
        one.item.reference_ids if one.text == one.item.reference_text else (*of_text, one.item.reference_ids[-1])
        for one, of_text in zip(texts, ids, strict=True)
    ]
    return RewardBatch(
        prompts=[one.item.example.prompt for one in texts],
        completions=[[one.text] for one in texts],
        references=[one.item.reference_text for one in texts],
        columns=[one.item.example.columns for one in texts],
        completion_ids=[[of_text] for of_text in closed],
        reference_ids=[one.item.reference_ids for one in texts],
    )
