"""The two pictures of an audit: calibration, and the rewards of the model's samples prompt by prompt."""

from collections.abc import Sequence

from markupsafe import Markup
from matplotlib.axes import Axes

from grao.records.audit import Calibration, GroupItem
from grao.reports.figures import COLOURS, picture, ticks
from grao.reports.words import percent

_DASHED = (0, (4, 3))


def calibration_picture(found: Calibration, key: str) -> Markup:
    """Accuracy over confidence, a point and its interval for each bin; the diagonal is a judge that knows itself."""

    def paint(axes: Axes) -> None:
        confidence = [one.confidence for one in found.bins]
        accuracy = [one.accuracy.value for one in found.bins]
        below = [one.accuracy.value - one.accuracy.low for one in found.bins]
        above = [one.accuracy.high - one.accuracy.value for one in found.bins]
        axes.plot([0.5, 1], [0.5, 1], color=COLOURS["muted"], linewidth=0.9, linestyle=_DASHED)
        axes.errorbar(confidence, accuracy, (below, above), fmt="o", color=COLOURS["blue"], markersize=4, linewidth=1.2)
        axes.set_xlim(0.48, 1.02)
        axes.set_ylim(min(0.48, *(one.accuracy.low for one in found.bins)) - 0.02, 1.02)
        axes.set_xlabel("confidence (%)")
        axes.set_ylabel("accuracy (%)")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(ticks(percent=True))

    spoken = "; ".join(
        f"{percent(one.confidence, 0)} sure, {percent(one.accuracy.value, 0)} right" for one in found.bins
    )
    return picture(paint, key, f"Calibration: {spoken}.")


def groups_picture(groups: Sequence[GroupItem], key: str) -> Markup:
    """From lowest to highest reward of each group with its mean, prompts in the order of the means."""
    scored = [[reward for reward in group.rewards if reward is not None] for group in groups]
    rows = sorted((sum(rewards) / len(rewards), min(rewards), max(rewards)) for rewards in scored if rewards)

    def paint(axes: Axes) -> None:
        means, lows, highs = zip(*rows, strict=True)
        places = range(1, len(rows) + 1)
        axes.vlines(places, lows, highs, color=COLOURS["grey"], linewidth=1.1)
        axes.plot(places, means, "o", color=COLOURS["blue"], markersize=3)
        axes.axhline(0, color=COLOURS["muted"], linewidth=0.9, linestyle=_DASHED)
        axes.set_xlabel("prompts, by their mean")
        axes.set_ylabel("reward minus the reference's")
        axes.yaxis.set_major_formatter(ticks())

    beaten = sum(mean > 0 for mean, _, _ in rows)
    return picture(paint, key, f"Rewards of {len(rows)} groups; the mean of {beaten} lies above the reference.")
