"""Cells of the generated tables: numbers of a study's result, formatted as text.

A cell applies a measure to a spot: a study, an arm, a point of a sweep. All numbers come from the `StudyResult` that
`grao.studies.study.recorded_result` computes from a study's records; this module only formats them (and asks the method
for kappa). Shares are percentages with one decimal, differences are signed percentage points.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Protocol

from grao.errors import InputError
from grao.evaluation.study import reached_at
from grao.methods.grao import GRAO
from grao.records.numbers import Estimate
from grao.records.study import ArmResult, BandPoint, Change, Comparison, Measured, StudyResult
from grao.reports import tables
from grao.studies.study import recorded_result

ROOT = Path(__file__).resolve().parents[2]
ANY_P = "(p)"
"""Placeholder of a p-value over prompts when these are not computed (`results.py --quick`)."""
_PROMPTS = 100
"""Passed to `tables.percent` and `tables.points`, which then show one decimal."""


@cache
def study(name: str) -> StudyResult:
    """The result of a stored study, computed once from its records."""
    result = recorded_result(ROOT / "studies" / name)
    if result is None:
        raise InputError(f"studies/{name} holds no records")
    return result


@dataclass(frozen=True)
class Spot:
    """Where a number is read from; an empty field is filled in by the row, the column or the table."""

    study: str = ""
    arm: str = ""
    variant: str = ""
    """Suffix of the arm's name, where the row gives one part of it and the column the other."""
    point: tuple[str, ...] = ()
    against: str = ""
    """The arm to subtract, in a difference between two arms other than the study's main one."""

    def within(self, outer: "Spot") -> "Spot":
        """This spot with empty fields taken from `outer`, whose sweep coordinates are appended to this one's."""
        merged = {field: value or getattr(outer, field) for field, value in vars(self).items()}
        return Spot(**merged | {"point": self.point + outer.point})

    @property
    def result(self) -> ArmResult:
        """Result of the arm at the point."""
        result = next((arm for arm in study(self.study).arms if arm.arm == self.name), None)
        if result is None:
            raise InputError(f"studies/{self.study} has no arm {self.name}")
        return result

    @property
    def contrast(self) -> Comparison:
        """The study's main arm minus this one at the same point; with `against`, this arm minus that one."""
        result = study(self.study)
        candidates = result.pairs if self.against else result.sweep.contrasts if result.sweep else result.comparisons
        pair = (self.name, self.against) if self.against else (self._at_point(result.main), self.name)
        comparison = next((each for each in candidates if (each.arm, each.other) == pair), None)
        if comparison is None:
            raise InputError(f"studies/{self.study} does not compare {pair[0]} with {pair[1]}")
        return comparison

    @property
    def change(self) -> Change:
        """How the lead of a sweep's main arm over this one changes from the first point to the last."""
        sweep = study(self.study).sweep
        if sweep is None:
            raise InputError(f"studies/{self.study} is not a sweep")
        return next(each for each in sweep.changes if each.other == self.arm)

    @property
    def curve(self) -> list[BandPoint]:
        """The arm's mean learning curve."""
        return next(band.points for band in study(self.study).curves if band.arm == self.name)

    @property
    def name(self) -> str:
        """The arm's name in the study's result."""
        return self._at_point(self.arm + self.variant)

    @property
    def is_main(self) -> bool:
        """Whether this is the arm that all others are compared with."""
        return not self.against and self.name == self._at_point(study(self.study).main)

    def _at_point(self, arm: str) -> str:
        sweep = study(self.study).sweep
        places = sweep.places if sweep else []
        return next((place.name for place in places if (place.arm, tuple(place.point)) == (arm, self.point)), arm)


class Measure(Protocol):
    """Function that returns the text of a cell."""

    def __call__(self, spot: Spot, /) -> str:
        """The text at a spot."""
        ...


def share(value: float) -> str:
    """A share as `17.0`."""
    return tables.percent(value, _PROMPTS).removesuffix(" %")


def points(value: float) -> str:
    """A difference of shares as `+2.3`."""
    return tables.points(value, _PROMPTS)


def between(estimate: Estimate | None, form: Callable[[float], str] = share) -> str:
    """An interval as `15.9 to 18.1`; empty if there is none, as with a single seed."""
    return f"{form(estimate.low)} to {form(estimate.high)}" if estimate else ""


def rate(spot: Spot) -> str:
    """The learning rate as `1e-3`."""
    return f"{spot.result.learning_rate:.0e}".replace("e-0", "e-")


def seconds(spot: Spot) -> str:
    """Training time in whole seconds."""
    return f"{spot.result.cost.seconds['training']:.0f}"


def cut(spot: Spot) -> str:
    """Share of completions cut off at the token limit."""
    return share(spot.result.truncated)


def roughly_cut(spot: Spot) -> str:
    """Like `cut`, but without a decimal if it is 0 or at least 10."""
    truncated = spot.result.truncated
    return share(truncated) if 0 < truncated < 0.0995 else f"{100 * truncated:.0f}"


def calls_to_best(spot: Spot) -> str:
    """Reward calls until 95 % of the arm's own best RAS, rounded to hundreds: `11,300`."""
    calls = spot.result.calls_to_best
    return f"{round(calls, -2):,.0f}" if calls else ""


def to_best_of(arm: str, axis: str = "step") -> Measure:
    """Steps, or counted `work`, until the arm's mean curve reaches the best value of another arm's; `not reached`."""

    def measure(spot: Spot) -> str:
        best = max(point.ras.value for point in replace(spot, arm=arm).curve)
        x, y = [getattr(point, axis) for point in spot.curve], [point.ras.value for point in spot.curve]
        reached = reached_at(x, y, 1.0, best)
        return "not reached" if reached is None else f"{reached:.0f}"

    return measure


def falling(spot: Spot) -> str:
    """Share of evaluations below the previous one, in whole percent."""
    return f"{100 * (spot.result.falling or 0):.0f}"


def kappa(spot: Spot) -> str:
    """Kappa of an ablation's arm, as recorded in the study."""
    value = next(each.kappa for each in study(spot.study).weights if each.arm == spot.name)
    return f"{value:.2f}"


def kappa_of(coefficient: str, samples: int = 8) -> Measure:
    """Kappa of eq. 3 in a sweep of `coefficient`."""
    return lambda spot: f"{GRAO(**{coefficient: float(spot.point[0])}).kappa(samples):.2f}"


def relative_ras(spot: Spot) -> str:
    """RAS of the main arm relative to this one's, minus 1, in whole percent."""
    gain = None if spot.is_main else spot.contrast.relative_ras
    return "" if gain is None else f"{100 * gain:+.0f}"


def p_prompts(spot: Spot) -> str:
    """Corrected p-value over prompts."""
    return "" if spot.is_main else p_or_placeholder(spot.contrast.p_prompts_corrected)


def p_seeds(spot: Spot) -> str:
    """Corrected p-value over seeds; empty with one seed."""
    return "" if spot.is_main else tables.p_value(spot.contrast.p_seeds_corrected)


def p_both(spot: Spot) -> str:
    """Corrected p-value over prompts and seeds at once; empty with one seed."""
    tested = None if spot.is_main else spot.contrast.both
    return "" if tested is None else tables.p_value(tested.p_corrected)


def p_or_placeholder(p: float) -> str:
    """The p-value, or `ANY_P` after `skip_p_prompts`."""
    return ANY_P if _SKIPPED else tables.p_value(p)


_SKIPPED: list[bool] = []


def skip_p_prompts() -> None:
    """Show p-values over prompts as `ANY_P` from now on and cut their sign-flip tests, which are slow, short."""
    import grao.evaluation.inference as inference

    inference.DRAWS = 2
    _SKIPPED.append(True)


@dataclass(frozen=True)
class Field:
    """Measure that formats one of an arm's shares, or its difference from the main arm.

    `form` may contain `{value}`, the intervals `{prompts}`, `{seeds}` and `{both}` (over prompts and seeds at once),
    and the corrected `{p_prompts}`, `{p_seeds}` and `{p_both}`.
    """

    field: str = "ras"
    """A field of `ArmResult`, or `difference` for that of the comparison."""
    form: str = "{value}"

    def __call__(self, spot: Spot) -> str:
        """The formatted text at a spot."""
        if self.field == "difference" and spot.is_main:
            return ""
        contrast = spot.contrast if self.field == "difference" else None
        measured: Measured = contrast.difference if contrast else getattr(spot.result, self.field)
        number = points if contrast or self.field == "nag" else share
        p_values = {"p_prompts": p_prompts(spot), "p_seeds": p_seeds(spot), "p_both": p_both(spot)} if contrast else {}
        return self.form.format(
            value=number(measured.over_prompts.value),
            prompts=between(measured.over_prompts, number),
            seeds=between(measured.over_seeds, number),
            both=between(measured.over_both, number),
            **p_values,
        )


RAS = Field()
TIE = Field("ras_win_or_tie")
NAG = Field("nag")
BEFORE = Field("before")
RAS_SEEDS = Field("ras", "{value} ({seeds})")
RAS_BOTH = Field("ras", "{value} ({prompts}; {seeds})")
LEAD = Field("difference")
LEAD_PROMPTS = Field("difference", "{value} ({prompts})")
LEAD_OVER_SEEDS = Field("difference", "{value} ({seeds})")
LEAD_SEEDS = Field("difference", "{value} ({seeds}), {p_seeds}")
LEAD_OVER_BOTH = Field("difference", "{value} ({both}), {p_both}")
OVER_PROMPTS, OVER_SEEDS = Field("ras", "{prompts}"), Field("ras", "{seeds}")


def with_ties(spot: Spot) -> str:
    """RAS with its interval over seeds; win-or-tie rate."""
    return f"{RAS_SEEDS(spot)}; {TIE(spot)}"


def ras_and_ties(spot: Spot) -> str:
    """RAS; win-or-tie rate."""
    return f"{RAS(spot)}; {TIE(spot)}"


def percent(measure: Field) -> Field:
    """The measure with a percent sign after the number."""
    return replace(measure, form=measure.form.replace("{value}", "{value} %"))


def lead_tests(spot: Spot) -> str:
    """Difference with interval and p over prompts; interval and p over seeds."""
    return Field("difference", "{value} ({prompts}), {p_prompts}; {seeds}, {p_seeds}")(spot)


def both_p(spot: Spot) -> str:
    """p over prompts, p over seeds."""
    return ", ".join(filter(None, (p_prompts(spot), p_seeds(spot))))
