"""The numbers that a chart draws: picked from the log, smoothed, thinned."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from grao.records.metrics import Step
from grao.reports.charts import Chart, Series

Array = npt.NDArray[np.float64]

MOST_POINTS = 240
"""Longer curves are drawn as means of neighbouring steps."""


@dataclass(frozen=True)
class Curve:
    """One series over the steps at which it was logged."""

    series: Series
    steps: Array
    """(N,)."""
    values: Array
    """(N,)."""
    smooth: Array
    """(N,), the moving average."""


def curves(chart: Chart, metrics: Sequence[Step]) -> list[Curve]:
    """The series of a chart that were logged; those of a stack at the steps that all of them have."""
    logged = [series for series in chart.series if any(series.metric in step for step in metrics)]
    together = [series.metric for series in logged] if chart.kind == "stack" else []
    found = []
    for series in logged:
        needed = (series.metric, *together)
        rows = [
            (step.get("step", index), step[series.metric])
            for index, step in enumerate(metrics, start=1)
            if all(name in step for name in needed)
        ]
        if rows:
            steps, values = np.array(rows, dtype=np.float64).T
            found.append(Curve(series, steps, values, moving_average(values, window(len(values)))))
    return found


def window(steps: int) -> int:
    """Steps that the moving average covers: an odd number, about a fifteenth of the run."""
    return steps // 15 // 2 * 2 + 1


def moving_average(values: Array, width: int) -> Array:
    """Centred mean over `width` neighbours, fewer at both ends: (N,) -> (N,).

    Example: width 3 over 1, 2, 6 gives 1.5, 3, 4.
    """
    ones = np.ones(width)
    half = width // 2
    sums = np.convolve(values, ones)[half : half + len(values)]
    counts = np.convolve(np.ones_like(values), ones)[half : half + len(values)]
    return sums / counts


def thin(values: Array, points: int = MOST_POINTS) -> Array:
    """At most `points` means of neighbours: (N,) -> (min(N, points),)."""
    if len(values) <= points:
        return values
    return np.array([part.mean() for part in np.array_split(values, points)])
