"""The record of `overoptimisation`, and its figure."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from figure_style import COLOURS, STYLE
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

_STYLE = {**STYLE, "font.size": 10, "axes.titlesize": 11, "axes.grid.axis": "y", "lines.solid_capstyle": "round"}
WINDOW = 3
"""Looks that the watch averages; so does this file."""
_REWARDS = {"proxy": "blue", "gold": "orange"}
_NAMES = {"proxy": ("learned reward", -34), "gold": ("gold judge", -34)}
"""Text, and points above its curve."""
_TITLES = (
    "Trained on the learned reward (signed)",
    "Control: trained on the gold judge",
    "Learned reward, sign: positive",
    "The same by distance from the start",
)
_RAILS = (0.0, 1.06, 1.14)
"""Height of the marks of each kind of alarm."""


@dataclass(frozen=True)
class Peak:
    """Where a smoothed curve stood highest."""

    step: int
    """Last of the looks that are averaged: when it could be known."""
    value: float


@dataclass(frozen=True)
class Case:
    """What is trained on, and how."""

    trained_on: str
    """`model` or `gold`; the other one looks on."""
    sign: str
    """`method.sign`."""


HACKED, POSITIVE, CONTROL = CASES = Case("model", "signed"), Case("model", "positive"), Case("gold", "signed")


@dataclass(frozen=True)
class Curve:
    """One run, look by look. Shares are of samples that beat the reference, ties half."""

    case: Case
    seed: int
    steps: list[int]
    first: list[float]
    """By the reward that is trained on."""
    second: list[float]
    """By the one that looks on."""
    kl: list[float]
    """Nats from the model before training: mean per token times mean length of the answers."""
    reward: list[float]
    """Mean of R by the reward that is trained on."""
    repetition: list[float]
    alarm: list[int]
    """`grao.records.run.Alarm` after each look."""

    @property
    def proxy(self) -> list[float]:
        """By the learned reward."""
        return self.first if self.case.trained_on == "model" else self.second

    @property
    def gold(self) -> list[float]:
        """By the gold judge."""
        return self.second if self.case.trained_on == "model" else self.first

    def peak(self) -> Peak:
        """Of gold, over windows as the watch's."""
        means = smooth(self.gold)
        place = int(means.argmax())
        return Peak(self.steps[place + WINDOW - 1], float(means[place]))

    def ends(self, values: list[float]) -> tuple[float, float]:
        """First and last window."""
        means = smooth(values)
        return float(means[0]), float(means[-1])

    def first_alarm(self, kind: int) -> int | None:
        """Step of the first look with this alarm; None if there is none, or a graver one came before."""
        seen = next((look for look in zip(self.steps, self.alarm, strict=True) if look[1] >= kind), None)
        return seen[0] if seen and seen[1] == kind else None


@dataclass(frozen=True)
class Study:
    """All that is kept."""

    setting: dict[str, Any]
    models: list[dict[str, float]]
    """A reward model each seed."""
    curves: list[Curve]

    def write(self, file: Path) -> None:
        """As JSON, numbers to four places."""
        file.write_text(json.dumps(_rounded(asdict(self))) + "\n")

    @classmethod
    def read(cls, file: Path) -> "Study":
        """What `write` wrote."""
        record = json.loads(file.read_text())
        return cls(
            record["setting"],
            record["models"],
            [Curve(**curve | {"case": Case(**curve["case"])}) for curve in record["curves"]],
        )


def smooth(values: list[float]) -> np.ndarray:
    """Means of neighbouring looks."""
    return np.convolve(values, np.full(WINDOW, 1 / WINDOW), "valid")


def figure(study: Study) -> Figure:
    """Both rewards over steps in each case; over distance where the text does not break up (Gao et al., figure 1)."""
    by_case = {case: [curve for curve in study.curves if curve.case == case] for case in CASES}
    with mpl.rc_context(_STYLE):
        drawing = Figure(figsize=(9, 7.2), dpi=160, facecolor=COLOURS["paper"], layout="constrained")
        drawing.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
        panels = drawing.subplots(2, 2, sharey=True).ravel()
        for axes, title in zip(panels, _TITLES, strict=True):
            axes.set_title(title)
            axes.set_ylim(0, _RAILS[2] + 0.05)
            axes.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1])
            axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        _over_steps(panels[0], by_case[HACKED])
        _over_steps(panels[1], by_case[CONTROL])
        _over_steps(panels[2], by_case[POSITIVE])
        _over_distance(panels[3], by_case[POSITIVE])
        _explain(panels[0], by_case[HACKED])
        for axes in panels[::2]:
            axes.set_ylabel("samples that beat the reference")
    return drawing


def _over_steps(axes: Axes, curves: list[Curve]) -> None:
    """Mean and range over seeds, and above them when the watch spoke in each."""
    steps = curves[0].steps
    for name, colour in _REWARDS.items():
        seen = np.array([getattr(curve, name) for curve in curves])
        axes.fill_between(steps, seen.min(axis=0), seen.max(axis=0), color=COLOURS[colour], alpha=0.18, linewidth=0)
        axes.plot(steps, seen.mean(axis=0), color=COLOURS[colour], linewidth=2.2)
    _alarms(axes, curves, lambda curve: curve.steps)
    axes.set_xlabel("optimiser step")
    axes.set_xlim(0, steps[-1] + 1)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))


def _over_distance(axes: Axes, curves: list[Curve]) -> None:
    """Each seed, means of three looks, over the root of its KL divergence, which does not grow alike in all of them."""
    for curve in curves:
        for name, colour in _REWARDS.items():
            values = smooth(getattr(curve, name))
            axes.plot(np.sqrt(smooth(curve.kl)), values, color=COLOURS[colour], linewidth=1.5, alpha=0.8)
    _alarms(axes, curves, lambda curve: [0.0] * (WINDOW - 1) + np.sqrt(smooth(curve.kl)).tolist())
    axes.set_xlabel("root of the KL divergence (in nats per answer)")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(5))


def _alarms(axes: Axes, curves: list[Curve], places: Callable[[Curve], list[float]]) -> None:
    """A hollow mark where the gap was first found to have grown, a full one where the reward was called hacked."""
    for kind, filled in ((1, False), (2, True)):
        for curve in curves:
            if (step := curve.first_alarm(kind)) is not None:
                axes.plot(
                    places(curve)[curve.steps.index(step)], _RAILS[kind], "v", markersize=6.5, clip_on=False,
                    color=COLOURS["ink"], markerfacecolor=COLOURS["ink"] if filled else COLOURS["paper"],
                )  # fmt: skip


def _explain(axes: Axes, curves: list[Curve]) -> None:
    """Names beside the curves and the marks."""
    for name, (text, lift) in _NAMES.items():
        values = np.mean([getattr(curve, name) for curve in curves], axis=0)
        place = len(values) // 3
        axes.annotate(
            text, (curves[0].steps[place], values[place]), (0, lift), textcoords="offset points",
            color=COLOURS[_REWARDS[name]], weight="bold", va="center",
        )  # fmt: skip
    for kind, text in ((1, "watch: drifted apart"), (2, "watch: hacked")):
        axes.text(1, _RAILS[kind], text, color=COLOURS["ink"], va="center", fontsize=9)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return round(value, 4) if isinstance(value, float) else value
