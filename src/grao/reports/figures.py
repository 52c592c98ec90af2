"""Charts as plain values, which `charts.js` draws.

`charts.yaml` defines the curves of a run's page; this module selects, smooths and thins them.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from importlib.resources import files
from itertools import cycle
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import yaml
from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass

from grao.records.numbers import Estimate
from grao.records.run import Step
from grao.reports.tables import number, percent

Array = npt.NDArray[np.float64]

MOST_POINTS = 240
"""Most points of a drawn curve; longer curves are averaged over neighbouring steps."""
HUES = ("blue", "orange", "teal", "purple", "ochre", "grey")
"""Colours of curves, used in turn; CSS variables of the page."""
_ARM_HUES = {"grao": "blue", "grpo": "orange", "grao-signed": "teal", "dpo": "purple", "ppo": "ochre", "sft": "grey"}
"""Colours of the arms that look the same on every page."""


class Style(NamedTuple):
    """Appearance of a curve."""

    colour: str
    """One of `HUES`."""
    dash: int = 0
    """Dash pattern; 0 is solid."""


class Legend(NamedTuple):
    """One entry of a legend."""

    label: str
    style: Style
    change: str
    """Key values of the curve, such as `23 % to 24 %`."""


class Figure(NamedTuple):
    """A chart with its title, note and legend."""

    title: str
    note: str
    drawing: dict[str, Any]
    """Input of `charts.js`: `kind`, `x` and `y` (axes), `series`."""
    legend: Sequence[Legend] = ()
    zero: str | None = None
    """Meaning of the dashed line at 0; None if there is no such line."""

    @property
    def spoken(self) -> str:
        """Text for screen readers."""
        ends = "; ".join(f"{entry.label} {entry.change}".strip() for entry in self.legend)
        return f"{self.title}: {ends or self.note}"


def arm_styles(arms: Iterable[str]) -> dict[str, Style]:
    """Assign a style to each arm: fixed colours for the paper's methods, the least used colours for the others."""
    names, used = list(arms), Counter[str]()
    styles = {name: Style(_ARM_HUES[name]) for name in names if name in _ARM_HUES}
    used.update(style.colour for style in styles.values())
    for name in names:
        if name not in styles:
            hue = min(HUES, key=lambda hue: used[hue])
            styles[name] = Style(hue, used[hue])
            used[hue] += 1
    return styles


def estimates(
    label: str, style: Style, points: Sequence[tuple[float, Estimate]], banded: bool = True
) -> dict[str, Any]:
    """One series of estimates for `charts.js`.

    Args:
        label: name in the legend.
        style: appearance.
        points: (x, estimate) in increasing order of x.
        banded: whether to include the intervals.
    """
    x, low, value, high = zip(*((at, ras.low, ras.value, ras.high) for at, ras in points), strict=True)
    return series(label, style, x, value, **({"low": low, "high": high} if banded else {}))


def series(label: str, style: Style, x: Iterable[float], y: Iterable[float], **more: Iterable[float]) -> dict[str, Any]:
    """One series for `charts.js`, rounded to six significant digits.

    Args:
        label: name in the legend.
        style: appearance.
        x: N values.
        y: N values.
        **more: further values by name, N each: `low`, `high`, `raw`.
    """
    columns = {"x": x, "y": y, **more}
    values = {name: [float(f"{value:.6g}") for value in column] for name, column in columns.items()}
    return {"label": label, "colour": style.colour, "dash": style.dash, **values}


class Series(NamedTuple):
    """One curve of a chart in `charts.yaml`."""

    metric: str
    """Logged name; `reward_*/mean` matches all metrics of this form, labelled by the part that the star matches."""
    label: str = ""
    colour: str = "blue"
    """One of `HUES`."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Chart:
    """One chart of `charts.yaml`."""

    key: str
    """Unique on the page."""
    title: str
    note: str
    axis: str
    """Label of the vertical axis, with its unit."""
    series: tuple[Series, ...]
    kind: Literal["line", "stack"] = "line"
    """`stack` stacks the series, the first one at the bottom."""
    percent: bool = False
    """Whether the values are shares, to be shown in percent."""
    zero: str | None = None
    """Meaning of the dashed line at 0; None draws no line."""
    optional: bool = False
    """Whether the page stays silent if the chart was not logged."""
    least: int = 1
    """Fewest logged curves with which the chart is drawn."""


SECTIONS: dict[str, tuple[Chart, ...]] = TypeAdapter(dict[str, tuple[Chart, ...]]).validate_python(
    yaml.safe_load(files("grao.reports").joinpath("charts.yaml").read_text(encoding="utf-8"))
)
"""Heading -> charts, in the order of the page."""


class Curve(NamedTuple):
    """One series at the N steps that logged it."""

    series: Series
    steps: Array
    """(N,) step numbers."""
    values: Array
    """(N,) logged values."""
    smooth: Array
    """(N,) moving average of the values."""


def run_figures(metrics: Sequence[Step]) -> tuple[dict[str, list[Figure]], list[str]]:
    """Return the figures by section heading, and the titles of expected charts that were not logged."""
    sections, missing = {}, []
    for heading, charts in SECTIONS.items():
        logged = [(chart, curves(chart, metrics)) for chart in charts]
        if drawn := [_figure(chart, lines) for chart, lines in logged if len(lines) >= chart.least]:
            sections[heading] = drawn
        missing += [chart.title for chart, lines in logged if len(lines) < chart.least and not chart.optional]
    return sections, missing


def curves(chart: Chart, metrics: Sequence[Step]) -> list[Curve]:
    """Return the logged curves of a chart; a stack uses only the steps that logged all of its series."""
    names = dict.fromkeys(name for step in metrics for name in step)
    logged = [match for series in chart.series for match in _matching(series, names)]
    stacked = [series.metric for series in logged] if chart.kind == "stack" else []
    result = []
    for series in logged:
        needed = {series.metric, *stacked}
        complete = [(row, step) for row, step in enumerate(metrics, start=1) if step.keys() >= needed]
        if rows := [(step.get("step", row), step[series.metric]) for row, step in complete]:
            steps, values = np.array(rows, dtype=np.float64).T
            result.append(Curve(series, steps, values, moving_average(values, window(len(values)))))
    return result


def window(steps: int) -> int:
    """Width of the moving average in steps: an odd number, about a fifteenth of the run."""
    return steps // 15 // 2 * 2 + 1


def moving_average(values: Array, width: int) -> Array:
    """Centred mean over `width` neighbours, fewer at both ends: (N,) -> (N,).

    Example: width 3 over 1, 2, 6 gives 1.5, 3, 4.
    """
    inner = slice(width // 2, width // 2 + len(values))
    sums, counts = (np.convolve(part, np.ones(width))[inner] for part in (values, np.ones_like(values)))
    return sums / counts


def thin(values: Array, points: int = MOST_POINTS) -> Array:
    """Average neighbouring values so that at most `points` remain: (N,) -> (min(N, points),)."""
    return np.array([part.mean() for part in np.array_split(values, min(len(values), points))])


def _matching(series: Series, names: Iterable[str]) -> list[Series]:
    """The series if it was logged; for a pattern, one series per match, each in the next colour."""
    begin, star, end = series.metric.partition("*")
    matches = [name for name in names if fnmatchcase(name, series.metric)]
    if not star:
        return [series] * len(matches)
    labels = (name.removeprefix(begin).removesuffix(end) for name in matches)
    return list(map(Series, matches, labels, cycle(HUES)))


def _figure(chart: Chart, logged: Sequence[Curve]) -> Figure:
    styles = [Style(curve.series.colour) for curve in logged]
    drawing = {
        "kind": chart.kind,
        "link": "step",
        "x": {"label": "optimiser step"},
        "y": {"label": chart.axis, "percent": chart.percent, "zero": chart.zero is not None},
        "series": [
            series(curve.series.label, style, thin(curve.steps), thin(curve.smooth), raw=thin(curve.values))
            for curve, style in zip(logged, styles, strict=True)
        ],
    }
    legend = [
        Legend(curve.series.label, style, _change(chart, curve)) for curve, style in zip(logged, styles, strict=True)
    ]
    return Figure(chart.title, chart.note, drawing, legend, chart.zero)


def _change(chart: Chart, curve: Curve) -> str:
    """The first and the last value of the moving average, as text."""
    ends = [curve.smooth[0], *curve.smooth[1:][-1:]]
    return " to ".join(percent(end, 0) if chart.percent else number(end) for end in ends)
