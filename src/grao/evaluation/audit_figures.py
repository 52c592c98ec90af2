"""The figures of an audit: each reward, the agreement of two, the model before training, and the forecast of the run.

Every figure is a pure function of the recorded readings and timings. Readings of pairs compare the rejected answer with
the reference, so that a reward is right if R is below 0; there is one pair per prompt. For the model's samples, the
units are prompts, because samples of the same prompt are correlated.
"""

import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from grao.core import rounding, spread
from grao.evaluation.agreement import agreement_table, calibration, cohens_kappa, pooled_spearman, spearman, symmetrised
from grao.evaluation.inference import half_tie_share, mean, mean_share, proportion, share_difference, share_of
from grao.records import audit as records
from grao.records.audit import EditItem, GroupItem, JudgeForecast, PairItem, Reading
from grao.records.numbers import Estimate
from grao.rewards.judge.base import JudgeTally
from grao.rewards.judge.wording import context_text
from grao.types import Example

ITSELF = "nothing"
"""Name of the edit that leaves the text unchanged."""
EDITS: Mapping[str, Callable[[str], str]] = {
    "a doubled space": lambda text: re.sub(r"(?<=\S) (?=\S)", "  ", text, count=1),
    "a line break at the end": lambda text: f"{text.rstrip()}\n",
    "a closing pleasantry": lambda text: f"{text.rstrip()} I hope this helps!",
    "bold type": lambda text: re.sub(r"\S+", r"**\g<0>**", text, count=1),
    "a small first letter": lambda text: re.sub(r"\S", lambda first: first[0].lower(), text, count=1),
}
"""Name -> trivial edit that keeps the meaning, and the leading white space, which is part of the prompt format."""

WRONG = ("the reference of another prompt", "the words of the reference shuffled", "the prompt repeated")
"""Names of the texts that are wrong answers for any task."""


@dataclass(frozen=True)
class AuditedReward:
    """An audited reward."""

    name: str
    kind: str
    """judge, reward model, rule, function or sum."""
    role: Literal["deciding", "part", "second"]
    """See `RewardFigures.role`."""


def trivial_edits(text: str) -> dict[str, str]:
    """Return the text and its trivially edited variants by name, without edits that do not change it.

    A reward that distinguishes them rewards form.
    """
    variants = {name: change(text) for name, change in EDITS.items()}
    return {ITSELF: text, **{name: variant for name, variant in variants.items() if variant != text}}


def reward_figures(
    subject: AuditedReward,
    pairs: Sequence[PairItem],
    edits: Sequence[EditItem],
    tally: JudgeTally,
    scale: float,
    confidence: float = 0.95,
) -> records.RewardFigures:
    """Compute all figures of one reward.

    Args:
        subject: the reward.
        pairs: pairs with readings of the reward; may be empty.
        edits: edited references with readings of the reward; may be empty.
        tally: counts of its requests.
        scale: mean |R| of the policy's samples.
        confidence: nominal coverage of all intervals.
    """
    judge = subject.kind == "judge"
    of_pairs = [pair.readings[subject.name] for pair in pairs]
    values = [reading.value for reading in of_pairs]
    of_reference = [None if each.probability is None else 1 - each.probability for each in of_pairs]
    by_edit: dict[str, list[Reading]] = {ITSELF: []}
    for item in edits:
        by_edit.setdefault(item.edit, []).append(item.readings[subject.name])
    wrong = {name: by_edit.pop(name) for name in WRONG if name in by_edit}
    content = (share_as_good(name, [each.value for each in readings], confidence) for name, readings in wrong.items())
    ordered = of_pairs or [each for readings in wrong.values() for each in readings]
    effects = {name: edit(name, [each.value for each in said], scale, confidence) for name, said in by_edit.items()}
    return records.RewardFigures(
        **vars(subject),
        accuracy=accuracy(values, confidence),
        orders=orders(ordered, confidence) if judge and ordered else None,
        questions=_questions(tally, confidence) if judge else None,
        length=length_bias(values, [(len(pair.reference), len(pair.rejected)) for pair in pairs], confidence),
        itself=effects.pop(ITSELF),
        itself_asked=share_of_sides_taken(by_edit[ITSELF], confidence) if judge else None,
        edits=[effect for effect in effects.values() if effect],
        calibration=calibration(of_reference, confidence),
        content=[figure for figure in content if figure],
    )


def wrong_texts(examples: Sequence[Example]) -> Iterator[tuple[str, int, str]]:
    """Generate texts that are wrong answers for any task, except those that equal the reference.

    Args:
        examples: N examples.

    Yields:
        Name of the kind (of `WRONG`), index of the example, and the text.
    """
    for index, example in enumerate(examples):
        later = (examples[(index + step) % len(examples)].reference for step in range(1, len(examples)))
        other = next((each for each in later if _plain(each) != _plain(example.reference)), "")
        words = example.reference.split()
        random.Random(example.id).shuffle(words)  # noqa: S311 no secret
        question = example.prompt if isinstance(example.prompt, str) else context_text(example.prompt[-1:])
        for name, text in zip(WRONG, (other, " ".join(words), question.strip()), strict=True):
            if text and _plain(text) != _plain(example.reference):
                yield name, index, text


def share_as_good(name: str, values: Sequence[float | None], confidence: float = 0.95) -> records.Wrong | None:
    """Share of wrong texts that beat the reference, plus half of the ties.

    Args:
        name: kind of the texts.
        values: R of N such texts; None = missing.
        confidence: nominal coverage of the interval.

    Returns:
        None if all values are missing.
    """
    known = [value for value in values if value is not None]
    wins = sum(value > 0 for value in known)
    return records.Wrong(name, half_tie_share(wins, known.count(0), len(known), confidence)) if known else None


def agreement(
    first: str, second: str, pairs: Sequence[PairItem], groups: Sequence[GroupItem], confidence: float = 0.95
) -> records.Agreement:
    """Agreement of two rewards on pairs, symmetrised over their sides, and on the first sample of each group.

    Args:
        first: name of a reward; a name that is not among the groups' parts denotes the sum.
        second: name of the other reward.
        pairs: pairs with readings of both.
        groups: groups with rewards of both.
        confidence: nominal coverage of the intervals.
    """
    names = (first, second)
    by_pair = agreement_table(*([pair.readings[name].value for pair in pairs] for name in names))
    by_sample = agreement_table(*([group.parts.get(name, group.rewards)[0] for group in groups] for name in names))
    kappas = (cohens_kappa(table, confidence) for table in (symmetrised(by_pair), by_sample))
    return records.Agreement(first, second, *kappas)


def agreement_with_people(
    name: str, pairs: Sequence[PairItem], labels: Mapping[str, float], confidence: float = 0.95
) -> records.Agreement:
    """Agreement of a reward with human preferences on pairs.

    Args:
        name: of the reward.
        pairs: pairs with readings of the reward.
        labels: ID of a pair -> preference: 1 for the rejected answer, 0 for a tie, -1 for the reference.
        confidence: nominal coverage of the interval.
    """
    labelled = [(labels[pair.id], pair.readings[name].value) for pair in pairs if pair.id in labels]
    table = agreement_table([label for label, _ in labelled], [value for _, value in labelled])
    return records.Agreement("people", name, cohens_kappa(symmetrised(table), confidence), None)


def accuracy(values: Sequence[float | None], confidence: float = 0.95) -> records.Accuracy | None:
    """Accuracy on pairs: how often the reference wins.

    Args:
        values: R of the rejected answers; below 0 is right, None = missing.
        confidence: nominal coverage of the intervals.

    Returns:
        None without pairs. If all verdicts are missing, all estimates but `missing` are None.
    """
    if not values:
        return None
    known = [value for value in values if value is not None]
    right, ties = sum(value < 0 for value in known), known.count(0)
    half_ties = half_tie_share(right, ties, len(known), confidence) if known else None
    decided = share_of([value < 0 for value in known if value], confidence)
    tied = share_of([not value for value in known], confidence)
    missing = proportion(len(values) - len(known), len(values), confidence)
    return records.Accuracy(decided, half_ties, tied, missing)


def orders(readings: Sequence[Reading], confidence: float = 0.95) -> records.Orders:
    """Flip rate and position bias of a judge.

    The bias is the share of wins that go to the text shown first. If both orders are requested, this text wins two, one
    or none of the verdicts on a pair without ties, and one without bias. So the share is (pairs with two + half of the
    pairs with one) / pairs, with the interval of such a sum. With one random order, it is over all decided verdicts.

    Args:
        readings: readings of the judge.
        confidence: nominal coverage of the intervals.
    """
    verdicts = [(reading.shown_first, reading.shown_second) for reading in readings]
    twice = [(first, second) for first, second in verdicts if first is not None and second is not None]
    if twice:
        won = [(first > 0) + (second < 0) for first, second in twice if first and second]
        share = half_tie_share(won.count(2), won.count(1), len(won), confidence) if won else None
        return records.Orders(share_of([first != second for first, second in twice], confidence), share)
    for_first = [first or -(second or 0.0) for first, second in verdicts if first or second]
    return records.Orders(None, share_of([verdict > 0 for verdict in for_first], confidence))


def length_bias(
    values: Sequence[float | None], lengths: Sequence[tuple[int, int]], confidence: float = 0.95
) -> records.Length | None:
    """Length bias of a reward.

    If references are longer, it is not a bias that the longer answer wins more often. A measure without this effect is
    the accuracy where the reference is longer minus that where it is shorter: 0 for a reward that ignores length,
    whatever its error rate, and 1 for a reward that depends on nothing else.

    Args:
        values: R of the rejected answers; None = missing.
        lengths: lengths of reference and rejected answer, in any unit.
        confidence: nominal coverage of the intervals.

    Returns:
        None if no decided pair differs in length.
    """
    gaps = (reference - rejected for reference, rejected in lengths)
    known = [(value, gap) for value, gap in zip(values, gaps, strict=True) if value is not None and gap]
    decided = [(value < 0, gap > 0) for value, gap in known if value != 0]
    if not decided:
        return None
    by_side = ([right for right, longer in decided if longer is side] for side in (True, False))
    if_longer, if_shorter = (share_of(right, confidence) for right in by_side)
    return records.Length(
        longer_wins=proportion(sum(right == longer for right, longer in decided), len(decided), confidence),
        longer_is_reference=proportion(sum(longer for _, longer in decided), len(decided), confidence),
        accuracy_gap=share_difference(if_longer, if_shorter) if if_longer and if_shorter else None,
        correlation=spearman([-value for value, _ in known], [gap for _, gap in known], confidence),
    )


def edit(name: str, values: Sequence[float | None], scale: float, confidence: float = 0.95) -> records.Edit | None:
    """Effect of a trivial edit on a reward.

    Args:
        name: of the edit.
        values: R of the edited texts; None = missing.
        scale: mean |R| of the policy's samples.
        confidence: nominal coverage of the intervals.

    Returns:
        None if all values are missing.
    """
    known = [value for value in values if value is not None]
    if not known:
        return None
    n = len(known)
    changed = proportion(n - known.count(0), n, confidence)
    wins = proportion(sum(value > 0 for value in known), n, confidence)
    return records.Edit(name, changed, wins, size=sum(map(abs, known)) / n / scale if scale else None)


def share_of_sides_taken(readings: Sequence[Reading], confidence: float = 0.95) -> Estimate | None:
    """Share of a judge's verdicts on a text compared with itself that name a winner.

    Each text counts once, because both orders are the same request.

    Args:
        readings: readings of unchanged texts.
        confidence: nominal coverage of the interval.

    Returns:
        None if all verdicts are missing.
    """
    verdicts = [each.shown_first if each.shown_first is not None else each.shown_second for each in readings]
    return share_of([verdict != 0 for verdict in verdicts if verdict is not None], confidence)


def policy_figures(groups: Sequence[GroupItem], confidence: float = 0.95) -> records.Policy:
    """Figures of the model before training.

    A group without any reward counts as not beating its reference, and is excluded from `wins` and the spreads.

    Args:
        groups: at least one group.
        confidence: nominal coverage of the intervals.
    """
    scored = [[reward for reward in group.rewards if reward is not None] for group in groups]
    lengths = [[n for n, r in zip(each.tokens, each.rewards, strict=True) if r is not None] for each in groups]
    known = [np.array(rewards) for rewards in scored if rewards] or [np.zeros(1)]
    means, deviations = np.array([(rewards.mean(), _deviation(rewards)) for rewards in known]).T
    between, within = _deviation(means) ** 2, float((deviations**2).mean())

    def share(holds: Iterable[bool]) -> Estimate:
        return proportion(sum(holds), len(groups), confidence)

    return records.Policy(
        prompts=len(groups),
        samples=len(groups[0].rewards),
        mean_beats=share(map(_mean_beats, scored)),
        some_beats=share(max(rewards, default=0.0) > 0 for rewards in scored),
        wins=mean_share([float((rewards > 0).mean()) for rewards in known], confidence),
        no_signal=share(group.no_signal for group in groups),
        dropped=share(group.dropped for group in groups),
        missing=1 - sum(map(len, scored)) / sum(len(group.rewards) for group in groups),
        truncated=mean_share([sum(group.truncated) / len(group.truncated) for group in groups], confidence),
        reward=_spread(means),
        deviation=_spread(deviations),
        between=between / (between + within) if between + within > 0 else None,
        tokens=mean([sum(group.tokens) / len(group.tokens) for group in groups], confidence),
        reference_tokens=sum(group.reference_tokens for group in groups) / len(groups),
        length_correlation=pooled_spearman(list(zip(scored, lengths, strict=True)), confidence),
    )


def mean_size(rewards: Sequence[Sequence[float | None]]) -> float:
    """Mean |R| over all samples with a reward; 0 if there are none."""
    sizes = [abs(reward) for group in rewards for reward in group if reward is not None]
    return sum(sizes) / len(sizes) if sizes else 0.0


@dataclass(frozen=True)
class Timing:
    """Total seconds that a number of groups took."""

    groups: int
    rollout: float
    reward: float
    update: float | None
    """Forward and backward pass; None if no group had a signal."""
    known: float
    """Share of the judges' verdicts that came from the ledger."""


def forecast(
    timing: Timing,
    steps: int,
    prompts_per_step: int,
    group_size: int,
    sampled: int,
    compared: int,
    judges: Sequence[JudgeForecast],
) -> records.Forecast:
    """Forecast the time of the whole run from that of some groups.

    Seconds per group are scaled by samples (rollout), comparisons (reward) and groups (update). Left out: loading and
    the optimizer step itself (both comparatively short), checkpoints, and changes of sample length in training.

    Args:
        timing: measured time of some groups.
        steps: optimizer steps of the run.
        prompts_per_step: groups per step.
        group_size: samples per group, G.
        sampled: completions in training and evaluation.
        compared: comparisons in training and evaluation.
        judges: forecast of the requests to each judge.
    """
    groups = steps * prompts_per_step
    rollout, reward = timing.rollout / timing.groups, timing.reward / timing.groups
    update = None if timing.update is None else timing.update / timing.groups
    hours = ((rollout * sampled + reward * compared) / group_size + (update or 0.0) * groups) / 3600
    known = timing.known
    return records.Forecast(steps, prompts_per_step, sampled, rollout, reward, update, known, hours, list(judges))


def _questions(tally: JudgeTally, confidence: float) -> records.Questions:
    questions = tally.requests + tally.cached
    answered = questions - tally.failed
    unreadable = proportion(tally.unreadable, answered, confidence) if answered else None
    failed = proportion(tally.failed, questions, confidence) if questions else None
    return records.Questions(questions, tally.cached, unreadable, failed, tally.cost)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _mean_beats(rewards: Sequence[float]) -> bool:
    """Whether the mean of R is above 0 by more than rounding."""
    near = rounding(torch.tensor(rewards, dtype=torch.float64))
    return bool(rewards) and sum(rewards) > near.max().item()


def _deviation(values: np.ndarray) -> float:
    """Population standard deviation; 0 if the values differ only by rounding."""
    row = torch.from_numpy(values)[None]
    return float(spread(row, row)[1])


def _spread(values: np.ndarray) -> records.Spread:
    return records.Spread(*np.quantile(values, [0, 0.25, 0.5, 0.75, 1]).tolist())
