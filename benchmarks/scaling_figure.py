"""The figure of `scaling`: panels with logarithmic axes, dots for measured values, lines for expected ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from figure_style import COLORS, STYLE
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

_PHASES = {"update": "purple", "rollout": "teal"}
_LABELS = {
    "G": "samples per prompt, G",
    "prompt": "tokens per prompt",
    "completion": "tokens per completion",
    "weights": "weights in the layers",
}
_TITLES = {"prompt": "prompt length", "completion": "completion length", "weights": "model size"}


@dataclass(frozen=True)
class Curve:
    """The cost of one phase of a step along one axis, with its fit."""

    axis: str
    phase: str
    x: list[float]
    seconds: list[float]
    expected: list[float]
    per_operation: float
    """Fitted seconds per operation."""
    per_pass: float
    """Fitted seconds per forward pass."""
    repeated: list[float]
    """Expected seconds with the prompt counted for every sample; only along G."""
    padded: list[float]
    """Seconds with the padded engine, for the smallest G; only for the update along G."""

    def slope(self, values: Sequence[float]) -> float:
        """Slope in logarithmic axes."""
        return float(np.polyfit(np.log(self.x), np.log(values), 1)[0])


@dataclass(frozen=True)
class Peaks:
    """Peak memory of an update: a row for each token budget, a column for each number of samples."""

    budgets: list[int]
    samples: list[int]
    tokens: list[list[int]]
    """Tokens of the longest micro-batch."""
    mebibytes: list[list[float]]
    """Peak above weights and gradients."""
    repeated: list[int]
    """Tokens of the whole step with every prompt repeated."""

    def unbounded(self) -> list[float]:
        """Return the MiB of a step in one batch with every prompt repeated, extrapolated from memory per token."""
        slope, rest = np.polyfit(np.ravel(self.tokens), np.ravel(self.mebibytes), 1)
        return [float(slope * tokens + rest) for tokens in self.repeated]


def figure(curves: Sequence[Curve], peaks: Peaks) -> Figure:
    """Draw update and rollout against G, memory, and both phases against each other axis."""
    by_axis = {name: [curve for curve in curves if curve.axis == name] for name in _LABELS}
    with mpl.rc_context(STYLE):
        drawing = Figure(figsize=(12, 7.4), dpi=130, facecolor=COLORS["paper"], layout="constrained")
        drawing.get_layout_engine().set(w_pad=0.1, h_pad=0.12)
        panels = drawing.subplots(2, 3).ravel()
        for axes, curve in zip(panels[:2], by_axis["G"], strict=True):
            _dashed(axes, curve.x, curve.repeated, "expected with the prompt repeated")
            if curve.padded:
                axes.plot(curve.x[: len(curve.padded)], curve.padded, "D", **_color("orange"), label="padded engine")
            _measured(axes, curve)
            _finish(axes, f"{curve.phase.capitalize()} against G", _LABELS["G"], curve.x)
        _memory(panels[2], peaks)
        for axes, name in zip(panels[3:], _TITLES, strict=True):
            for curve in by_axis[name]:
                _measured(axes, curve)
            _finish(axes, f"Both against {_TITLES[name]}", _LABELS[name], by_axis[name][0].x)
    return drawing


def _measured(axes: Axes, curve: Curve) -> None:
    """Draw the measured dots and the fitted line."""
    color = _PHASES[curve.phase]
    line = "expected from operations" if curve.repeated else None
    slopes = f"slope {curve.slope(curve.seconds):.2f}, expected {curve.slope(curve.expected):.2f}"
    axes.plot(curve.x, curve.expected, color=COLORS[color], linewidth=1.3, alpha=0.6, label=line)
    axes.plot(curve.x, curve.seconds, "o", **_color(color), label=f"{curve.phase}: {slopes}")


def _memory(axes: Axes, peaks: Peaks) -> None:
    _dashed(axes, peaks.samples, peaks.unbounded(), "prompts repeated, one batch, computed")
    for budget, row, color in zip(peaks.budgets, peaks.mebibytes, ("blue", "teal", "ochre", "purple"), strict=True):
        axes.plot(peaks.samples, row, "o-", **_color(color), linewidth=1.3)
        axes.annotate(
            f"budget {budget:,}", (peaks.samples[-1], row[-1]), (7, 0), textcoords="offset points",
            color=COLORS[color], va="center", annotation_clip=False,
        ).set_in_layout(False)  # fmt: skip
    _finish(axes, "Peak memory of the update", _LABELS["G"], peaks.samples)
    axes.set_ylabel("MiB above weights and gradients")
    axes.set_xlim(right=peaks.samples[-1] * 5)


def _dashed(axes: Axes, x: Sequence[float], values: Sequence[float], label: str) -> None:
    axes.plot(x, values, color=COLORS["grey"], linestyle=(0, (4, 3)), linewidth=1.3, label=label)


def _color(name: str) -> dict[str, Any]:
    return {"color": COLORS[name], "markersize": 4.5}


def _finish(axes: Axes, title: str, label: str, x: Sequence[float]) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_title(title)
    axes.set_xlabel(label)
    axes.set_ylabel("seconds per step")
    axes.set_xticks(x, [_tick(value) for value in x])
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * (high / low) ** 0.2)  # room for the legend
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_locator(NullLocator())
    axes.legend(loc="upper left", frameon=False, fontsize=8.5, handlelength=1.6, borderaxespad=0.2)


def _tick(value: float) -> str:
    """`0.3`, `64`, `1,024`, `5.7M`."""
    return f"{value / 1e6:.2g}M" if value >= 1e5 else f"{value:,.5g}"
