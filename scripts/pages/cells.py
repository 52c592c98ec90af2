"""What may stand in a cell: numbers of a study's result, as text.

A cell is a measure of a spot: which study, which arm, which point of a sweep. All numbers are read from the
`StudyResult` that `grao.studies.study.recorded_result` makes of a study's records, and none is computed here but the
rounding (and kappa, by the method itself). Shares are in percent with one decimal, differences in points with a sign.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Protocol

from grao.errors import InputError
from grao.evaluation.study import reach
from grao.methods.grao import GRAO
from grao.records.numbers import Estimate
from grao.records.study import ArmResult, BandPoint, Change, Comparison, Measured, StudyResult
from grao.reports import tables
from grao.studies.study import recorded_result

ROOT = Path(__file__).resolve().parents[2]
DRAWN = "(p)"
"""Stands for a p-value over prompts where those are not computed (`results.py --quick`)."""
_MANY = 100
"""Prompts behind a share with one decimal, as all of these are (`tables.percent`)."""


@cache
def study(name: str) -> StudyResult:
    """The result of a kept study, computed once from its records."""
    result = recorded_result(ROOT / "studies" / name)
    if result is None:
        raise InputError(f"studies/{name} holds no records")
    return result


@dataclass(frozen=True)
class Spot:
    """Where a number is read; an empty field is filled by the row, the column or the table around it."""

    study: str = ""
    arm: str = ""
    variant: str = ""
    """Added to the arm's name, where rows and columns say it between them."""
    point: tuple[str, ...] = ()
    against: str = ""
    """The arm that is taken off, in a difference between two others than the study's main one."""

    def within(self, outer: "Spot") -> "Spot":
        """This spot with what it lacks taken from another; its labels on the axes stand before the other's."""
        mine, theirs = vars(self), vars(outer)
        return Spot(**{field: mine[field] or theirs[field] for field in mine} | {"point": self.point + outer.point})

    @property
    def result(self) -> ArmResult:
        """Of the arm at the point."""
        found = next((arm for arm in study(self.study).arms if arm.arm == self.name), None)
        if found is None:
            raise InputError(f"studies/{self.study} has no arm {self.name}")
        return found

    @property
    def contrast(self) -> Comparison:
        """The study's main arm less this one at the same point; this one less another, where that is named."""
        whole = study(self.study)
        listed = whole.pairs if self.against else whole.sweep.contrasts if whole.sweep else whole.comparisons
        wanted = (self.name, self.against) if self.against else (self._at(whole.main), self.name)
        found = next((each for each in listed if (each.arm, each.other) == wanted), None)
        if found is None:
            raise InputError(f"studies/{self.study} does not compare {wanted[0]} with {wanted[1]}")
        return found

    @property
    def change(self) -> Change:
        """How the lead of a sweep's main arm over this one changes from the first point to the last."""
        swept = study(self.study).sweep
        if swept is None:
            raise InputError(f"studies/{self.study} is no sweep")
        return next(each for each in swept.changes if each.other == self.arm)

    @property
    def curve(self) -> list[BandPoint]:
        """The arm's mean curve."""
        return next(band.points for band in study(self.study).curves if band.arm == self.name)

    @property
    def name(self) -> str:
        """Of the arm, in the study's result."""
        return self._at(self.arm + self.variant)

    @property
    def is_main(self) -> bool:
        """Whether this is the arm that all others are compared with."""
        return not self.against and self.name == self._at(study(self.study).main)

    def _at(self, arm: str) -> str:
        swept = study(self.study).sweep
        if not swept:
            return arm
        return next((at.name for at in swept.places if at.arm == arm and tuple(at.point) == self.point), arm)


class Measure(Protocol):
    """The text of a cell."""

    def __call__(self, spot: Spot, /) -> str:
        """At this spot."""
        ...


def share(value: float) -> str:
    """`17.0`."""
    return tables.percent(value, _MANY).removesuffix(" %")


def points(value: float) -> str:
    """`+2.3`."""
    return tables.points(value, _MANY)


def between(estimate: Estimate | None, form: Callable[[float], str] = share) -> str:
    """`15.9 to 18.1`; nothing without an interval, as over a single seed."""
    return f"{form(estimate.low)} to {form(estimate.high)}" if estimate else ""


def rate(spot: Spot) -> str:
    """The learning rate: `1e-3`."""
    return f"{spot.result.learning_rate:.0e}".replace("e-0", "e-")


def seconds(spot: Spot) -> str:
    """Of training, whole."""
    return f"{spot.result.cost.seconds['training']:.0f}"


def cut(spot: Spot) -> str:
    """Share of answers that ran into the token limit."""
    return share(spot.result.truncated)


def roughly_cut(spot: Spot) -> str:
    """The same without a decimal where it is 0 or at least 10."""
    value = spot.result.truncated
    return share(value) if 0 < value < 0.0995 else f"{100 * value:.0f}"


def calls_to_best(spot: Spot) -> str:
    """Reward calls to 95 % of the arm's own best, in hundreds: `11,300`."""
    calls = spot.result.calls_to_best
    return f"{round(calls, -2):,.0f}" if calls else ""


def steps_to(level: Spot, part: float = 1.0) -> Measure:
    """Steps until the arm's mean curve reaches this part of another's best; `not reached`."""

    def measure(spot: Spot) -> str:
        best = max(point.ras.value for point in level.within(spot).curve)
        at = reach([point.step for point in spot.curve], [point.ras.value for point in spot.curve], part, best)
        return "not reached" if at is None else f"{at:.0f}"

    return measure


def falling(spot: Spot) -> str:
    """Share of evaluations below the one before, whole percent."""
    return f"{100 * (spot.result.falling or 0):.0f}"


def kappa(spot: Spot) -> str:
    """Of an ablation's arm, from its weights."""
    found = next(each.kappa for each in study(spot.study).weights if each.arm == spot.name)
    return f"{found:.2f}"


def kappa_of(coefficient: str, samples: int = 8) -> Measure:
    """Of eq. 3 where the axis moves this coefficient."""
    return lambda spot: f"{GRAO(**{coefficient: float(spot.point[0])}).kappa(samples):.2f}"


def relative_ras(spot: Spot) -> str:
    """RAS of the main arm over that of this one, less 1, whole percent."""
    gain = None if spot.is_main else spot.contrast.relative_ras
    return "" if gain is None else f"{100 * gain:+.0f}"


def p_prompts(spot: Spot) -> str:
    """Corrected; the only numbers that take long to compute."""
    return "" if spot.is_main else p_drawn(spot.contrast.p_prompts_corrected)


def p_seeds(spot: Spot) -> str:
    """Corrected; empty with one seed."""
    return "" if spot.is_main else tables.p_value(spot.contrast.p_seeds_corrected)


def p_drawn(p: float) -> str:
    """The p-value, or `DRAWN` where the run does without (`skip_drawn`)."""
    return DRAWN if _SKIPPED else tables.p_value(p)


_SKIPPED: list[bool] = []


def skip_drawn() -> None:
    """From here on p-values over prompts are `DRAWN`, and their random signs are hardly drawn."""
    import grao.evaluation.inference as inference

    inference.DRAWS = 2
    _SKIPPED.append(True)


@dataclass(frozen=True)
class Of:
    """One of an arm's shares, or its difference to the main arm, in the form that the table has.

    `form` is a text with these names in braces: value, prompts, seeds (intervals), p_prompts and p_seeds (corrected).
    """

    field: str = "ras"
    """Of `ArmResult`; `difference` of the comparison."""
    form: str = "{value}"

    def __call__(self, spot: Spot) -> str:
        """The text."""
        if self.field == "difference" and spot.is_main:
            return ""
        compared = spot.contrast if self.field == "difference" else None
        measured: Measured = compared.difference if compared else getattr(spot.result, self.field)
        form = points if compared or self.field == "nag" else share
        tests = {"p_prompts": p_drawn(compared.p_prompts_corrected), "p_seeds": p_seeds(spot)} if compared else {}
        return self.form.format(
            value=form(measured.over_prompts.value),
            prompts=between(measured.over_prompts, form),
            seeds=between(measured.over_seeds, form),
            **tests,
        )


RAS = Of()
TIE = Of("ras_win_or_tie")
NAG = Of("nag")
BEFORE = Of("before")
RAS_SEEDS = Of("ras", "{value} ({seeds})")
RAS_BOTH = Of("ras", "{value} ({prompts}; {seeds})")
LEAD = Of("difference")
LEAD_PROMPTS = Of("difference", "{value} ({prompts})")
LEAD_OVER_SEEDS = Of("difference", "{value} ({seeds})")
LEAD_SEEDS = Of("difference", "{value} ({seeds}), {p_seeds}")
OVER_PROMPTS, OVER_SEEDS = Of("ras", "{prompts}"), Of("ras", "{seeds}")


def with_ties(spot: Spot) -> str:
    """RAS with its interval over seeds, then win or tie."""
    return f"{RAS_SEEDS(spot)}; {TIE(spot)}"


def ras_and_ties(spot: Spot) -> str:
    """RAS, then win or tie."""
    return f"{RAS(spot)}; {TIE(spot)}"


def percent(measure: Of) -> Of:
    """The same with a percent sign behind the number."""
    return replace(measure, form=measure.form.replace("{value}", "{value} %"))


def less_light(spot: Spot) -> str:
    """Difference, interval and p, over prompts and then over seeds."""
    return Of("difference", "{value} ({prompts}), {p_prompts}; {seeds}, {p_seeds}")(spot)


def both_p(spot: Spot) -> str:
    """Over prompts, over seeds."""
    return ", ".join(filter(None, (p_prompts(spot), p_seeds(spot))))
