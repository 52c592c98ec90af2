"""Which texts the page of an audit shows, by a fixed rule: those that a user should read before training."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from grao.records.audit import Audit, GroupItem, PairItem
from grao.reports.audit.words import deciding
from grao.reports.examples import Excerpt, shorten

MOST = 4
"""Cases of each kind."""


@dataclass(frozen=True)
class Case:
    """A prompt with two answers."""

    id: str
    prompt: Excerpt
    answers: list[tuple[str, Excerpt, str]]
    """Heading, text, and what was said of it."""


@dataclass(frozen=True)
class Cases:
    """Cases of one kind."""

    title: str
    note: str
    found: int
    """Of them all."""
    shown: list[Case]


def cases(audit: Audit) -> list[Cases]:
    """Wrong pairs, pairs that divide two rewards, beaten references, prompts without signal; kinds that occur."""
    name = deciding(audit).name
    by_value = sorted(audit.pairs, key=lambda pair: -_value(pair, name))
    by_mean = sorted(audit.groups, key=lambda group: -_mean(group))
    wrong = [pair for pair in by_value if _value(pair, name) > 0]
    beaten = [group for group in by_mean if _mean(group) > 0]
    silent = [group for group in audit.groups if group.no_signal]
    kinds = [
        Cases(
            "Pairs it gets wrong",
            "The rejected answer wins. Either the label is wrong, or this is what training will go for.",
            len(wrong),
            [_pair(pair, [name]) for pair in wrong[:MOST]],
        ),
        *_divided(audit),
        Cases(
            "References that the model beats already",
            "The mean of its samples is above the reference. There training pushes away from the reference, unless "
            "method.sign is positive.",
            len(beaten),
            [_group(group) for group in beaten[:MOST]],
        ),
        Cases(
            "Prompts without signal",
            "All samples and the reference have the same reward: nothing is learned here.",
            len(silent),
            [_group(group) for group in silent[:MOST]],
        ),
    ]
    return [kind for kind in kinds if kind.found]


def _divided(audit: Audit) -> Iterable[Cases]:
    """Pairs on which two rewards take different sides: the second one, or else the first two of a sum."""
    for found in audit.agreements[:1]:
        names = [found.first, found.second]
        divided = [pair for pair in audit.pairs if _value(pair, found.first) * _value(pair, found.second) < 0]
        note = f"{found.first} and {found.second} take different sides. Train on the one that you would side with."
        shown = [_pair(pair, names) for pair in divided[:MOST]]
        yield Cases("Pairs that divide two rewards", note, len(divided), shown)


def _value(pair: PairItem, name: str) -> float:
    return pair.readings[name].value or 0.0


def _pair(pair: PairItem, names: Sequence[str]) -> Case:
    said = ", ".join(f"{name} {_signed(pair.readings[name].value)}" for name in names)
    answers = [("reference", shorten(pair.reference), ""), ("rejected", shorten(pair.rejected), said)]
    return Case(pair.id, shorten(pair.prompt), answers)


def _group(group: GroupItem) -> Case:
    highest = max((reward for reward in group.rewards if reward is not None), default=None)
    said = f"reward {_signed(highest)}, mean of the group {_signed(_mean(group))}"
    answers = [("reference", shorten(group.reference), ""), ("best sample", shorten(group.best), said)]
    return Case(group.id, shorten(group.prompt), answers)


def _mean(group: GroupItem) -> float:
    rewards = [reward for reward in group.rewards if reward is not None]
    return sum(rewards) / len(rewards) if rewards else 0.0


def _signed(value: float | None) -> str:
    return "no verdict" if value is None else f"{value:+.3g}"
