"""What speaks against believing an evaluation, from its items alone: the banner above the headline.

A doubt is raised where a figure passes its threshold by more than chance. All thresholds stand here.

    judge-contradicts-itself   a judge's verdicts differ between the two orders on more than 30 % of the answers
    judge-favours-a-place      asked in one order, the text shown first has more than 60 % or less than 40 % of its wins
    reward-follows-length      rank correlation of R with the difference in length beyond 0.5
    narrow-margin              the median win is less than 2 % of what R reaches on these answers
    not-text                   answers repeat themselves, hold words that occur nowhere else or broken characters, or
                               do not follow the prompt, and the references do not
    underpowered               no significant difference, and one of 10 points in the win rate would be missed too often

Those that follow from the recipes are in `grao.studies.doubts`; a reward that is blind to content is found by asking
it, in `grao.studies.content`.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from grao.evaluation.agreement import spearman
from grao.evaluation.audit_figures import orders
from grao.evaluation.inference import proportion
from grao.evaluation.texts import broken, follows, mean_repetition, unknown_words
from grao.records.audit import Reading
from grao.records.run import Doubt, Evaluation, Item, RecordedAnswer, Said
from grao.reports.tables import percent

_FLIPS, _FIRST = 0.3, 0.1
_CORRELATION, _RELATED = 0.5, 0.3
_NARROW, _REACHED = 0.02, 0.95
_REPEATS, _UNKNOWN, _FOLLOWS, _IGNORES, _BROKEN = 0.2, 0.1, 0.7, 0.65, 0.05
_FEWEST, _FEWEST_WORDS = 10, 50
_MISSED = 0.2
"""Net share: 10 points of the win rate with ties half."""


def doubts(items: Sequence[Item], evaluation: Evaluation) -> list[Doubt]:
    """All that the items give reason for, in the order of weight.

    Args:
        items: at least one.
        evaluation: of them.
    """
    names = [name for name in items[0].answers if name != "before"] or list(items[0].answers)
    every = [answer for item in items for answer in item.answers.values()]
    of_each = (doubt for look in (_length, _margin, _texts) for name in names for doubt in look(items, name))
    return [Doubt(kind, words) for kind, words in (*_judges(every), *of_each, *_power(evaluation))]


def _judges(answers: Sequence[RecordedAnswer]) -> Iterator[tuple[str, str]]:
    by_judge: dict[str, list[Reading]] = {}
    for said in (said for answer in answers for said in answer.said if said.orders):
        by_judge.setdefault(said.reward, []).append(_reading(said))
    for name, readings in by_judge.items():
        found = orders(readings)
        if (flips := found.flips) and flips.n >= _FEWEST and flips.value > _FLIPS and flips.low > _FLIPS / 2:
            yield (
                "judge-contradicts-itself",
                f"{name} contradicts itself: with the texts exchanged, its verdict changes on "
                f"{percent(flips.value, flips.n)} of {flips.n:,} answers.",
            )
        first = found.first_wins
        if first and not flips and (first.low > 0.5 + _FIRST or first.high < 0.5 - _FIRST):
            won = percent(first.value, first.n)
            yield "judge-favours-a-place", f"{name} favours a place: the text shown first has {won} of its wins."


def _reading(said: Said) -> Reading:
    by_place = {order.first: order.value for order in said.orders}
    return Reading(said.value, by_place.get("answer"), by_place.get("reference"))


def _length(items: Sequence[Item], name: str) -> Iterator[tuple[str, str]]:
    rows = [(item.answers[name].reward, len(item.answers[name].text) - len(item.reference)) for item in items]
    known = [(reward, gap) for reward, gap in rows if reward is not None]
    both = [reward for reward, _ in known], [gap for _, gap in known]
    related = spearman(*both) if len(known) >= _FEWEST else None
    if related and abs(related.value) > _CORRELATION and max(related.low, -related.high) > _RELATED:
        side = "longer" if related.value > 0 else "shorter"
        told = f"the {side} the answers of {name!r} are, the better they fare (rank correlation {related.value:.2f})"
        yield "reward-follows-length", f"The reward follows length: {told}."


def _margin(items: Sequence[Item], name: str) -> Iterator[tuple[str, str]]:
    won = [reward for item in items if (reward := item.answers[name].reward) and reward > 0]
    rewards = [answer.reward for item in items for answer in item.answers.values()]
    sizes = [abs(reward) for reward in rewards if reward is not None]
    if len(won) >= _FEWEST and (median := float(np.median(won))) < _NARROW * np.quantile(sizes, _REACHED):
        told = f"half of the wins of {name!r} are by less than {median:.2g}"
        reached = float(np.quantile(sizes, _REACHED))
        yield "narrow-margin", f"The margins are next to nothing: {told}, where this reward reaches {reached:.2g}."


def _texts(items: Sequence[Item], name: str) -> Iterator[tuple[str, str]]:
    prompts, references = [item.prompt for item in items], [item.reference for item in items]
    texts = [item.answers[name].text for item in items]
    if len(items) < _FEWEST:
        return
    said = []
    repeats, usual = mean_repetition(texts), mean_repetition(references)
    if repeats > 2 * usual + _REPEATS:
        said.append(f"{percent(repeats, 1)} of what they say they have said before (references: {percent(usual, 1)})")
    unknown, own = (unknown_words(column, prompts, references) for column in (texts, references))
    if min(unknown[1], own[1]) >= _FEWEST_WORDS:
        strange, normal = (proportion(*counted) for counted in (unknown, own))
        if strange.low > 2 * normal.value + _UNKNOWN:
            shares = percent(strange.value, 1), percent(normal.value, 1)
            said.append(f"{shares[0]} of their words occur nowhere else (references: {shares[1]})")
    theirs, right = (follows(column, prompts, references) for column in (texts, references))
    if theirs and right and theirs.n >= _FEWEST and right.low > _FOLLOWS and theirs.high < _IGNORES:
        shares = percent(theirs.value, 1), percent(right.value, 1)
        said.append(
            f"they fit their own prompt better than another's in {shares[0]} (chance: 50 %, references: {shares[1]})"
        )
    garbled, clean = (proportion(sum(map(broken, column)), len(column)) for column in (texts, references))
    if garbled.low > 2 * clean.value + _BROKEN:
        said.append(f"{percent(garbled.value, 1)} of them hold characters of no text")
    if said:
        yield "not-text", f"The answers of {name!r} may not be answers: {'; '.join(said)}. Read some."


def _power(evaluation: Evaluation) -> Iterator[tuple[str, str]]:
    """Of the last model against the first, else against the references."""
    first, *_, last = [*evaluation.models, *evaluation.models]
    pairs = {(gain.model, gain.baseline): gain for gain in evaluation.gains}
    gain, scores = pairs.get((last, first)), evaluation.models[last]
    net, least = (gain.nag, gain.detectable) if gain else (scores.net, scores.detectable)
    p = evaluation.corrected.get(f"{last}|{first}" if gain else last)
    if net and p is not None and least is not None and p > 1 - evaluation.confidence and least > _MISSED:
        shown, other = percent(least / 2, 1).removesuffix(" %"), repr(first) if gain else "the references"
        yield (
            "underpowered",
            f"Underpowered: no difference between {last!r} and {other} is shown, and "
            f"with {net.n:,} prompts one of less than {shown} points in the win rate would be missed too often.",
        )
