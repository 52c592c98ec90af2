"""The record of `overoptimisation.py`, and its figure."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from figure_style import COLORS, STYLE
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

_STYLE = {**STYLE, "font.size": 10, "axes.titlesize": 11, "axes.grid.axis": "y", "lines.solid_capstyle": "round"}
WINDOW = 3
"""Number of checks that `watch` averages, and this file too."""
_REWARDS = {"proxy": "blue", "gold": "orange"}
_LABELS = {"proxy": ("learned reward", -34), "gold": ("gold judge", -34)}
"""Label of a curve, and its vertical offset in points."""
_TITLES = (
    "Trained on the learned reward (signed)",
    "Control: trained on the gold judge",
    "Learned reward, sign: positive",
    "The same against KL divergence",
)
_ALARM_HEIGHTS = (0.0, 1.06, 1.14)
"""Height of the marks of each kind of alarm."""


@dataclass(frozen=True)
class Peak:
    """Maximum of a smoothed curve."""

    step: int
    """Last check of the averaged window: the earliest step at which the value is known."""
    value: float


@dataclass(frozen=True)
class Case:
    """A training reward and a sign policy."""

    trained_on: str
    """`model` or `gold`; the other one watches."""
    sign: str
    """`method.sign`."""


HACKED, POSITIVE, CONTROL = CASES = Case("model", "signed"), Case("model", "positive"), Case("gold", "signed")


@dataclass(frozen=True)
class Curve:
    """One run: values at every check. Win rates count ties half."""

    case: Case
    seed: int
    steps: list[int]
    first: list[float]
    """Win rate by the reward that is trained on."""
    second: list[float]
    """Win rate by the one that watches."""
    kl: list[float]
    """KL divergence from the initial model in nats: mean per token times mean length of the answers."""
    reward: list[float]
    """Mean R by the reward that is trained on."""
    repetition: list[float]
    alarm: list[int]
    """`grao.records.run.Alarm` after each check."""

    @property
    def proxy(self) -> list[float]:
        """Win rate by the learned reward."""
        return self.first if self.case.trained_on == "model" else self.second

    @property
    def gold(self) -> list[float]:
        """Win rate by the gold judge."""
        return self.second if self.case.trained_on == "model" else self.first

    def peak(self) -> Peak:
        """Peak of the smoothed win rate by the gold judge."""
        means = smooth(self.gold)
        index = int(means.argmax())
        return Peak(self.steps[index + WINDOW - 1], float(means[index]))

    def ends(self, values: list[float]) -> tuple[float, float]:
        """Means of the first and the last window."""
        means = smooth(values)
        return float(means[0]), float(means[-1])

    def first_alarm(self, kind: int) -> int | None:
        """Step of the first check with this alarm; None if there is none or a more serious one came earlier."""
        first = next(((step, alarm) for step, alarm in zip(self.steps, self.alarm, strict=True) if alarm >= kind), None)
        return first[0] if first and first[1] == kind else None


@dataclass(frozen=True)
class Study:
    """The record: settings, reward models and runs."""

    setting: dict[str, Any]
    models: list[dict[str, float]]
    """Scores of the reward model of each seed."""
    curves: list[Curve]

    def write(self, file: Path) -> None:
        """Write JSON, numbers rounded to four places."""
        file.write_text(json.dumps(_rounded(asdict(self))) + "\n")

    @classmethod
    def read(cls, file: Path) -> "Study":
        """Read what `write` wrote."""
        record = json.loads(file.read_text())
        return cls(
            record["setting"],
            record["models"],
            [Curve(**curve | {"case": Case(**curve["case"])}) for curve in record["curves"]],
        )


def smooth(values: list[float]) -> np.ndarray:
    """Return means over `WINDOW` consecutive checks."""
    return np.convolve(values, np.full(WINDOW, 1 / WINDOW), "valid")


def figure(study: Study) -> Figure:
    """Draw both win rates over steps by case, and over KL for `positive`, where texts stay intact (Gao et al.)."""
    by_case = {case: [curve for curve in study.curves if curve.case == case] for case in CASES}
    with mpl.rc_context(_STYLE):
        drawing = Figure(figsize=(9, 7.2), dpi=160, facecolor=COLORS["paper"], layout="constrained")
        drawing.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
        panels = drawing.subplots(2, 2, sharey=True).ravel()
        for axes, title in zip(panels, _TITLES, strict=True):
            axes.set_title(title)
            axes.set_ylim(0, _ALARM_HEIGHTS[2] + 0.05)
            axes.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1])
            axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        _over_steps(panels[0], by_case[HACKED])
        _over_steps(panels[1], by_case[CONTROL])
        _over_steps(panels[2], by_case[POSITIVE])
        _over_distance(panels[3], by_case[POSITIVE])
        _label(panels[0], by_case[HACKED])
        for axes in panels[::2]:
            axes.set_ylabel("samples that beat the reference")
    return drawing


def _over_steps(axes: Axes, curves: list[Curve]) -> None:
    """Draw mean and range over seeds, and above them each seed's alarms."""
    steps = curves[0].steps
    for name, color in _REWARDS.items():
        values = np.array([getattr(curve, name) for curve in curves])
        axes.fill_between(steps, values.min(axis=0), values.max(axis=0), color=COLORS[color], alpha=0.18, linewidth=0)
        axes.plot(steps, values.mean(axis=0), color=COLORS[color], linewidth=2.2)
    _alarms(axes, curves, lambda curve: curve.steps)
    axes.set_xlabel("optimizer step")
    axes.set_xlim(0, steps[-1] + 1)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))


def _over_distance(axes: Axes, curves: list[Curve]) -> None:
    """Draw each seed's smoothed win rates over the root of its KL divergence, which grows differently in each."""
    for curve in curves:
        for name, color in _REWARDS.items():
            values = smooth(getattr(curve, name))
            axes.plot(np.sqrt(smooth(curve.kl)), values, color=COLORS[color], linewidth=1.5, alpha=0.8)
    _alarms(axes, curves, lambda curve: [0.0] * (WINDOW - 1) + np.sqrt(smooth(curve.kl)).tolist())
    axes.set_xlabel("root of the KL divergence (in nats per answer)")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(5))


def _alarms(axes: Axes, curves: list[Curve], x_of: Callable[[Curve], list[float]]) -> None:
    """Draw a hollow mark at the first `drifted apart` alarm, a filled one at the first `hacked` alarm."""
    for kind, filled in ((1, False), (2, True)):
        for curve in curves:
            if (step := curve.first_alarm(kind)) is not None:
                axes.plot(
                    x_of(curve)[curve.steps.index(step)], _ALARM_HEIGHTS[kind], "v", markersize=6.5, clip_on=False,
                    color=COLORS["ink"], markerfacecolor=COLORS["ink"] if filled else COLORS["paper"],
                )  # fmt: skip


def _label(axes: Axes, curves: list[Curve]) -> None:
    """Write labels next to the curves and the marks."""
    for name, (text, lift) in _LABELS.items():
        values = np.mean([getattr(curve, name) for curve in curves], axis=0)
        index = len(values) // 3
        axes.annotate(
            text, (curves[0].steps[index], values[index]), (0, lift), textcoords="offset points",
            color=COLORS[_REWARDS[name]], weight="bold", va="center",
        )  # fmt: skip
    for kind, text in ((1, "watch: drifted apart"), (2, "watch: hacked")):
        axes.text(1, _ALARM_HEIGHTS[kind], text, color=COLORS["ink"], va="center", fontsize=9)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return round(value, 4) if isinstance(value, float) else value
