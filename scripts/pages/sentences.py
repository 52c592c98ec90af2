"""Checks that numbers quoted in sentences agree with the records.

A quote is part of a sentence with `{}` in place of each number, and the sources of these numbers. Line breaks on the
page do not matter. Sentences are never rewritten, because the words around a changed number may have to change too.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pages.cells import ANY_P, Field, Measure, Spot, points
from pages.tables import RECORDS

from grao.records.numbers import Estimate
from grao.reports.tables import p_value

Number = Callable[[], str]
_NUMBER = r"([+-]?\d+(?:[.,]\d+)*)"


@dataclass(frozen=True)
class Quote:
    """Part of a sentence, with the sources of its numbers."""

    page: str
    words: str
    numbers: tuple[Number, ...]

    def faults(self, text: str) -> Iterator[str]:
        """Yield a line if the page's text lacks the sentence or has a wrong number in it."""
        pieces = [re.escape(" ".join(piece.split(" "))) for piece in self.words.split("{}")]
        match = re.search(_NUMBER.join(pieces), " ".join(text.split()))
        if not match:
            yield f"{self.page}: no sentence contains {self.words!r} (scripts/pages/quotes.py)"
            return
        for shown, number in zip(match.groups(), self.numbers, strict=True):
            correct = number()
            if correct not in (shown, ANY_P):
                yield f"{self.page}: {match[0]!r}: the page has {shown}, the records say {correct}"
                return


def quote(page: str, words: str, *numbers: Number) -> Quote:
    """Part of a sentence on a page, and its numbers in order."""
    return Quote(page, words, numbers)


def number(measure: Measure, study: str, arm: str = "", point: str = "", against: str = "") -> Number:
    """A measure of an arm, with its sign; `bare` removes that."""
    return lambda: measure(Spot(study, arm, point=(point,) if point else (), against=against))


def bare(signed: Number) -> Number:
    """The number without its sign, as in `2.3 points behind`."""
    return lambda: signed().lstrip("+-")


def limits(field: str, study: str, arm: str, over: str, against: str = "") -> tuple[Number, Number]:
    """Both limits of an interval over `prompts`, `seeds` or `both`."""
    interval = number(Field(field, f"{{{over}}}"), study, arm, against=against)
    return (lambda: interval().split(" to ")[0]), (lambda: interval().split(" to ")[1])


def change(study: str, other: str) -> tuple[Number, Number, Number, Number]:
    """How a sweep's lead over another arm changes: value, both limits over seeds, p over seeds."""

    def estimate() -> Estimate:
        return Spot(study, other).change.change

    return (
        lambda: points(estimate().value),
        lambda: points(estimate().low),
        lambda: points(estimate().high),
        lambda: p_value(Spot(study, other).change.p_seeds),
    )


def cell(record: str, row: int, column: int) -> Number:
    """The first number of a cell of a recorded table."""
    return lambda: RECORDS[record]["rows"][row][column].strip("*").split(" ")[0]


def figure(record: str, name: str) -> Number:
    """A recorded figure that a sentence quotes."""
    return lambda: RECORDS[record]["figures"][name]
