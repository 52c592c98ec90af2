"""The figure of `theory`: direction, decay, the fate of a beaten reference, and its cost for other prompts."""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from figure_style import COLORS, STYLE
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from torch import Tensor

_STYLE = {**STYLE, "legend.frameon": False, "legend.fontsize": 8.5}
LAST_STEPS = 150
"""Steps of the last panel; nothing changes afterwards."""
_ARMS = {
    "joint signed": ("orange", "-"),
    "samples signed": ("ochre", (0, (4, 2))),
    "joint positive": ("blue", "-"),
    "samples positive": ("teal", (0, (4, 2))),
    "GRPO": ("purple", "-"),
}
"""Arm -> color and line style."""


@dataclass(frozen=True)
class Curve:
    """One line of a panel."""

    name: str
    x: list[float]
    y: list[float]


@dataclass(frozen=True)
class Panels:
    """Data of the four panels."""

    cosines: dict[str, dict[str, Tensor]]
    """Prompt -> arm -> cosine to grad E[R] at many policies."""
    decay: Sequence[Curve]
    """Least |F|^2 against T; names are `prompt, arm`."""
    pushed: Sequence[Curve]
    """log pi(y) of a beaten reference against steps, one for each arm."""
    needed: dict[str, list[Curve]]
    """Arm -> pi(y) of the prompt that needs y, against steps, one for each share of prompts that beat it."""


def figure(panels: Panels) -> Figure:
    """Draw four panels in two rows."""
    with mpl.rc_context(_STYLE):
        drawing = Figure(figsize=(11, 7.6), dpi=130, facecolor=COLORS["paper"], layout="constrained")
        drawing.get_layout_engine().set(w_pad=0.12, h_pad=0.12)
        (direction, decay), (pushed, needed) = drawing.subplots(2, 2)
        _direction(direction, panels.cosines)
        _decay(decay, panels.decay)
        _pushed(pushed, panels.pushed)
        _needed(needed, panels.needed)
    return drawing


def _direction(axes: Axes, cosines: dict[str, dict[str, Tensor]]) -> None:
    """Draw median, middle 90 % and minimum of every arm, with a row for each prompt."""
    arms = [arm for arm in _ARMS if arm in next(iter(cosines.values()))]
    for row, by_arm in enumerate(cosines.values()):
        for index, arm in enumerate(arms):
            y = row + 0.15 * (index - (len(arms) - 1) / 2)
            values, color = by_arm[arm].numpy(), COLORS[_ARMS[arm][0]]
            low, middle, high = np.quantile(values, [0.05, 0.5, 0.95])
            axes.plot([low, high], [y, y], color=color, linewidth=1.8, alpha=0.5)
            axes.plot(values.min(), y, "|", color=color, markersize=5)
            axes.plot(middle, y, "o", color=color, markersize=4, label=arm if row == 0 else None)
    axes.set_yticks(range(len(cosines)), list(cosines))
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_title("Direction: cosine of F and grad E[R]")
    axes.set_xlabel("median, 5th to 95th percentile and minimum over policies")
    axes.legend(loc="upper left")


def _decay(axes: Axes, curves: Sequence[Curve]) -> None:
    shown = {
        "verdict, y best, joint signed": ("purple", "y best, joint signed"),
        "verdict, y beaten, joint positive": ("blue", "y beaten, joint positive"),
        "verdict, y beaten, joint signed": ("orange", "y beaten, joint signed"),
    }
    for curve in curves:
        if curve.name in shown:
            color, label = shown[curve.name]
            axes.plot(curve.x, curve.y, "o-", color=COLORS[color], markersize=4, linewidth=1.5, label=label)
    x = np.array(curves[0].x)
    axes.plot(
        x,
        curves[0].y[0] * (x / x[0]) ** -0.5,
        color=COLORS["grey"],
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
        color, dashes = _ARMS[curve.name]
        axes.plot(curve.x, curve.y, color=COLORS[color], linestyle=dashes, linewidth=1.7, label=curve.name)
    axes.set_title("The reference once it is beaten: log π(y)")
    axes.set_xlabel("steps θ += F / 4, verdict, y beaten")
    axes.legend(loc="lower left")


def _needed(axes: Axes, needed: dict[str, list[Curve]]) -> None:
    for arm in ("joint positive", "joint signed"):
        for curve, dashes in zip(needed[arm], ("-", (0, (5, 2)), (0, (1, 1.5))), strict=True):
            label = f"{arm}, {curve.name}"
            x, y = curve.x[:LAST_STEPS], curve.y[:LAST_STEPS]
            axes.plot(x, y, color=COLORS[_ARMS[arm][0]], linestyle=dashes, linewidth=1.5, label=label)
    axes.set_ylim(-0.03, 1.03)
    axes.set_title("What it costs: π(y) where y is the best answer")
    axes.set_xlabel("steps θ += F / 10; prompts that beat y : prompts that need y")
    axes.legend(loc="center right", bbox_to_anchor=(1.0, 0.58))
