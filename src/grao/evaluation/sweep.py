"""From the records of a sweep's runs to what is said of it: the main arm against each other one, point by point."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from grao.evaluation.clusters import over_seeds
from grao.evaluation.outcomes import wins
from grao.evaluation.significance import holm, sign_flip
from grao.evaluation.study import comparisons
from grao.records.cell import CellRecord
from grao.records.study import Change, Comparison, Place, Sweep


def sweep_result(
    places: Sequence[Place], axes: Sequence[str], runs: Mapping[str, Sequence[CellRecord]], main: str, confidence: float
) -> Sweep:
    """Contrasts at every point, corrected over all points, and how they change from the first point to the last.

    Args:
        places: of all arms, in order.
        axes: their names.
        runs: name of a place -> its finished runs; some may lack.
        main: the arm that all others are set against.
        confidence: nominal coverage of the intervals.
    """
    points = list(dict.fromkeys(tuple(place.point) for place in places))
    at = {point: [place for place in places if tuple(place.point) == point] for point in points}
    contrasts = [one for point in points for one in _contrasts(at[point], runs, main, confidence)]
    changes = _changes(at[points[0]], at[points[-1]], runs, main, confidence) if len(axes) == 1 else []
    return Sweep(list(axes), list(places), _corrected(contrasts), changes)


def _contrasts(
    places: Sequence[Place], runs: Mapping[str, Sequence[CellRecord]], main: str, confidence: float
) -> list[Comparison]:
    names = {place.arm: place.name for place in places if place.name in runs}
    if main not in names:
        return []
    return comparisons({name: runs[name] for name in names.values()}, names[main], confidence)


def _corrected(contrasts: Sequence[Comparison]) -> list[Comparison]:
    """Holm over all points, where `comparisons` knows those of one point."""
    prompts = holm({one.other: one.p_prompts for one in contrasts})
    seeds = holm({one.other: one.p_seeds for one in contrasts if one.p_seeds is not None})
    return [
        replace(one, p_prompts_corrected=prompts[one.other], p_seeds_corrected=seeds.get(one.other))
        for one in contrasts
    ]


def _changes(
    first: Sequence[Place],
    last: Sequence[Place],
    runs: Mapping[str, Sequence[CellRecord]],
    main: str,
    confidence: float,
) -> list[Change]:
    found = []
    for other in dict.fromkeys(place.arm for place in first if place.arm != main):
        begin, end = (_leads(places, runs, main, other) for places in (first, last))
        seeds = sorted(begin.keys() & end.keys())
        if len(seeds) > 1:
            moved = [end[seed] - begin[seed] for seed in seeds]
            found.append(Change(other, over_seeds(moved, confidence), sign_flip(moved)))
    corrected = holm({one.other: one.p_seeds for one in found})
    return [replace(one, p_seeds=corrected[one.other]) for one in found]


def _leads(
    places: Sequence[Place], runs: Mapping[str, Sequence[CellRecord]], main: str, other: str
) -> dict[int, float]:
    """Seed -> RAS of the main arm less that of the other, at one point."""
    names = {place.arm: place.name for place in places}
    one, two = (
        {run.key.seed: float(np.nanmean(wins(run.outcomes.after))) for run in runs.get(names[arm], ()) if run.outcomes}
        for arm in (main, other)
    )
    return {seed: one[seed] - two[seed] for seed in one.keys() & two.keys()}
