"""One chart as inline SVG. Its colours are CSS variables with a light default, so the page can turn them dark."""

import re
from collections.abc import Callable, Sequence
from io import StringIO
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from grao.reports.charts import Chart
from grao.reports.curves import Curve, thin

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
    "axes.edgecolor": COLOURS["rule"],
    "axes.labelcolor": COLOURS["muted"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": COLOURS["rule"],
    "grid.linewidth": 0.7,
    "xtick.color": COLOURS["muted"],
    "ytick.color": COLOURS["muted"],
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "figure.subplot.left": 0.165,
    "figure.subplot.right": 0.98,
    "figure.subplot.bottom": 0.21,
    "figure.subplot.top": 0.965,
    "lines.solid_capstyle": "round",
}


def draw(chart: Chart, curves: Sequence[Curve], label: str) -> Markup:
    """The chart as an `<svg>` element without size, script or outside reference; equal input, equal text.

    Args:
        chart: what is drawn.
        curves: its curves, at least one, each with at least one step.
        label: what a screen reader says.
    """

    def paint(axes: Axes) -> None:
        (_stack if chart.kind == "stack" else _lines)(axes, chart, curves)
        axes.set_xlabel("optimiser step")
        axes.set_ylabel(chart.axis)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
        axes.yaxis.set_major_formatter(ticks(chart.percent))

    return picture(paint, chart.key, label)


def picture(paint: Callable[[Axes], None], key: str, label: str) -> Markup:
    """What `paint` draws as an `<svg>` element in the style of the page.

    Args:
        paint: draws with colours of `COLOURS` and names the axes.
        key: of this picture alone on its page.
        label: what a screen reader says.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.9, 2.75), facecolor="none")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot(facecolor="none")
        paint(axes)
        axes.yaxis.set_label_coords(-0.155, 0.5)
        text = StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    return inline(text.getvalue(), key, label)


def ticks(percent: bool = False) -> FuncFormatter:
    """How the numbers at an axis are written."""
    return FuncFormatter(lambda value, _: tick(100 * value if percent else value))


def _lines(axes: Axes, chart: Chart, curves: Sequence[Curve]) -> None:
    for curve in curves:
        colour, steps = COLOURS[curve.series.colour], thin(curve.steps)
        axes.plot(steps, thin(curve.values), color=colour, linewidth=0.8, alpha=0.4)
        axes.plot(steps, thin(curve.smooth), color=colour, linewidth=1.9)
        if len(steps) == 1:
            axes.plot(steps, curve.values, "o", color=colour, markersize=4)
    if chart.zero is not None:
        axes.axhline(0, color=COLOURS["muted"], linewidth=0.9, linestyle=(0, (4, 3)))
    if chart.percent:
        axes.set_ylim(0, max(0.05, *(float(curve.values.max()) for curve in curves)) * 1.05)


def _stack(axes: Axes, chart: Chart, curves: Sequence[Curve]) -> None:
    steps = thin(curves[0].steps)
    if len(steps) == 1:
        steps = steps + np.array([-0.5, 0.5])
    floor = np.zeros_like(steps)
    for curve in curves:
        top = floor + thin(curve.smooth)
        axes.fill_between(
            steps, floor, top, facecolor=(COLOURS[curve.series.colour], 0.88), edgecolor=COLOURS["paper"], linewidth=0.8
        )
        floor = top
    axes.set_xlim(float(steps[0]), float(steps[-1]))
    axes.set_ylim(0, 1 if chart.percent else float(floor.max()) * 1.05 or 1)


def tick(value: float) -> str:
    """`0.25`, `2,500`, `120k`, `1.2M`, without the noise of a rounding error around 0."""
    if abs(value) >= 1e4:
        text = f"{value / 1e6:.6g}M" if abs(value) >= 1e6 else f"{value / 1e3:.6g}k"
    else:
        text = f"{round(value, 10) + 0.0:,.6g}"
    return text.replace("-", "\N{MINUS SIGN}")


def inline(svg: str, key: str, label: str) -> Markup:
    """Keeps the drawing only: no XML header, metadata, style sheet or size; names of its own; colours by variable.

    Only `label` may hold text of a run, and it is escaped.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(id="|url\(#|xlink:href="#)', rf"\1{key}-", svg)
    body = svg[svg.index(">") + 1 :].replace("xlink:href", "href")
    box = re.search(r'viewBox="[^"]*"', svg)
    for name, colour in COLOURS.items():
        body = body.replace(colour, f"var(--{name}, {colour})")
    body = re.sub(r"<[^>]+>", lambda tag: re.sub(r"(\.\d\d)\d+", r"\1", tag.group()), body)  # places, not texts
    opening = f'<svg {box.group() if box else ""} role="img" aria-label="{escape(label)}">'
    return Markup(opening + body)
