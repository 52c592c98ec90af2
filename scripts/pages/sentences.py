"""Sentences that quote numbers: whether each still says what the records say.

A quote is a piece of a sentence with `{}` where a number stands, and where each of these comes from. Sentences are
found whatever their line breaks, and never rewritten: where a number changes, the words around it may have to change.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pages.cells import DRAWN, Measure, Of, Spot, points
from pages.tables import KEPT

from grao.records.numbers import Estimate
from grao.reports.tables import p_value

Number = Callable[[], str]
_NUMBER = r"([+-]?\d+(?:[.,]\d+)*)"


@dataclass(frozen=True)
class Quote:
    """One piece of a sentence."""

    page: str
    words: str
    numbers: tuple[Number, ...]

    def faults(self, text: str) -> Iterator[str]:
        """What of it is not so in the page's text, a line each."""
        pieces = [re.escape(" ".join(piece.split(" "))) for piece in self.words.split("{}")]
        found = re.search(_NUMBER.join(pieces), " ".join(text.split()))
        if not found:
            yield f"{self.page}: there is no sentence with {self.words!r} (scripts/pages/quotes.py)"
            return
        for shown, number in zip(found.groups(), self.numbers, strict=True):
            meant = number()
            if meant not in (shown, DRAWN):
                yield f"{self.page}: {found[0]!r}: the page has {shown}, the records say {meant}"
                return


def quote(page: str, words: str, *numbers: Number) -> Quote:
    """A piece of a sentence on a page, and its numbers in order."""
    return Quote(page, words, numbers)


def number(measure: Measure, study: str, arm: str = "", point: str = "", against: str = "") -> Number:
    """A measure of an arm, without its plus sign where the sentence does not have one (`bare`)."""
    return lambda: measure(Spot(study, arm, point=(point,) if point else (), against=against))


def bare(of: Number) -> Number:
    """Without the sign: `2.3 points behind`."""
    return lambda: of().lstrip("+-")


def limits(field: str, study: str, arm: str, over: str, against: str = "") -> tuple[Number, Number]:
    """Both ends of an interval, `over` prompts or seeds."""
    whole = number(Of(field, f"{{{over}}}"), study, arm, against=against)
    return (lambda: whole().split(" to ")[0]), (lambda: whole().split(" to ")[1])


def change(study: str, other: str) -> tuple[Number, Number, Number, Number]:
    """How a sweep's lead over another arm changes: value, both ends over seeds, p."""

    def estimate() -> Estimate:
        return Spot(study, other).change.change

    return (
        lambda: points(estimate().value),
        lambda: points(estimate().low),
        lambda: points(estimate().high),
        lambda: p_value(Spot(study, other).change.p_seeds),
    )


def cell(record: str, row: int, column: int) -> Number:
    """The first number of a cell of a kept table."""
    return lambda: KEPT[record]["rows"][row][column].strip("*").split(" ")[0]


def figure(record: str, name: str) -> Number:
    """One of the figures that are kept for a sentence."""
    return lambda: KEPT[record]["figures"][name]
