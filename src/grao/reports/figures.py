"""What the charts of a page show, as plain values; `charts.js` draws them.

Which curves a run's page has stands in `charts.yaml`; here they are picked, smoothed and thinned.
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
"""Longer curves are drawn as means of neighbouring steps."""
HUES = ("blue", "orange", "teal", "purple", "ochre", "grey")
"""Of curves in turn; CSS variables of the page."""
_OF_ARMS = {"grao": "blue", "grpo": "orange", "grao-signed": "teal", "dpo": "purple", "ppo": "ochre", "sft": "grey"}
"""Arms that have the same colour on every page."""


class Style(NamedTuple):
    """How a curve looks."""

    colour: str
    """One of `HUES`."""
    dash: int = 0
    """0 is solid."""


class Legend(NamedTuple):
    """One entry of a legend."""

    label: str
    style: Style
    change: str
    """What became of it, in numbers."""


class Figure(NamedTuple):
    """A chart with its words."""

    title: str
    note: str
    drawing: dict[str, Any]
    """For `charts.js`: `kind`, `x` and `y` (axes), `series`."""
    legend: Sequence[Legend] = ()
    zero: str | None = None
    """What the dashed line at 0 stands for."""

    @property
    def spoken(self) -> str:
        """What a screen reader says."""
        ends = "; ".join(f"{entry.label} {entry.change}".strip() for entry in self.legend)
        return f"{self.title}: {ends or self.note}"


def arm_styles(arms: Iterable[str]) -> dict[str, Style]:
    """Name -> look. The paper's methods look alike on every page; other arms take what is used least, in order."""
    names, used = list(arms), Counter[str]()
    styles = {name: Style(_OF_ARMS[name]) for name in names if name in _OF_ARMS}
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
    """A series of estimates: (x, estimate), x rising; with `banded` their intervals too."""
    x, low, value, high = zip(*((at, ras.low, ras.value, ras.high) for at, ras in points), strict=True)
    return series(label, style, x, value, **({"low": low, "high": high} if banded else {}))


def series(label: str, style: Style, x: Iterable[float], y: Iterable[float], **more: Iterable[float]) -> dict[str, Any]:
    """One series for `charts.js`, to six significant digits."""
    values = {name: [float(f"{value:.6g}") for value in these] for name, these in {"x": x, "y": y, **more}.items()}
    return {"label": label, "colour": style.colour, "dash": style.dash, **values}


class Series(NamedTuple):
    """One curve."""

    metric: str
    """As logged; `reward_*/mean` stands for all metrics of this form, labelled by what the star stands for."""
    label: str = ""
    colour: str = "blue"
    """One of `HUES`."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Chart:
    """One figure with all its curves."""

    key: str
    """Unique on the page."""
    title: str
    note: str
    axis: str
    """Label of the vertical axis, with its unit."""
    series: tuple[Series, ...]
    kind: Literal["line", "stack"] = "line"
    """A stack is built from the first series upwards."""
    percent: bool = False
    """The values are shares."""
    zero: str | None = None
    """What the dashed line at 0 stands for; None draws none."""
    optional: bool = False
    """Not reported as missing where it was not logged."""
    least: int = 1
    """With fewer curves it is not drawn."""


SECTIONS: dict[str, tuple[Chart, ...]] = TypeAdapter(dict[str, tuple[Chart, ...]]).validate_python(
    yaml.safe_load(files("grao.reports").joinpath("charts.yaml").read_text(encoding="utf-8"))
)
"""Heading -> charts, in the order of the page."""


class Curve(NamedTuple):
    """One series over the steps at which it was logged."""

    series: Series
    steps: Array
    """(N,)."""
    values: Array
    """(N,)."""
    smooth: Array
    """(N,), the moving average."""


def run_figures(metrics: Sequence[Step]) -> tuple[dict[str, list[Figure]], list[str]]:
    """The figures by heading, and the titles of the charts that were expected but not logged."""
    sections, missing = {}, []
    for heading, charts in SECTIONS.items():
        logged = [(chart, curves(chart, metrics)) for chart in charts]
        if drawn := [_figure(chart, lines) for chart, lines in logged if len(lines) >= chart.least]:
            sections[heading] = drawn
        missing += [chart.title for chart, lines in logged if len(lines) < chart.least and not chart.optional]
    return sections, missing


def curves(chart: Chart, metrics: Sequence[Step]) -> list[Curve]:
    """The series of a chart that were logged; the parts of a stack at the steps that all of them have."""
    names = dict.fromkeys(name for step in metrics for name in step)
    logged = [match for series in chart.series for match in _matching(series, names)]
    together = [series.metric for series in logged] if chart.kind == "stack" else []
    result = []
    for series in logged:
        complete = [(at, step) for at, step in enumerate(metrics, start=1) if step.keys() >= {series.metric, *together}]
        if rows := [(step.get("step", at), step[series.metric]) for at, step in complete]:
            steps, values = np.array(rows, dtype=np.float64).T
            result.append(Curve(series, steps, values, moving_average(values, window(len(values)))))
    return result


def window(steps: int) -> int:
    """Steps that the moving average covers: an odd number, about a fifteenth of the run."""
    return steps // 15 // 2 * 2 + 1


def moving_average(values: Array, width: int) -> Array:
    """Centred mean over `width` neighbours, fewer at both ends: (N,) -> (N,).

    Example: width 3 over 1, 2, 6 gives 1.5, 3, 4.
    """
    inner = slice(width // 2, width // 2 + len(values))
    sums, counts = (np.convolve(part, np.ones(width))[inner] for part in (values, np.ones_like(values)))
    return sums / counts


def thin(values: Array, points: int = MOST_POINTS) -> Array:
    """At most `points` means of neighbours: (N,) -> (min(N, points),)."""
    return np.array([part.mean() for part in np.array_split(values, min(len(values), points))])


def _matching(series: Series, names: Iterable[str]) -> list[Series]:
    """The series if it was logged; of a pattern one series for each match, in turning colours."""
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
    """The moving average at both ends."""
    ends = [curve.smooth[0], *curve.smooth[1:][-1:]]
    return " to ".join(percent(end, 0) if chart.percent else number(end) for end in ends)
