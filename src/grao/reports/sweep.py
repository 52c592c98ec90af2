"""What a sweep shows: lines along one axis or a map of two, the leads of the main arm at every point, and words."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from grao.config.arms import short
from grao.records.numbers import Estimate, Tested
from grao.records.study import ArmResult, Comparison, Place, StudyResult, Sweep
from grao.reports import tables
from grao.reports.figures import Figure, Legend, arm_styles, estimates
from grao.reports.tables import Table, interval_over_seeds, p_value, percent, plain_table, points, share

_SHADES = 8
"""From white to the darkest cell of a map; `style.css` has as many."""
_ABILITY, _MODEL = "sandbox.ability", "sandbox.seed"
_MEASURES = {"ras": "RAS, strict wins", "ras_win_or_tie": "Win or tie", "right": "Right answers"}
"""Field of `ArmResult` -> title."""


class Map(NamedTuple):
    """A table whose cells are shaded by their values."""

    title: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[tuple[str, int]]]]
    """(label, cells), a cell (text, shade from 0)."""


def sweep_headline(result: StudyResult, sweep: Sweep) -> str:
    """Which arm reaches most at how many points; of a single arm, where it does best."""
    best: dict[tuple[str, ...], tuple[float, str]] = {}
    for arm, place in _placed(result, sweep):
        reached = (arm.ras.over_prompts.value, place.arm)
        best[tuple(place.point)] = max(best.get(tuple(place.point), reached), reached, key=lambda pair: pair[0])
    if len(_arms(sweep)) == 1:
        point, (value, only) = max(best.items(), key=lambda pair: pair[1][0])
        there = " and ".join(f"{axis} {label}" for axis, label in zip(sweep.axes, point, strict=True))
        return (
            f"After {result.budget} {only} beats the reference most often at {there}: on "
            f"{percent(value, result.prompts)} of {result.prompts:,} held-out prompts."
        )
    ahead = Counter(arm for _, arm in best.values()).most_common()
    where = {name: f"all {count}" if count == len(best) else f"{count} of {len(best)}" for name, count in ahead}
    told = ", ".join(f"{name} at {places} points" for name, places in where.items())
    several = all(contrast.both for contrast in sweep.contrasts)
    ps = [contrast.both.p_corrected if contrast.both else contrast.p_prompts_corrected for contrast in sweep.contrasts]
    pairs = zip(sweep.contrasts, ps, strict=True)
    sure = [contrast for contrast, p in pairs if p <= 1 - result.confidence]
    up = sum(contrast.difference.over_prompts.value > 0 for contrast in sure)
    return (
        f"After {result.budget} the reference is beaten most often by {told}. {result.main} is clear of another arm at "
        f"the same point, {'for new prompts and new trainings at once' if several else 'over prompts'}, in {len(sure)} "
        f"of {len(sweep.contrasts)} comparisons: ahead in {up}, behind in {len(sure) - up}."
    )


def sweep_sentences(result: StudyResult, sweep: Sweep) -> Iterator[str]:
    """How far the main arm is ahead of each other one, and what so many seeds can tell."""
    arm_of = {place.name: place.arm for place in sweep.places}
    for other in (arm for arm in _arms(sweep) if arm != result.main):
        leads = [contrast.both for contrast in sweep.contrasts if arm_of[contrast.other] == other]
        tested = [lead.simultaneous for lead in leads if lead]
        if tested and len(tested) == len(leads):
            least, most = (points(pick(lead.value for lead in tested), result.prompts) for pick in (min, max))
            lowest = points(min(lead.low for lead in tested), result.prompts)
            yield (
                f"{result.main} less {other}: {least} to {most} points, place by place; the lowest bound, for new "
                f"prompts and new trainings and for all places at once, is {lowest} points."
            )
    needed = tables.seeds_needed(len(sweep.contrasts), 1 - result.confidence) if sweep.contrasts else 0
    fewest = min((len(contrast.seeds) for contrast in sweep.contrasts), default=0)
    if fewest < needed:
        yield (
            f"With {fewest} seed{'s' * (fewest > 1)} no test over seeds alone can find anything among "
            f"{len(sweep.contrasts)} contrasts after correction; it takes {needed}."
        )
    if sweep.below:
        apart = sum(below.ras.p_corrected <= 1 - result.confidence for below in sweep.below)
        told = f"{apart} of {len(sweep.below)} other points are clearly below the best"
        yield f"For new prompts and new trainings {told}, {sweep.below[0].best}."
    if _ABILITY in sweep.axes and _MODEL not in sweep.axes:
        yield (
            "Each ability is one pretrained model here, so what changes along the axis may be chance between these "
            f"models; a second axis, {_MODEL}, tells."
        )


def sweep_figures(result: StudyResult, sweep: Sweep) -> list[Figure]:
    """Lines of all arms over one axis, of each measure; none of a sweep with two (`sweep_maps`)."""
    return [_lines(result, sweep, measure) for measure in _shown(result)] if len(sweep.axes) == 1 else []


def _shown(result: StudyResult) -> list[str]:
    """The measures that all arms have."""
    return [measure for measure in _MEASURES if all(vars(arm)[measure] for arm in result.arms)]


def sweep_tables(result: StudyResult, sweep: Sweep) -> list[Table]:
    """Values, the main arm less each other one at every point, and how that changes along the axis."""
    places = {place.name: (", ".join(place.point), place.arm) for place in sweep.places}
    sure, axes, n = tables.level(result.confidence), ", ".join(map(short, sweep.axes)), result.prompts
    first, last = (", ".join(sweep.places[index].point) for index in (0, -1))
    leads = ((lead.other, lead.change, p_value(lead.p_seeds)) for lead in sweep.changes)
    over = sweep.changes[0].over if sweep.changes else "seeds"
    return [
        *(_values(result, sweep, measure) for measure in _shown(result)),
        plain_table(
            f"{result.main} less another arm at the same point, for new prompts and new trainings; intervals hold for "
            f"all {len(sweep.contrasts)} at once (Bonferroni), p after Holm's correction",
            [axes, "against", "RAS", sure, "p", "win or tie", sure, "p"],
            [[*places[lead.other], *both_cells(lead, n, at_once=True)] for lead in sweep.contrasts if lead.both],
        ),
        plain_table(
            f"RAS of {result.main} less that of another arm at the same point; p after Holm's correction",
            [axes, "against", "points", f"{sure} over prompts", "p", f"{sure} over seeds", "p"],
            [[*places[contrast.other], *difference_cells(contrast, n)] for contrast in sweep.contrasts],
        ),
        plain_table(
            f"How the lead of {result.main} changes: {axes} {last} less {first}; p after Holm's correction",
            ["against", "points", f"{sure} over {over}", "p"],
            [[other, points(lead.value, n), in_points(lead, n), p] for other, lead, p in leads],
        ),
        plain_table(
            "RAS less that of the best point, for new prompts and new trainings; intervals hold for every two points "
            "at once (Bonferroni), p after Holm's correction for every two",
            [axes, "points", sure, "p"],
            [[places[below.name][0], *difference_and_p(below.ras, n, at_once=True)] for below in sweep.below],
        ),
    ]


def both_cells(compared: Comparison, prompts: int, at_once: bool = False) -> list[str]:
    """Difference, interval and p-value of RAS, then of win or tie, over prompts and seeds at once."""
    tested = (compared.both, compared.win_or_tie)
    return [cell for each in tested if each for cell in difference_and_p(each, prompts, at_once)]


def difference_and_p(tested: Tested, prompts: int, at_once: bool = False) -> list[str]:
    """Points of difference, its interval, alone or such that all hold at once, and p-value."""
    shown = tested.simultaneous if at_once else tested.difference
    return [points(shown.value, prompts), in_points(shown, prompts), p_value(tested.p_corrected)]


def difference_cells(compared: Comparison, prompts: int) -> list[str]:
    """Points of difference, interval and p-value over prompts, then over seeds."""
    over, seeds = compared.difference.over_prompts, compared.difference.over_seeds
    over_prompts = [points(over.value, prompts), in_points(over, prompts), p_value(compared.p_prompts_corrected)]
    over_seeds = [in_points(seeds, prompts), p_value(compared.p_seeds_corrected)]
    return over_prompts + over_seeds


def in_points(estimate: Estimate | None, prompts: int) -> str:
    """The interval of a difference in points: `+2.4 to +7.8`; `one seed` without an estimate."""
    return interval_over_seeds(estimate, prompts, signed=True).removesuffix(" %")


def _arms(sweep: Sweep) -> list[str]:
    """As the sweep calls them, each once."""
    return list(dict.fromkeys(place.arm for place in sweep.places))


def _placed(result: StudyResult, sweep: Sweep) -> Iterator[tuple[ArmResult, Place]]:
    """The arms that came to an end, each with its place."""
    results = {arm.arm: arm for arm in result.arms}
    yield from ((results[place.name], place) for place in sweep.places if place.name in results)


def _values(result: StudyResult, sweep: Sweep, measure: str) -> Table:
    """A measure of every arm at every point, before and after training."""
    arms = _arms(sweep)
    reached = {(tuple(place.point), place.arm): arm for arm, place in _placed(result, sweep)}
    rows = []
    for point in dict.fromkeys(tuple(place.point) for place in sweep.places):
        here = [reached.get((point, arm)) for arm in arms]
        before = [share(arm.before.over_prompts) for arm in here if arm][:1] or [""]
        values = ["" if arm is None else share(vars(arm)[measure].over_prompts) for arm in here]
        rows.append([", ".join(point), *(before if measure == "ras" else []), *values])
    title = f"{_MEASURES[measure]}: mean over seeds" if result.seeds > 1 else _MEASURES[measure]
    axes = ", ".join(map(short, sweep.axes))
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
        mine = [(place.point[0], vars(arm)[measure]) for arm, place in _placed(result, sweep) if place.arm == name]
        if mine:
            rising = sorted(((positions[label], reached) for label, reached in mine), key=lambda point: point[0])
            bars = [(x, reached.over_both or reached.over_prompts) for x, reached in rising]
            drawn.append(estimates(name, styles[name], bars))
            most = max(reached.over_prompts.value for _, reached in rising)
            legend.append(Legend(name, styles[name], f"best {percent(most, result.prompts)}"))
    named = None if numeric and not logarithmic else list(positions.items())
    bars_over = "for new prompts and new trainings at once" if result.seeds > 1 else "over prompts"
    drawing = {
        "kind": "points",
        "joined": True,
        "x": {"label": sweep.axes[0], "log": logarithmic, "ticks": named},
        "y": {"label": f"{_MEASURES[measure]} (%)", "percent": True},
        "series": drawn,
    }
    title = f"{_MEASURES[measure]} along {sweep.axes[0]}"
    return Figure(title, f"Bars: {tables.level(result.confidence)} {bars_over}, point by point.", drawing, legend)


def sweep_maps(result: StudyResult, sweep: Sweep) -> list[Map]:
    """Each measure over two axes, one map an arm; none of a sweep with one axis.

    With RAS stands the p-value of a cell, after Holm's correction over the map: against the best cell in a sweep of one
    arm, against the main arm at the same point in one of several.
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
