"""The figure of `theory`: direction, decay, what happens to the reference, and what that costs other prompts."""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from figure_style import COLOURS, STYLE
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from torch import Tensor

_STYLE = {**STYLE, "legend.frameon": False, "legend.fontsize": 8.5}
SHOWN = 150
"""Steps of the last panel; after them nothing happens."""
_ARMS = {
    "joint signed": ("orange", "-"),
    "samples signed": ("ochre", (0, (4, 2))),
    "joint positive": ("blue", "-"),
    "samples positive": ("teal", (0, (4, 2))),
    "GRPO": ("purple", "-"),
}
"""Arm -> colour and dashes."""


@dataclass(frozen=True)
class Curve:
    """One line."""

    name: str
    x: list[float]
    y: list[float]


@dataclass(frozen=True)
class Panels:
    """What is drawn."""

    cosines: dict[str, dict[str, Tensor]]
    """Prompt -> arm -> cosine to grad E[R] at many policies."""
    decay: Sequence[Curve]
    """Least |F|^2 against T; names are `prompt, arm`."""
    pushed: Sequence[Curve]
    """log pi(y) against steps, one for each arm."""
    kept: dict[str, list[Curve]]
    """Arm -> pi(y) of the prompt that needs it, against steps, one for each share of won prompts."""


def figure(panels: Panels) -> Figure:
    """Two rows of two."""
    with mpl.rc_context(_STYLE):
        drawing = Figure(figsize=(11, 7.6), dpi=130, facecolor=COLOURS["paper"], layout="constrained")
        drawing.get_layout_engine().set(w_pad=0.12, h_pad=0.12)
        (direction, decay), (pushed, kept) = drawing.subplots(2, 2)
        _direction(direction, panels.cosines)
        _decay(decay, panels.decay)
        _pushed(pushed, panels.pushed)
        _kept(kept, panels.kept)
    return drawing


def _direction(axes: Axes, cosines: dict[str, dict[str, Tensor]]) -> None:
    """Median, middle 90 % and least of every arm, prompts below each other."""
    arms = [arm for arm in _ARMS if arm in next(iter(cosines.values()))]
    for row, by_arm in enumerate(cosines.values()):
        for place, arm in enumerate(arms):
            y = row + 0.15 * (place - (len(arms) - 1) / 2)
            values, colour = by_arm[arm].numpy(), COLOURS[_ARMS[arm][0]]
            low, middle, high = np.quantile(values, [0.05, 0.5, 0.95])
            axes.plot([low, high], [y, y], color=colour, linewidth=1.8, alpha=0.5)
            axes.plot(values.min(), y, "|", color=colour, markersize=5)
            axes.plot(middle, y, "o", color=colour, markersize=4, label=arm if row == 0 else None)
    axes.set_yticks(range(len(cosines)), list(cosines))
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_title("Direction: cosine of F and grad E[R]")
    axes.set_xlabel("median, 5th to 95th percentile and least of many policies")
    axes.legend(loc="upper left")


def _decay(axes: Axes, curves: Sequence[Curve]) -> None:
    shown = {
        "verdict, y best, joint signed": ("purple", "y best, joint signed"),
        "verdict, y beaten, joint positive": ("blue", "y beaten, joint positive"),
        "verdict, y beaten, joint signed": ("orange", "y beaten, joint signed"),
    }
    for curve in curves:
        if curve.name in shown:
            colour, label = shown[curve.name]
            axes.plot(curve.x, curve.y, "o-", color=COLOURS[colour], markersize=4, linewidth=1.5, label=label)
    x = np.array(curves[0].x)
    axes.plot(
        x,
        curves[0].y[0] * (x / x[0]) ** -0.5,
        color=COLOURS["grey"],
        linestyle=(0, (4, 3)),
        label="the bound's rate, 1/√T",
    )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(x, [f"{value:,.0f}" for value in x])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_title("Decay: least |F|² of runs with step 1/√T")
    axes.set_xlabel("steps, T")
    axes.legend(loc="best")


def _pushed(axes: Axes, curves: Sequence[Curve]) -> None:
    for curve in curves:
        colour, dashes = _ARMS[curve.name]
        axes.plot(curve.x, curve.y, color=COLOURS[colour], linestyle=dashes, linewidth=1.7, label=curve.name)
    axes.set_title("The reference once it is beaten: log π(y)")
    axes.set_xlabel("steps θ += F / 4, verdict, y beaten")
    axes.legend(loc="lower left")


def _kept(axes: Axes, kept: dict[str, list[Curve]]) -> None:
    for arm in ("joint positive", "joint signed"):
        for curve, dashes in zip(kept[arm], ("-", (0, (5, 2)), (0, (1, 1.5))), strict=True):
            label = f"{arm}, {curve.name}"
            x, y = curve.x[:SHOWN], curve.y[:SHOWN]
            axes.plot(x, y, color=COLOURS[_ARMS[arm][0]], linestyle=dashes, linewidth=1.5, label=label)
    axes.set_ylim(-0.03, 1.03)
    axes.set_title("What it costs: π(y) where y is the best answer")
    axes.set_xlabel("steps θ += F / 10; prompts already won : prompts that need y")
    axes.legend(loc="center right", bbox_to_anchor=(1.0, 0.58))
