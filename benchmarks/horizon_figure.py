"""Draws RAS over counted work for the arms of `studies/horizon-weak` and `studies/horizon-able`.

    python benchmarks/horizon_figure.py docs/horizon.png

Lines are means over seeds, dots the evaluations. The axis is logarithmic: methods change places early and late.
"""

import sys
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
from figure_style import COLORS, STYLE
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from grao.records.study import StudyResult
from grao.studies.study import recorded_result

STUDIES = Path(__file__).resolve().parents[1] / "studies"
LINES = {
    "sft": ("SFT", "grey", "-"),
    "dpo": ("DPO", "grey", ":"),
    "ppo": ("PPO", "ochre", "-"),
    "grpo": ("GRPO", "blue", "-"),
    "grao": ("GRAO", "orange", "-"),
    "sft-grpo": ("SFT, then GRPO", "teal", "-"),
    "auto": ("auto", "purple", "--"),
    "grpo-no-kl": ("GRPO without KL", "blue", "--"),
}
"""Name, color and line style of each arm."""
BASES = {"weak": "right one time in ten", "able": "right half the time"}


def main(path: str) -> None:
    """Write the figure to `path`."""
    with mpl.rc_context(STYLE):
        figure, panels = plt.subplots(1, 2, figsize=(10, 4), sharex=True, layout="constrained")
        for axes, (base, title) in zip(panels, BASES.items(), strict=True):
            result = recorded_result(STUDIES / f"horizon-{base}")
            if result is None:
                raise SystemExit(f"studies/horizon-{base} holds no records")
            _draw(axes, result)
            axes.set_title(f"base model {title}")
        panels[0].set_ylabel("answers that beat the reference (RAS)")
        figure.legend(*panels[0].get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=8)
        figure.savefig(path, dpi=110, facecolor=COLORS["paper"])


def _draw(axes: Axes, result: StudyResult) -> None:
    curves = {band.arm: band.points[1:] for band in result.curves}
    for arm, (name, color, style) in LINES.items():
        if points := curves.get(arm):
            work, ras = [point.work for point in points], [point.ras.value for point in points]
            axes.plot(work, ras, style, color=COLORS[color], linewidth=1.8, marker="o", markersize=3, label=name)
    axes.set(xscale="log", xlabel="counted work, seconds", ylim=(0, None))
    axes.set_xticks([45, 90, 180, 450], ["45", "90", "180", "450"])
    axes.set_xticks([], minor=True)
    axes.yaxis.set_major_formatter(PercentFormatter(1, 0))


if __name__ == "__main__":
    main(sys.argv[1])
