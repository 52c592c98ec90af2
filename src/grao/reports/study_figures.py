"""The curves of a study: RAS of every arm over steps, reward calls and seconds, with bands over seeds."""

from collections.abc import Callable, Sequence

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from grao.records.study import Band, BandPoint, StudyResult
from grao.reports.blocks import Figure, Legend
from grao.reports.figures import COLOURS, picture, ticks
from grao.reports.words import level, percent

HUES = ("blue", "orange", "teal", "purple", "ochre", "grey")
"""Of the arms in turn; the next six are dashed, and so on."""
_DASHES: tuple[object, ...] = ("solid", (0, (5, 2)), (0, (1, 1.5)))

_AXES: tuple[tuple[str, str, str, Callable[[BandPoint], float]], ...] = (
    ("steps", "By optimiser steps", "optimiser steps", lambda point: point.step),
    ("calls", "By reward calls", "rewards asked for", lambda point: point.reward_calls),
    ("seconds", "By time", "seconds of training", lambda point: point.seconds),
)


def hue(number: int) -> str:
    """Of the arm with this number, a name of `COLOURS`."""
    return HUES[number % len(HUES)]


def dash(number: int) -> object:
    """The line style of the arm with this number."""
    return _DASHES[number // len(HUES) % len(_DASHES)]


def study_figures(result: StudyResult) -> list[Figure]:
    """One chart a horizontal axis, over the arms that move on it; none where only start and end were evaluated."""
    bands = [band for band in result.curves if len(band.points) > 1]
    found = []
    for key, title, axis, place in _AXES:
        moving = [band for band in bands if place(band.points[-1]) > 0]
        if moving:
            found.append(_figure(result, key, title, axis, place, moving))
    return found


def _figure(
    result: StudyResult, key: str, title: str, axis: str, place: Callable[[BandPoint], float], bands: Sequence[Band]
) -> Figure:
    order = [arm.arm for arm in result.arms]
    legend = [
        Legend(band.arm, hue(order.index(band.arm)), percent(band.points[-1].ras.value, result.prompts))
        for band in bands
    ]
    seeds = max(point.ras.n for band in bands for point in band.points)
    note = f"Bands: {level(result.confidence)} over seeds." if seeds > 1 else "One seed, so there are no bands."
    absent = [arm for arm in order if arm not in {band.arm for band in bands}]
    if absent:
        note += f" Not on this axis: {', '.join(absent)}."
    spoken = "; ".join(f"{entry.label} ends at {entry.change}" for entry in legend)
    svg = _draw(key, axis, place, bands, order, f"RAS {title.lower()}: {spoken}.")
    return Figure(title, note, legend, None, svg)


def _draw(
    key: str,
    axis: str,
    place: Callable[[BandPoint], float],
    bands: Sequence[Band],
    order: Sequence[str],
    label: str,
) -> Markup:
    def paint(axes: Axes) -> None:
        for band in bands:
            number = order.index(band.arm)
            colour = COLOURS[hue(number)]
            x = [place(point) for point in band.points]
            if any(point.ras.n > 1 for point in band.points):
                low = [max(point.ras.low, 0.0) for point in band.points]
                high = [min(point.ras.high, 1.0) for point in band.points]
                axes.fill_between(x, low, high, facecolor=(colour, 0.14), linewidth=0)
            values = [point.ras.value for point in band.points]
            axes.plot(x, values, color=colour, linewidth=1.9, linestyle=dash(number))
        axes.set_xlabel(axis)
        axes.set_ylabel("RAS, strict wins (%)")
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
        axes.xaxis.set_major_formatter(ticks())
        axes.yaxis.set_major_formatter(ticks(percent=True))

    return picture(paint, key, label)
