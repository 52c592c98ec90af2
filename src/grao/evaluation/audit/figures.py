"""The figures of an audit from what was read: one reward at a time, and two at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from grao.evaluation.audit import pairs as on_pairs
from grao.evaluation.audit.agreement import agreement_table, cohens_kappa, either_way
from grao.evaluation.audit.calibration import calibration
from grao.evaluation.audit.edits import ITSELF
from grao.evaluation.intervals import proportion
from grao.records.audit import Agreement, Edit, EditItem, GroupItem, PairItem, Questions, Reading, RewardFigures
from grao.rewards.judge import JudgeTally


@dataclass(frozen=True)
class Subject:
    """One reward under audit."""

    name: str
    kind: str
    """judge, reward model, rule, function or sum."""
    role: Literal["deciding", "part", "second"]
    """See `RewardFigures.role`."""


def reward_figures(
    subject: Subject,
    pairs: Sequence[PairItem],
    edits: Sequence[EditItem],
    tally: JudgeTally,
    scale: float,
    confidence: float = 0.95,
) -> RewardFigures:
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
    values = [one.value for one in read]
    lengths = [(len(pair.reference), len(pair.rejected)) for pair in pairs]
    same = [item.readings[subject.name] for item in edits if item.edit == ITSELF]
    return RewardFigures(
        name=subject.name,
        kind=subject.kind,
        role=subject.role,
        accuracy=on_pairs.accuracy(values, confidence),
        orders=on_pairs.orders(read, confidence) if judge and read else None,
        questions=_questions(tally, confidence) if judge else None,
        length=on_pairs.length_bias(values, lengths, confidence),
        itself=on_pairs.edit(ITSELF, [one.value for one in same], scale, confidence),
        itself_asked=on_pairs.sides_taken(same, confidence) if judge else None,
        edits=_edits(subject.name, edits, scale, confidence),
        calibration=calibration([None if one.probability is None else 1 - one.probability for one in read], confidence),
    )


def agreement(
    first: str, second: str, pairs: Sequence[PairItem], groups: Sequence[GroupItem], confidence: float = 0.95
) -> Agreement:
    """Of two rewards by name: on pairs, whose sides mean nothing, and on the first sample of each group.

    A name that is no part of the groups' rewards is that of their sum.
    """
    names = (first, second)
    by_pair = agreement_table(*([pair.readings[name].value for pair in pairs] for name in names))
    by_sample = agreement_table(*([group.parts.get(name, group.rewards)[0] for group in groups] for name in names))
    return Agreement(first, second, cohens_kappa(either_way(by_pair), confidence), cohens_kappa(by_sample, confidence))


def _edits(name: str, edits: Sequence[EditItem], scale: float, confidence: float) -> list[Edit]:
    kinds = [kind for kind in dict.fromkeys(item.edit for item in edits) if kind != ITSELF]
    readings: dict[str, list[Reading]] = {
        kind: [item.readings[name] for item in edits if item.edit == kind] for kind in kinds
    }
    figures = (on_pairs.edit(kind, [one.value for one in read], scale, confidence) for kind, read in readings.items())
    return [figure for figure in figures if figure]


def _questions(tally: JudgeTally, confidence: float) -> Questions:
    asked = tally.requests + tally.cached
    answered = asked - tally.failed
    return Questions(
        asked=asked,
        known=tally.cached,
        unreadable=proportion(tally.unreadable, answered, confidence) if answered else None,
        failed=proportion(tally.failed, asked, confidence) if asked else None,
        cost=tally.cost,
    )
