"""From verdicts to the numbers of `evaluation.json`: RAS, NAG and the relative gain, each with its interval.

Definitions: method page, section 5. Every number is a pure function of the verdicts, one per prompt, so that
`evaluation_from_items` recomputes the whole file from `items.jsonl`. A verdict that is None or not finite is
missing: it is counted, never read as a tie, and its prompt is left out of the estimate.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TypeGuard

from grao.errors import InputError
from grao.evaluation.intervals import half_tie_share, net_share, proportion, relative_gain
from grao.records.evaluation import Estimate, Evaluation, Gain, Item, Scores


def scores(
    rewards: Sequence[float | None],
    tokens: Sequence[int],
    truncated: Sequence[bool],
    confidence: float = 0.95,
    model: str = "the model",
) -> Scores:
    """One model against the references.

    Args:
        rewards: R(o, y), one per prompt: above 0 wins, 0 ties, below 0 loses, None is missing.
        tokens: lengths of the same answers.
        truncated: whether each was cut at the token limit.
        confidence: nominal coverage of the intervals.
        model: its name, for the error message.

    Raises:
        InputError: if every verdict is missing.
    """
    tally = _tally(rewards, f"verdicts on {model!r} against the references")
    return Scores(
        ras=proportion(tally.wins, tally.n, confidence),
        ras_win_or_tie=proportion(tally.wins + tally.ties, tally.n, confidence),
        ras_half_tie=half_tie_share(tally.wins, tally.ties, tally.n, confidence),
        missing=tally.missing,
        mean_reward=tally.mean,
        mean_tokens=sum(tokens) / len(tokens),
        truncated=sum(truncated) / len(truncated),
    )


def gain(
    model: str,
    baseline: str,
    comparisons: Sequence[float | None],
    model_rewards: Sequence[float | None],
    baseline_rewards: Sequence[float | None],
    confidence: float = 0.95,
) -> Gain:
    """One model against another on the same prompts.

    Args:
        model: name of the model that may have gained, such as `after`.
        baseline: name of the one it is compared with, such as `before`.
        comparisons: R of the model's answer against the baseline's, one per prompt.
        model_rewards: R of the model's answers against the references, same prompts in the same order.
        baseline_rewards: R of the baseline's answers against the references.
        confidence: nominal coverage of the intervals.

    Raises:
        InputError: if every comparison is missing.
    """
    tally = _tally(comparisons, f"comparisons of {model!r} with {baseline!r}")
    return Gain(
        model=model,
        baseline=baseline,
        nag=net_share(tally.wins, tally.losses, tally.n, confidence),
        nag_win=proportion(tally.wins, tally.n, confidence),
        relative_ras=_relative_ras(model_rewards, baseline_rewards, confidence),
        missing=tally.missing,
    )


def evaluation_from_items(items: Sequence[Item], confidence: float = 0.95) -> Evaluation:
    """All numbers of `evaluation.json` from the lines of `items.jsonl`; models in the order of the first item.

    Raises:
        InputError: if there are no items, if an item names other models or comparisons than the first one, or if
            every verdict on a model, or every comparison of two models, is missing.
    """
    if not items:
        raise InputError("items.jsonl: no prompts in it, so there is nothing to evaluate; run the evaluation first")
    names, pairs = list(items[0].answers), list(items[0].comparisons)
    for row, item in enumerate(items, start=1):
        _check_same("answers", names, item.answers, row, item.id)
        _check_same("comparisons", pairs, item.comparisons, row, item.id)

    answers = {name: [item.answers[name] for item in items] for name in names}
    rewards = {name: [answer.reward for answer in given] for name, given in answers.items()}
    gains = []
    for pair in pairs:
        model, _, baseline = pair.partition("|")
        if model not in rewards or baseline not in rewards:
            known = ", ".join(names)
            raise InputError(f"items.jsonl: comparisons: {pair!r} is not 'model|baseline' with models among: {known}")
        verdicts = [item.comparisons[pair] for item in items]
        gains.append(gain(model, baseline, verdicts, rewards[model], rewards[baseline], confidence))
    return Evaluation(
        confidence=confidence,
        prompts=len(items),
        models={
            name: scores(
                rewards[name],
                [answer.tokens for answer in given],
                [answer.truncated for answer in given],
                confidence,
                name,
            )
            for name, given in answers.items()
        },
        gains=gains,
    )


@dataclass(frozen=True)
class _Tally:
    """Verdicts counted."""

    wins: int
    ties: int
    losses: int
    missing: int
    mean: float

    @property
    def n(self) -> int:
        """Prompts with a verdict."""
        return self.wins + self.ties + self.losses


def _tally(rewards: Sequence[float | None], what: str) -> _Tally:
    known = [reward for reward in rewards if _is_known(reward)]
    if not known:
        raise InputError(
            f"all {len(rewards)} {what} are missing, so nothing can be estimated; check the reward and evaluate again"
        )
    return _Tally(
        wins=sum(reward > 0 for reward in known),
        ties=sum(reward == 0 for reward in known),
        losses=sum(reward < 0 for reward in known),
        missing=len(rewards) - len(known),
        mean=math.fsum(known) / len(known),
    )


def _relative_ras(
    model_rewards: Sequence[float | None], baseline_rewards: Sequence[float | None], confidence: float
) -> Estimate | None:
    """The gain in strict wins, over prompts on which both have a verdict; None without such, or without a win."""
    paired = [
        (model > 0, baseline > 0)
        for model, baseline in zip(model_rewards, baseline_rewards, strict=True)
        if _is_known(model) and _is_known(baseline)
    ]
    if not paired:
        return None
    return relative_gain(
        both=paired.count((True, True)),
        only_model=paired.count((True, False)),
        only_baseline=paired.count((False, True)),
        neither=paired.count((False, False)),
        confidence=confidence,
    )


def _is_known(reward: float | None) -> TypeGuard[float]:
    return reward is not None and math.isfinite(reward)


def _check_same(field: str, expected: Sequence[str], found: Collection[str], row: int, item: str) -> None:
    if set(expected) != set(found):
        first, here = ", ".join(expected) or "none", ", ".join(found) or "none"
        raise InputError(
            f"items.jsonl: row {row} (id {item!r}): {field}: found {here}, but row 1 has {first}; evaluate again"
        )
