"""Drawings as inline SVG in one look, and the curves of a run's page.

Colours are CSS variables with a light default, so that a page can turn dark. Which curves there are stands in
`charts.yaml`; here they are picked, smoothed and drawn.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from importlib.resources import files
from io import StringIO
from itertools import cycle
from typing import Any, Literal, NamedTuple

import matplotlib.figure
import numpy as np
import numpy.typing as npt
import yaml
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator
from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass

from grao.records.numbers import Estimate
from grao.records.run import Step
from grao.reports.tables import number, percent
from grao.visible import visible

Array = npt.NDArray[np.float64]

MOST_POINTS = 240
"""Longer curves are drawn as means of neighbouring steps."""
COLOURS = {
    "blue": "#0067a8",
    "orange": "#c2500a",
    "teal": "#00806d",
    "purple": "#7d4cc2",
    "ochre": "#a97400",
    "grey": "#858d96",
    "ink": "#30363d",
    "muted": "#5b636d",
    "rule": "#e2e4e8",
    "paper": "#fdfdfc",
}
"""Name of the CSS variable -> its light value; the page holds the dark ones."""

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "grao",
    "font.family": "DejaVu Sans",
    "font.size": 10,
    **dict.fromkeys(("axes.edgecolor", "grid.color"), COLOURS["rule"]),
    **dict.fromkeys(("axes.labelcolor", "xtick.color", "ytick.color"), COLOURS["muted"]),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "axes.spines.left"), False),
    **dict.fromkeys(("xtick.major.size", "ytick.major.size"), 0),
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.linewidth": 0.7,
    "lines.solid_capstyle": "round",
    "text.parse_math": False,
}


HUES = ("blue", "orange", "teal", "purple", "ochre", "grey")
"""Of curves in turn, names of `COLOURS`."""
DASHED = (0, (4, 3))
"""The line style of what curves are compared with."""
_DASHES: tuple[Any, ...] = ("solid", (0, (5, 2)), (0, (1, 1.5)))


class Legend(NamedTuple):
    """One entry of a legend."""

    label: str
    colour: str
    """A name of `COLOURS`."""
    change: str
    """What became of it, in numbers."""


class Figure(NamedTuple):
    """A drawing with its words."""

    title: str
    note: str
    svg: Markup
    legend: Sequence[Legend] = ()
    zero: str | None = None
    """What the dashed line at 0 stands for."""


class ArmLine(NamedTuple):
    """RAS of one arm along an axis, with its band."""

    number: int
    """Of the arm, from 0, which decides its colour and dashes."""
    points: Sequence[tuple[float, Estimate]]
    """(x, RAS), x rising."""
    banded: bool = True

    @property
    def hue(self) -> str:
        """A name of `COLOURS`."""
        return HUES[self.number % len(HUES)]

    def paint(self, axes: Axes, **style: Any) -> None:
        """Draws band and line. The first six arms are solid, the next six dashed, then dotted."""
        colour, dashes = COLOURS[self.hue], _DASHES[self.number // len(HUES) % len(_DASHES)]
        x, lows, values, highs = np.array([(at, ras.low, ras.value, ras.high) for at, ras in self.points]).T
        if self.banded:
            axes.fill_between(x, lows.clip(0), highs.clip(max=1), facecolor=(colour, 0.14), linewidth=0)
        axes.plot(x, values, color=colour, linewidth=1.9, linestyle=dashes, **style)


def paint_arms(axes: Axes, lines: Iterable[ArmLine], label: str, **style: Any) -> None:
    """RAS of several arms over an axis with this label."""
    for line in lines:
        line.paint(axes, **style)
    axes.set(xlabel=label, ylabel="RAS, strict wins (%)", ylim=(0, None))
    axes.yaxis.set_major_formatter(ticks(shares=True))


def picture(paint: Callable[[Axes], None], key: str, label: str) -> Markup:
    """What `paint` draws as an `<svg>` element in the style of the page.

    Args:
        paint: draws with colours of `COLOURS` and names the axes.
        key: of this picture alone on its page.
        label: what a screen reader says.
    """
    with matplotlib.rc_context(STYLE):
        figure = matplotlib.figure.Figure(figsize=(4.9, 2.75), facecolor="none")
        figure.subplots_adjust(left=0.165, right=0.98, bottom=0.21, top=0.965)
        axes = figure.add_subplot(facecolor="none")
        paint(axes)
        axes.yaxis.set_label_coords(-0.155, 0.5)
        text = StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    return _inline(text.getvalue(), key, label)


def ticks(shares: bool = False) -> FuncFormatter:
    """How the numbers at an axis are written; shares in percent."""
    return FuncFormatter(lambda value, _: _tick(100 * value if shares else value).replace("-", "\N{MINUS SIGN}"))


def _tick(value: float) -> str:
    """`0.25`, `2,500`, `120k`, `1.2M`, without the noise of a rounding error around 0."""
    if abs(value) >= 1e4:
        return f"{value / 1e6:.6g}M" if abs(value) >= 1e6 else f"{value / 1e3:.6g}k"
    return f"{round(value, 10) + 0.0:,.6g}"


def _inline(svg: str, key: str, label: str) -> Markup:
    """Keeps the drawing only: no XML header, metadata, style sheet or size; names of its own; colours by variable.

    Only `label` may hold text of a run, and it is escaped.
    """
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    opening, _, body = re.sub(r'(?:xlink:)?(id="|url\(#|href="#)', rf"\1{key}-", svg).partition(">")
    box = re.search(r'viewBox="[^"]*"', opening)
    for name, colour in COLOURS.items():
        body = body.replace(colour, f"var(--{name}, {colour})")
    body = re.sub(r"<[^>]+>", lambda tag: re.sub(r"(\.\d\d)\d+", r"\1", tag.group()), body)  # places, not texts
    return Markup(visible(f'<svg {box.group() if box else ""} role="img" aria-label="{escape(label)}">{body}'))


class Series(NamedTuple):
    """One curve."""

    metric: str
    """As logged; `reward_*/mean` stands for all metrics of this form, labelled by what the star stands for."""
    label: str = ""
    colour: str = "blue"
    """A name of `COLOURS`."""


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
    legend = [Legend(curve.series.label, curve.series.colour, _change(chart, curve)) for curve in logged]

    def paint(axes: Axes) -> None:
        (_stack if chart.kind == "stack" else _lines)(axes, chart, logged)
        axes.set(xlabel="optimiser step", ylabel=chart.axis)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
        axes.yaxis.set_major_formatter(ticks(chart.percent))

    spoken = "; ".join(f"{entry.label} {entry.change}" for entry in legend)
    svg = picture(paint, chart.key, f"{chart.title}: {spoken}.")
    return Figure(chart.title, chart.note, svg, legend, chart.zero)


def _change(chart: Chart, curve: Curve) -> str:
    """The moving average at both ends."""
    ends = [curve.smooth[0], *curve.smooth[1:][-1:]]
    return " to ".join(percent(end, 0) if chart.percent else number(end) for end in ends)


def _lines(axes: Axes, chart: Chart, curves: Sequence[Curve]) -> None:
    for curve in curves:
        colour, steps = COLOURS[curve.series.colour], thin(curve.steps)
        axes.plot(steps, thin(curve.values), color=colour, linewidth=0.8, alpha=0.4)
        axes.plot(steps, thin(curve.smooth), color=colour, linewidth=1.9)
        if len(steps) == 1:
            axes.plot(steps, curve.values, "o", color=colour, markersize=4)
    if chart.zero is not None:
        axes.axhline(0, color=COLOURS["muted"], linewidth=0.9, linestyle=DASHED)
    if chart.percent:
        axes.set_ylim(0, max(0.05, *(float(curve.values.max()) for curve in curves)) * 1.05)


def _stack(axes: Axes, chart: Chart, curves: Sequence[Curve]) -> None:
    steps = thin(curves[0].steps)
    if len(steps) == 1:
        steps = steps + np.array([-0.5, 0.5])
    floor = np.zeros_like(steps)
    for curve in curves:
        top = floor + thin(curve.smooth)
        fill = (COLOURS[curve.series.colour], 0.88)
        axes.fill_between(steps, floor, top, facecolor=fill, edgecolor=COLOURS["paper"], linewidth=0.8)
        floor = top
    axes.set(xlim=(steps[0], steps[-1]), ylim=(0, 1 if chart.percent else floor.max() * 1.05 or 1))
