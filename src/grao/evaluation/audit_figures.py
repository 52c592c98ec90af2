"""The figures of an audit: of each reward, of two, of the model before training, and what the whole run will take.

Every figure is a pure function of what was read and timed. All readings of pairs are of the rejected answer against the
reference, so a reward is right where R is below 0; there is one pair a prompt. Of the model's samples the prompts are
the units: samples of one prompt hang together.
"""

import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from grao.core import rounding, spread
from grao.evaluation.agreement import agreement_table, calibration, cohens_kappa, either_way, spearman, within_groups
from grao.evaluation.inference import half_tie_share, mean, mean_share, proportion, share_difference, share_of
from grao.records import audit as records
from grao.records.audit import EditItem, GroupItem, JudgeForecast, PairItem, Reading
from grao.records.numbers import Estimate
from grao.rewards.judge.base import JudgeTally
from grao.rewards.judge.wording import context_text
from grao.types import Example

ITSELF = "nothing"
"""The edit that leaves the text as it is."""
EDITS: Mapping[str, Callable[[str], str]] = {
    "a doubled space": lambda text: re.sub(r"(?<=\S) (?=\S)", "  ", text, count=1),
    "a line break at the end": lambda text: f"{text.rstrip()}\n",
    "a closing pleasantry": lambda text: f"{text.rstrip()} I hope this helps!",
    "bold type": lambda text: re.sub(r"\S+", r"**\g<0>**", text, count=1),
    "a small first letter": lambda text: re.sub(r"\S", lambda first: first[0].lower(), text, count=1),
}
"""Name -> trivial edit: the text says the same. Leading white space, which belongs to the prompt's format, is kept."""


WRONG = ("the reference of another prompt", "the words of the reference shuffled", "the prompt repeated")
"""Names of the texts that are wrong answers whatever the task."""


@dataclass(frozen=True)
class Subject:
    """A reward under audit."""

    name: str
    kind: str
    """judge, reward model, rule, function or sum."""
    role: Literal["deciding", "part", "second"]
    """See `RewardFigures.role`."""


def edited(text: str) -> dict[str, str]:
    """The text itself and its variants by name; edits that change nothing in it are left out.

    A reward that tells them apart is paid for form.
    """
    variants = {name: change(text) for name, change in EDITS.items()}
    return {ITSELF: text, **{name: variant for name, variant in variants.items() if variant != text}}


def reward_figures(
    subject: Subject,
    pairs: Sequence[PairItem],
    edits: Sequence[EditItem],
    tally: JudgeTally,
    scale: float,
    confidence: float = 0.95,
) -> records.RewardFigures:
    """Everything about one reward.

    Args:
        subject: which.
        pairs: with its readings; may be empty.
        edits: with its readings; may be empty.
        tally: what its questions took.
        scale: mean |R| that it gives the policy's samples.
        confidence: nominal coverage of all intervals.
    """
    judge = subject.kind == "judge"
    read = [pair.readings[subject.name] for pair in pairs]
    values = [reading.value for reading in read]
    of_reference = [None if each.probability is None else 1 - each.probability for each in read]
    by_edit: dict[str, list[Reading]] = {ITSELF: []}
    for item in edits:
        by_edit.setdefault(item.edit, []).append(item.readings[subject.name])
    wrong = {name: by_edit.pop(name) for name in WRONG if name in by_edit}
    content = (as_good(name, [each.value for each in said], confidence) for name, said in wrong.items())
    placed = read or [each for said in wrong.values() for each in said]
    effects = {name: edit(name, [each.value for each in said], scale, confidence) for name, said in by_edit.items()}
    return records.RewardFigures(
        **vars(subject),
        accuracy=accuracy(values, confidence),
        orders=orders(placed, confidence) if judge and placed else None,
        questions=_questions(tally, confidence) if judge else None,
        length=length_bias(values, [(len(pair.reference), len(pair.rejected)) for pair in pairs], confidence),
        itself=effects.pop(ITSELF),
        itself_asked=sides_taken(by_edit[ITSELF], confidence) if judge else None,
        edits=[effect for effect in effects.values() if effect],
        calibration=calibration(of_reference, confidence),
        content=[found for found in content if found],
    )


def wrong_texts(examples: Sequence[Example]) -> Iterator[tuple[str, int, str]]:
    """Texts that are wrong answers whatever the task: of each example the name, its index, and the text.

    What equals the reference is left out.
    """
    for index, example in enumerate(examples):
        later = (examples[(index + step) % len(examples)].reference for step in range(1, len(examples)))
        other = next((each for each in later if _plain(each) != _plain(example.reference)), "")
        words = example.reference.split()
        random.Random(example.id).shuffle(words)  # noqa: S311 no secret
        asked = example.prompt if isinstance(example.prompt, str) else context_text(example.prompt[-1:])
        for name, text in zip(WRONG, (other, " ".join(words), asked.strip()), strict=True):
            if text and _plain(text) != _plain(example.reference):
                yield name, index, text


def as_good(name: str, values: Sequence[float | None], confidence: float = 0.95) -> records.Wrong | None:
    """How often a wrong text does as well as the reference.

    Args:
        name: of the text.
        values: R of N such texts, None = missing.
        confidence: nominal coverage.

    Returns:
        None without values.
    """
    known = [value for value in values if value is not None]
    wins = sum(value > 0 for value in known)
    return records.Wrong(name, half_tie_share(wins, known.count(0), len(known), confidence)) if known else None


def agreement(
    first: str, second: str, pairs: Sequence[PairItem], groups: Sequence[GroupItem], confidence: float = 0.95
) -> records.Agreement:
    """Of two rewards by name: on pairs, whose sides mean nothing, and on the first sample of each group.

    A name that is no part of the groups' rewards is that of their sum.
    """
    names = (first, second)
    by_pair = agreement_table(*([pair.readings[name].value for pair in pairs] for name in names))
    by_sample = agreement_table(*([group.parts.get(name, group.rewards)[0] for group in groups] for name in names))
    kappas = (cohens_kappa(table, confidence) for table in (either_way(by_pair), by_sample))
    return records.Agreement(first, second, *kappas)


def agreement_with_people(
    name: str, pairs: Sequence[PairItem], labels: Mapping[str, float], confidence: float = 0.95
) -> records.Agreement:
    """Of a reward with people's preferences on pairs by id: 1 for the rejected answer, 0 a tie, -1 the reference."""
    both = [(labels[pair.id], pair.readings[name].value) for pair in pairs if pair.id in labels]
    table = agreement_table([said for said, _ in both], [value for _, value in both])
    return records.Agreement("people", name, cohens_kappa(either_way(table), confidence), None)


def accuracy(values: Sequence[float | None], confidence: float = 0.95) -> records.Accuracy | None:
    """How often the reference wins.

    Args:
        values: R of the rejected answers, None = missing; below 0 is right.
        confidence: nominal coverage.

    Returns:
        None without pairs. Without a verdict on any of them its estimates are None but for what is missing.
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
    """What the order of the texts does to a judge's verdicts.

    Where both orders are asked, a pair with two winners gives the first place two wins, one or none. A judge without
    bias gives one, so the share is (pairs with two + half of the pairs with one) / pairs, with the interval of such a
    sum. Where one drawn order is asked, it is the share of decided verdicts.
    """
    asked = [(reading.shown_first, reading.shown_second) for reading in readings]
    twice = [(first, second) for first, second in asked if first is not None and second is not None]
    if twice:
        won = [(first > 0) + (second < 0) for first, second in twice if first and second]
        share = half_tie_share(won.count(2), won.count(1), len(won), confidence) if won else None
        return records.Orders(share_of([first != second for first, second in twice], confidence), share)
    for_first = [first or -(second or 0.0) for first, second in asked if first or second]
    return records.Orders(None, share_of([verdict > 0 for verdict in for_first], confidence))


def length_bias(
    values: Sequence[float | None], lengths: Sequence[tuple[int, int]], confidence: float = 0.95
) -> records.Length | None:
    """What length does to a reward.

    That the longer answer wins more often than not is no bias where the references are longer. What is free of that is
    the accuracy where the reference is the longer one, minus that where it is the shorter: 0 for a reward that does
    not look at length, however often it errs, and 1 for one that looks at nothing else.

    Args:
        values: R of the rejected answers, None = missing.
        lengths: of reference and rejected answer, in any unit.
        confidence: nominal coverage.

    Returns:
        None where no decided pair differs in length.
    """
    gaps = (reference - rejected for reference, rejected in lengths)
    seen = [(value, gap) for value, gap in zip(values, gaps, strict=True) if value is not None and gap]
    decided = [(value < 0, gap > 0) for value, gap in seen if value != 0]
    if not decided:
        return None
    by_side = ([right for right, longer in decided if longer is side] for side in (True, False))
    if_longer, if_shorter = (share_of(right, confidence) for right in by_side)
    return records.Length(
        longer_wins=proportion(sum(right == longer for right, longer in decided), len(decided), confidence),
        longer_is_reference=proportion(sum(longer for _, longer in decided), len(decided), confidence),
        accuracy_gap=share_difference(if_longer, if_shorter) if if_longer and if_shorter else None,
        correlation=spearman([-value for value, _ in seen], [gap for _, gap in seen], confidence),
    )


def edit(name: str, values: Sequence[float | None], scale: float, confidence: float = 0.95) -> records.Edit | None:
    """What a reward makes of a text against a trivial variant of itself.

    Args:
        name: of the edit.
        values: R of the edited texts, None = missing.
        scale: mean |R| of the policy's samples.
        confidence: nominal coverage.

    Returns:
        None without values.
    """
    known = [value for value in values if value is not None]
    if not known:
        return None
    n = len(known)
    changed = proportion(n - known.count(0), n, confidence)
    wins = proportion(sum(value > 0 for value in known), n, confidence)
    return records.Edit(name, changed, wins, size=sum(map(abs, known)) / n / scale if scale else None)


def sides_taken(readings: Sequence[Reading], confidence: float = 0.95) -> Estimate | None:
    """Share of a judge's single verdicts that name a winner, one question a text: asked about a text and itself, both
    orders are the same question."""
    asked = [each.shown_first if each.shown_first is not None else each.shown_second for each in readings]
    return share_of([verdict != 0 for verdict in asked if verdict is not None], confidence)


def policy_figures(groups: Sequence[GroupItem], confidence: float = 0.95) -> records.Policy:
    """All figures from at least one group; see `Policy`. A group without any reward counts in shares of prompts as not
    beating its reference, and is in no spread."""
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
        length_correlation=within_groups(list(zip(scored, lengths, strict=True)), confidence),
    )


def mean_size(rewards: Sequence[Sequence[float | None]]) -> float:
    """Mean |R| over all samples that have one, 0 where none has."""
    sizes = [abs(reward) for group in rewards for reward in group if reward is not None]
    return sum(sizes) / len(sizes) if sizes else 0.0


@dataclass(frozen=True)
class Timing:
    """Seconds that some groups took, all of them together."""

    groups: int
    rollout: float
    reward: float
    update: float | None
    """Forward and backward pass; None where nothing was to be learned."""
    known: float
    """Share of the judges' verdicts that were in the ledger."""


def forecast(
    timing: Timing,
    steps: int,
    prompts_per_step: int,
    group_size: int,
    sampled: int,
    compared: int,
    judges: Sequence[JudgeForecast],
) -> records.Forecast:
    """The whole run: seconds per group, scaled by samples (rollout), comparisons (reward) and groups (update).

    Left out: the optimiser's own step and loading, which are small beside the rest, checkpoints, and how the lengths of
    the samples change while training goes on.

    Args:
        timing: of some groups.
        steps: of the run.
        prompts_per_step: groups of a step.
        group_size: samples of a group, G.
        sampled: completions of training and evaluations.
        compared: comparisons of both.
        judges: what each will be asked.
    """
    groups = steps * prompts_per_step
    rollout, reward = timing.rollout / timing.groups, timing.reward / timing.groups
    update = None if timing.update is None else timing.update / timing.groups
    known, hours = (
        timing.known,
        ((rollout * sampled + reward * compared) / group_size + (update or 0.0) * groups) / 3600,
    )
    return records.Forecast(steps, prompts_per_step, sampled, rollout, reward, update, known, hours, list(judges))


def _questions(tally: JudgeTally, confidence: float) -> records.Questions:
    asked = tally.requests + tally.cached
    answered = asked - tally.failed
    unreadable = proportion(tally.unreadable, answered, confidence) if answered else None
    failed = proportion(tally.failed, asked, confidence) if asked else None
    return records.Questions(asked, tally.cached, unreadable, failed, tally.cost)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _mean_beats(rewards: Sequence[float]) -> bool:
    """Whether the mean of R is above 0, by more than rounding."""
    near = rounding(torch.tensor(rewards, dtype=torch.float64))
    return bool(rewards) and sum(rewards) > near.max().item()


def _deviation(values: np.ndarray) -> float:
    """Of the population; 0 where the values differ by rounding."""
    row = torch.from_numpy(values)[None]
    return float(spread(row, row)[1])


def _spread(values: np.ndarray) -> records.Spread:
    return records.Spread(*np.quantile(values, [0, 0.25, 0.5, 0.75, 1]).tolist())
