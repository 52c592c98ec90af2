"""Reasons to doubt an evaluation, derived from its items: the banner above the headline.

A doubt is raised if a figure exceeds its threshold (all defined here) and its interval, if any, makes chance unlikely.

    judge-contradicts-itself   the judge's verdict flips with the order of the texts on more than 30 % of the answers
    judge-favours-a-place      asked in one order, more than 60 % or less than 40 % of the wins go to the first text
    reward-follows-length      rank correlation of R with the length difference beyond 0.5
    narrow-margin              the median R of a win is less than 2 % of the 95th percentile of |R| on these answers
    not-text                   unlike the references, answers repeat themselves, contain words that occur nowhere else
                               or invalid characters, or do not relate to their prompt
    underpowered               no significant difference, and too few prompts to detect 10 points in the win rate

`grao.studies.doubts` derives doubts from the recipes; `grao.studies.content` queries the reward to find out whether it
ignores content.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from grao.evaluation.agreement import spearman
from grao.evaluation.audit_figures import orders
from grao.evaluation.inference import proportion
from grao.evaluation.texts import broken, follows, mean_repetition, unknown_words
from grao.records.audit import Reading
from grao.records.run import Doubt, Evaluation, Item, RecordedAnswer, RewardVerdict
from grao.reports.tables import percent

_FLIPS, _FIRST = 0.3, 0.1
_CORRELATION, _RELATED = 0.5, 0.3
_NARROW, _REACHED = 0.02, 0.95
_REPEATS, _UNKNOWN, _FOLLOWS, _IGNORES, _BROKEN = 0.2, 0.1, 0.7, 0.65, 0.05
_FEWEST, _FEWEST_WORDS = 10, 50
_MISSED = 0.2
"""Net share that corresponds to 10 points in the win rate (ties count half)."""


def doubts(items: Sequence[Item], evaluation: Evaluation) -> list[Doubt]:
    """Return all doubts that the items raise, the most important kinds first.

    Args:
        items: at least one.
        evaluation: computed from these items.
    """
    names = [name for name in items[0].answers if name != "before"] or list(items[0].answers)
    answers = [answer for item in items for answer in item.answers.values()]
    of_each = (doubt for look in (_length, _margin, _texts) for name in names for doubt in look(items, name))
    return [Doubt(kind, words) for kind, words in (*_judges(answers), *of_each, *_power(evaluation))]


def _judges(answers: Sequence[RecordedAnswer]) -> Iterator[tuple[str, str]]:
    by_judge: dict[str, list[Reading]] = {}
    for said in (said for answer in answers for said in answer.said if said.orders):
        by_judge.setdefault(said.reward, []).append(_reading(said))
    for name, readings in by_judge.items():
        figures = orders(readings)
        if (flips := figures.flips) and flips.n >= _FEWEST and flips.value > _FLIPS and flips.low > _FLIPS / 2:
            yield (
                "judge-contradicts-itself",
                f"{name} contradicts itself: when the texts swap places, its verdict changes on "
                f"{percent(flips.value, flips.n)} of {flips.n:,} answers.",
            )
        first = figures.first_wins
        if first and not flips and (first.low > 0.5 + _FIRST or first.high < 0.5 - _FIRST):
            won = percent(first.value, first.n)
            yield "judge-favours-a-place", f"{name} has a position bias: the text shown first gets {won} of its wins."


def _reading(said: RewardVerdict) -> Reading:
    by_first = {order.first: order.value for order in said.orders}
    return Reading(said.value, by_first.get("answer"), by_first.get("reference"))


def _length(items: Sequence[Item], name: str) -> Iterator[tuple[str, str]]:
    rows = [(item.answers[name].reward, len(item.answers[name].text) - len(item.reference)) for item in items]
    known = [(reward, gap) for reward, gap in rows if reward is not None]
    columns = [reward for reward, _ in known], [gap for _, gap in known]
    correlation = spearman(*columns) if len(known) >= _FEWEST else None
    if correlation and abs(correlation.value) > _CORRELATION and max(correlation.low, -correlation.high) > _RELATED:
        side, value = "longer" if correlation.value > 0 else "shorter", f"{correlation.value:.2f}"
        reason = f"the {side} the answers of {name!r} are, the better they score (rank correlation {value})"
        yield "reward-follows-length", f"The reward follows length: {reason}."


def _margin(items: Sequence[Item], name: str) -> Iterator[tuple[str, str]]:
    won = [reward for item in items if (reward := item.answers[name].reward) and reward > 0]
    rewards = [answer.reward for item in items for answer in item.answers.values()]
    sizes = [abs(reward) for reward in rewards if reward is not None]
    if len(won) >= _FEWEST and (median := float(np.median(won))) < _NARROW * np.quantile(sizes, _REACHED):
        reached = float(np.quantile(sizes, _REACHED))
        yield (
            "narrow-margin",
            f"The margins are tiny: half of the wins of {name!r} are by less than {median:.2g}, although this reward "
            f"reaches {reached:.2g}.",
        )


def _texts(items: Sequence[Item], name: str) -> Iterator[tuple[str, str]]:
    prompts, references = [item.prompt for item in items], [item.reference for item in items]
    texts = [item.answers[name].text for item in items]
    if len(items) < _FEWEST:
        return
    signs = []
    repeats, usual = mean_repetition(texts), mean_repetition(references)
    if repeats > 2 * usual + _REPEATS:
        signs.append(f"{percent(repeats, 1)} of their text is repeated (references: {percent(usual, 1)})")
    in_answers, in_references = (unknown_words(column, prompts, references) for column in (texts, references))
    if min(in_answers[1], in_references[1]) >= _FEWEST_WORDS:
        unknown, normal = proportion(*in_answers), proportion(*in_references)
        if unknown.low > 2 * normal.value + _UNKNOWN:
            shares = percent(unknown.value, 1), percent(normal.value, 1)
            signs.append(f"{shares[0]} of their words occur nowhere else (references: {shares[1]})")
    related, expected = (follows(column, prompts, references) for column in (texts, references))
    if related and expected and related.n >= _FEWEST and expected.low > _FOLLOWS and related.high < _IGNORES:
        shares = percent(related.value, 1), percent(expected.value, 1)
        signs.append(
            f"only {shares[0]} match their own prompt better than others (chance: 50 %, references: {shares[1]})"
        )
    garbled, clean = (proportion(sum(map(broken, column)), len(column)) for column in (texts, references))
    if garbled.low > 2 * clean.value + _BROKEN:
        signs.append(f"{percent(garbled.value, 1)} of them contain invalid characters")
    if signs:
        yield "not-text", f"The answers of {name!r} may not be real answers: {'; '.join(signs)}. Read some of them."


def _power(evaluation: Evaluation) -> Iterator[tuple[str, str]]:
    """Power of comparing the last model with the first or, without that comparison, with the references."""
    first, *_, last = [*evaluation.models, *evaluation.models]
    pairs = {(gain.model, gain.baseline): gain for gain in evaluation.gains}
    gain, scores = pairs.get((last, first)), evaluation.models[last]
    net, least = (gain.nag, gain.detectable) if gain else (scores.net, scores.detectable)
    p = evaluation.corrected.get(f"{last}|{first}" if gain else last)
    if net and p is not None and least is not None and p > 1 - evaluation.confidence and least > _MISSED:
        shown, other = percent(least / 2, 1).removesuffix(" %"), repr(first) if gain else "the references"
        yield (
            "underpowered",
            f"Underpowered: {last!r} and {other} do not differ significantly, but {net.n:,} prompts are too few to "
            f"reliably detect a difference of less than {shown} points in the win rate.",
        )
