"""The results of a sweep: lines along one axis or maps over two, comparisons at every point, and sentences."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from grao.config.arms import last_part
from grao.records.numbers import Estimate, Tested
from grao.records.study import ArmResult, Comparison, GridPosition, StudyResult, Sweep
from grao.reports import tables
from grao.reports.figures import Figure, Legend, arm_styles, estimates
from grao.reports.tables import Table, interval_over_seeds, p_value, percent, plain_table, points, share

_SHADES = 8
"""Shades of a map besides white, which is shade 0; `style.css` defines as many."""
_ABILITY, _MODEL = "sandbox.ability", "sandbox.seed"
_MEASURES = {"ras": "RAS, strict wins", "ras_win_or_tie": "Win-or-tie rate", "right": "Correct answers"}
"""Field of `ArmResult` -> title."""


class Map(NamedTuple):
    """A table whose cells are shaded by their values."""

    title: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[tuple[str, int]]]]
    """(row label, cells); a cell is (text, shade), shades count from 0."""


def sweep_headline(result: StudyResult, sweep: Sweep) -> str:
    """Count the points at which each arm is best; for a single arm, name its best point."""
    best: dict[tuple[str, ...], tuple[float, str]] = {}
    for arm, place in _placed(result, sweep):
        reached = (arm.ras.over_prompts.value, place.arm)
        best[tuple(place.point)] = max(best.get(tuple(place.point), reached), reached, key=lambda pair: pair[0])
    if len(_arms(sweep)) == 1:
        point, (value, only) = max(best.items(), key=lambda pair: pair[1][0])
        best_point = " and ".join(f"{axis} = {label}" for axis, label in zip(sweep.axes, point, strict=True))
        return (
            f"After {result.budget}, {only} beats the reference most often at {best_point}: on "
            f"{percent(value, result.prompts)} of {result.prompts:,} held-out prompts."
        )
    counts = Counter(arm for _, arm in best.values()).most_common()
    where = {name: f"all {count}" if count == len(best) else f"{count} of {len(best)}" for name, count in counts}
    leaders = ", ".join(f"{name} at {count} points" for name, count in where.items())
    over_both = all(contrast.both for contrast in sweep.contrasts)
    ps = [contrast.both.p_corrected if contrast.both else contrast.p_prompts_corrected for contrast in sweep.contrasts]
    pairs = zip(sweep.contrasts, ps, strict=True)
    significant = [contrast for contrast, p in pairs if p <= 1 - result.confidence]
    up = sum(contrast.difference.over_prompts.value > 0 for contrast in significant)
    return (
        f"After {result.budget}, these arms beat the reference most often: {leaders}. {result.main} differs "
        f"significantly from another arm at the same point in {len(significant)} of {len(sweep.contrasts)} comparisons "
        f"({'for new prompts and new training runs' if over_both else 'over prompts'}): ahead in {up}, behind in "
        f"{len(significant) - up}."
    )


def sweep_sentences(result: StudyResult, sweep: Sweep) -> Iterator[str]:
    """The range of the main arm's lead over each other arm, and the limits of the tests, one sentence each."""
    arm_of = {place.name: place.arm for place in sweep.places}
    for other in (arm for arm in _arms(sweep) if arm != result.main):
        leads = [contrast.both for contrast in sweep.contrasts if arm_of[contrast.other] == other]
        tested = [lead.simultaneous for lead in leads if lead]
        if tested and len(tested) == len(leads):
            least, most = (points(pick(lead.value for lead in tested), result.prompts) for pick in (min, max))
            lowest = points(min(lead.low for lead in tested), result.prompts)
            yield (
                f"{result.main} minus {other}: {least} to {most} points across the sweep. The lowest simultaneous "
                f"confidence bound, for new prompts and new training runs, is {lowest} points."
            )
    needed = tables.seeds_needed(len(sweep.contrasts), 1 - result.confidence) if sweep.contrasts else 0
    fewest = min((len(contrast.seeds) for contrast in sweep.contrasts), default=0)
    if fewest < needed:
        yield (
            f"With {fewest} seed{'s' * (fewest > 1)}, no test over seeds alone can be significant after Holm's "
            f"correction for {len(sweep.contrasts)} comparisons; it takes {needed} seeds."
        )
    if sweep.below:
        worse = sum(below.ras.p_corrected <= 1 - result.confidence for below in sweep.below)
        count = f"{worse or 'none'} of the {len(sweep.below)} other points {'is' if worse < 2 else 'are'}"
        yield f"For new prompts and new training runs, {count} significantly below the best, {sweep.below[0].best}."
    if _ABILITY in sweep.axes and _MODEL not in sweep.axes:
        yield (
            "Each ability is a single pretrained model here, so changes along the axis may be chance differences "
            f"between these models; add {_MODEL} as a second axis to find out."
        )


def sweep_figures(result: StudyResult, sweep: Sweep) -> list[Figure]:
    """One figure per measure with the lines of all arms; empty for two axes (see `sweep_maps`)."""
    return [_lines(result, sweep, measure) for measure in _shown(result)] if len(sweep.axes) == 1 else []


def _shown(result: StudyResult) -> list[str]:
    """Fields of the measures that all arms have."""
    return [measure for measure in _MEASURES if all(vars(arm)[measure] for arm in result.arms)]


def sweep_tables(result: StudyResult, sweep: Sweep) -> list[Table]:
    """Tables of the values, of the main arm's lead at every point, and of how that lead changes along the axis."""
    places = {place.name: (", ".join(place.point), place.arm) for place in sweep.places}
    confidence, axes, n = f"{tables.level(result.confidence)} CI", ", ".join(map(last_part, sweep.axes)), result.prompts
    first, last = (", ".join(sweep.places[index].point) for index in (0, -1))
    leads = ((lead.other, lead.change, p_value(lead.p_seeds)) for lead in sweep.changes)
    over = sweep.changes[0].over if sweep.changes else "seeds"
    return [
        *(_values(result, sweep, measure) for measure in _shown(result)),
        plain_table(
            f"{result.main} minus another arm at the same point, over prompts and seeds: simultaneous intervals for "
            f"all {len(sweep.contrasts)} comparisons (Bonferroni), Holm-adjusted p",
            [axes, "against", "RAS", confidence, "p", "win or tie", confidence, "p"],
            [[*places[lead.other], *both_cells(lead, n, at_once=True)] for lead in sweep.contrasts if lead.both],
        ),
        plain_table(
            f"RAS of {result.main} minus that of another arm at the same point; Holm-adjusted p",
            [axes, "against", "points", f"{confidence} over prompts", "p", f"{confidence} over seeds", "p"],
            [[*places[contrast.other], *difference_cells(contrast, n)] for contrast in sweep.contrasts],
        ),
        plain_table(
            f"Change of the lead of {result.main} from {axes} {first} to {last}; Holm-adjusted p",
            ["against", "points", f"{confidence} over {over}", "p"],
            [[other, points(lead.value, n), in_points(lead, n), p] for other, lead, p in leads],
        ),
        plain_table(
            "RAS minus that of the best point, over prompts and seeds: simultaneous intervals for all pairs of points "
            "(Bonferroni), Holm-adjusted p",
            [axes, "points", confidence, "p"],
            [[places[below.name][0], *difference_and_p(below.ras, n, at_once=True)] for below in sweep.below],
        ),
    ]


def both_cells(compared: Comparison, prompts: int, at_once: bool = False) -> list[str]:
    """Cells with difference, interval and p-value over prompts and seeds, for RAS and then for win or tie."""
    tested = (compared.both, compared.win_or_tie)
    return [cell for each in tested if each for cell in difference_and_p(each, prompts, at_once)]


def difference_and_p(tested: Tested, prompts: int, at_once: bool = False) -> list[str]:
    """Cells with the difference in points, its pointwise or simultaneous (`at_once`) interval, and its p-value."""
    shown = tested.simultaneous if at_once else tested.difference
    return [points(shown.value, prompts), in_points(shown, prompts), p_value(tested.p_corrected)]


def difference_cells(compared: Comparison, prompts: int) -> list[str]:
    """Cells with the difference in points, then interval and p-value over prompts and over seeds."""
    over, seeds = compared.difference.over_prompts, compared.difference.over_seeds
    over_prompts = [points(over.value, prompts), in_points(over, prompts), p_value(compared.p_prompts_corrected)]
    over_seeds = [in_points(seeds, prompts), p_value(compared.p_seeds_corrected)]
    return over_prompts + over_seeds


def in_points(estimate: Estimate | None, prompts: int) -> str:
    """The interval of a difference in points: `+2.4 to +7.8`; `one seed` without an estimate."""
    return interval_over_seeds(estimate, prompts, signed=True).removesuffix(" %")


def _arms(sweep: Sweep) -> list[str]:
    """Distinct arm names within the sweep, in order."""
    return list(dict.fromkeys(place.arm for place in sweep.places))


def _placed(result: StudyResult, sweep: Sweep) -> Iterator[tuple[ArmResult, GridPosition]]:
    """The finished arms, each with its place in the sweep."""
    results = {arm.arm: arm for arm in result.arms}
    yield from ((results[place.name], place) for place in sweep.places if place.name in results)


def _values(result: StudyResult, sweep: Sweep, measure: str) -> Table:
    """Table of one measure for every arm at every point; RAS also before training."""
    arms = _arms(sweep)
    reached = {(tuple(place.point), place.arm): arm for arm, place in _placed(result, sweep)}
    rows = []
    for point in dict.fromkeys(tuple(place.point) for place in sweep.places):
        at_point = [reached.get((point, arm)) for arm in arms]
        before = [share(arm.before.over_prompts) for arm in at_point if arm][:1] or [""]
        values = ["" if arm is None else share(vars(arm)[measure].over_prompts) for arm in at_point]
        rows.append([", ".join(point), *(before if measure == "ras" else []), *values])
    title = f"{_MEASURES[measure]}, mean over seeds" if result.seeds > 1 else _MEASURES[measure]
    axes = ", ".join(map(last_part, sweep.axes))
    return plain_table(title, [axes, *(["before"] if measure == "ras" else []), *arms], rows)


def _lines(result: StudyResult, sweep: Sweep, measure: str) -> Figure:
    labels = list(dict.fromkeys(place.point[0] for place in sweep.places))
    try:
        positions, numeric = {label: float(label) for label in labels}, True
    except ValueError:
        positions, numeric = {label: float(index) for index, label in enumerate(labels)}, False
    places, arms = positions.values(), _arms(sweep)
    logarithmic = numeric and min(places) > 0 and max(places) >= 8 * min(places)
    drawn, legend, styles = [], [], arm_styles(arms)
    for name in arms:
        values = [(place.point[0], vars(arm)[measure]) for arm, place in _placed(result, sweep) if place.arm == name]
        if values:
            by_x = sorted(((positions[label], value) for label, value in values), key=lambda point: point[0])
            bars = [(x, value.over_both or value.over_prompts) for x, value in by_x]
            drawn.append(estimates(name, styles[name], bars))
            highest = max(value.over_prompts.value for _, value in by_x)
            legend.append(Legend(name, styles[name], f"best {percent(highest, result.prompts)}"))
    ticks = None if numeric and not logarithmic else list(positions.items())
    bars_over = "over prompts and seeds" if result.seeds > 1 else "over prompts"
    drawing = {
        "kind": "points",
        "joined": True,
        "x": {"label": sweep.axes[0], "log": logarithmic, "ticks": ticks},
        "y": {"label": f"{_MEASURES[measure]} (%)", "percent": True},
        "series": drawn,
    }
    title = f"{_MEASURES[measure]} along {sweep.axes[0]}"
    level = tables.level(result.confidence)
    return Figure(title, f"Bars: pointwise {level} confidence intervals {bars_over}.", drawing, legend)


def sweep_maps(result: StudyResult, sweep: Sweep) -> list[Map]:
    """One map per measure and arm over the two axes; empty for a sweep with one axis.

    Maps of RAS show Holm-adjusted p-values: with one arm against the best cell, with several arms against the main
    arm at the same point.
    """
    if len(sweep.axes) == 1:
        return []
    compared = {lead.other: lead.both.p_corrected for lead in sweep.contrasts if lead.both}
    ps = {"ras": compared | {below.name: below.ras.p_corrected for below in sweep.below}}
    return [
        _map(result, sweep, arm, measure, ps.get(measure, {})) for measure in _shown(result) for arm in _arms(sweep)
    ]


def _map(result: StudyResult, sweep: Sweep, name: str, measure: str, ps: Mapping[str, float]) -> Map:
    rows, columns = (list(dict.fromkeys(place.point[axis] for place in sweep.places)) for axis in (0, 1))
    reached = {
        (place.arm, *place.point): (vars(arm)[measure].over_prompts.value, ps.get(place.name))
        for arm, place in _placed(result, sweep)
    }
    highest = max((value for value, _ in reached.values()), default=0.0) or 1.0

    def shaded(row: str, column: str) -> tuple[str, int]:
        value, p = reached.get((name, row, column), (None, None))
        if value is None:
            return "", 0
        words = percent(value, result.prompts) + (f", p\N{NO-BREAK SPACE}{p_value(p)}" if p is not None else "")
        return words, round(_SHADES * max(value, 0) / highest)

    title = f"{name}: {_MEASURES[measure]}"
    return Map(title, columns, [(row, [shaded(row, column) for column in columns]) for row in rows])
