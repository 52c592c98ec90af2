"""What a sweep shows: lines along one axis or a map of two, the leads of the main arm at every point, and words."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from grao.config.arms import short
from grao.records.study import ArmResult, Comparison, Place, StudyResult, Sweep
from grao.reports import tables
from grao.reports.figures import Figure, Legend, arm_styles, estimates
from grao.reports.tables import Table, interval, interval_over_seeds, p_value, percent, plain_table, points, share

_SHADES = 8
"""From white to the darkest cell of a map; `style.css` has as many."""


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
    sure = [contrast for contrast in sweep.contrasts if contrast.p_prompts_corrected <= 1 - result.confidence]
    up = sum(contrast.difference.over_prompts.value > 0 for contrast in sure)
    return (
        f"After {result.budget} the reference is beaten most often by {told}. {result.main} is clear of another arm at "
        f"the same point, over prompts, in {len(sure)} of {len(sweep.contrasts)} comparisons: ahead in {up}, behind in "
        f"{len(sure) - up}."
    )


def sweep_sentences(result: StudyResult, sweep: Sweep) -> Iterator[str]:
    """How far the main arm is ahead of each other one, and what so many seeds can tell."""
    arm_of = {place.name: place.arm for place in sweep.places}
    for other in (arm for arm in _arms(sweep) if arm != result.main):
        leads = [contrast.difference.over_seeds for contrast in sweep.contrasts if arm_of[contrast.other] == other]
        seeds = [lead for lead in leads if lead]
        if seeds and len(seeds) == len(leads):
            least, most = (points(pick(lead.value for lead in seeds), result.prompts) for pick in (min, max))
            lowest = points(min(lead.low for lead in seeds), result.prompts)
            yield (
                f"{result.main} less {other}: {least} to {most} points, place by place; the lowest bound over seeds, "
                f"of all places, is {lowest} points."
            )
    needed = tables.seeds_needed(len(sweep.contrasts), 1 - result.confidence) if sweep.contrasts else 0
    if result.seeds < needed:
        yield (
            f"With {result.seeds} seed{'s' * (result.seeds > 1)} no test over seeds can find anything among "
            f"{len(sweep.contrasts)} contrasts after correction; it takes {needed}."
        )


def sweep_figures(result: StudyResult, sweep: Sweep) -> list[Figure]:
    """Lines of all arms over one axis; none of a sweep with two (`sweep_maps`)."""
    return [_lines(result, sweep)] if len(sweep.axes) == 1 else []


def sweep_tables(result: StudyResult, sweep: Sweep) -> list[Table]:
    """Values, the main arm less each other one at every point, and how that changes along the axis."""
    places = {place.name: (", ".join(place.point), place.arm) for place in sweep.places}
    sure, axes, n = tables.level(result.confidence), ", ".join(map(short, sweep.axes)), result.prompts
    first, last = (", ".join(sweep.places[index].point) for index in (0, -1))
    leads = ((lead.other, lead.change, p_value(lead.p_seeds)) for lead in sweep.changes)
    return [
        _values(result, sweep),
        plain_table(
            f"RAS of {result.main} less that of another arm at the same point; p after Holm's correction",
            [axes, "against", "points", f"{sure} over prompts", "p", f"{sure} over seeds", "p"],
            [[*places[contrast.other], *difference_cells(contrast, n)] for contrast in sweep.contrasts],
        ),
        plain_table(
            f"How the lead of {result.main} changes: {axes} {last} less {first}; p after Holm's correction",
            ["against", "points", f"{sure} over seeds", "p"],
            [[other, points(lead.value, n), interval_over_seeds(lead, n, signed=True), p] for other, lead, p in leads],
        ),
    ]


def difference_cells(compared: Comparison, prompts: int) -> list[str]:
    """Points of difference, interval and p-value over prompts, then over seeds."""
    over, seeds = compared.difference.over_prompts, compared.difference.over_seeds
    over_prompts = [points(over.value, prompts), interval(over, signed=True), p_value(compared.p_prompts_corrected)]
    over_seeds = [interval_over_seeds(seeds, prompts, signed=True), p_value(compared.p_seeds_corrected)]
    return over_prompts + over_seeds


def _arms(sweep: Sweep) -> list[str]:
    """As the sweep calls them, each once."""
    return list(dict.fromkeys(place.arm for place in sweep.places))


def _placed(result: StudyResult, sweep: Sweep) -> Iterator[tuple[ArmResult, Place]]:
    """The arms that came to an end, each with its place."""
    results = {arm.arm: arm for arm in result.arms}
    yield from ((results[place.name], place) for place in sweep.places if place.name in results)


def _values(result: StudyResult, sweep: Sweep) -> Table:
    """RAS of every arm at every point, before and after training."""
    arms = _arms(sweep)
    reached = {(tuple(place.point), place.arm): arm for arm, place in _placed(result, sweep)}
    rows = []
    for point in dict.fromkeys(tuple(place.point) for place in sweep.places):
        here = [reached.get((point, arm)) for arm in arms]
        before = next((share(arm.before.over_prompts) for arm in here if arm), "")
        rows.append([", ".join(point), before, *("" if arm is None else share(arm.ras.over_prompts) for arm in here)])
    title = "RAS, strict wins: mean over seeds" if result.seeds > 1 else "RAS, strict wins"
    return plain_table(title, [", ".join(map(short, sweep.axes)), "before", *arms], rows)


def _lines(result: StudyResult, sweep: Sweep) -> Figure:
    labels = list(dict.fromkeys(place.point[0] for place in sweep.places))
    try:
        positions, numeric = {label: float(label) for label in labels}, True
    except ValueError:
        positions, numeric = {label: float(index) for index, label in enumerate(labels)}, False
    places, arms = positions.values(), _arms(sweep)
    logarithmic = numeric and min(places) > 0 and max(places) >= 8 * min(places)
    drawn, legend, styles = [], [], arm_styles(arms)
    for name in arms:
        reached = [(positions[place.point[0]], arm.ras) for arm, place in _placed(result, sweep) if place.arm == name]
        if reached:
            rising = sorted(reached, key=lambda point: point[0])
            drawn.append(estimates(name, styles[name], [(x, ras.over_seeds or ras.over_prompts) for x, ras in rising]))
            most = max(ras.over_prompts.value for _, ras in rising)
            legend.append(Legend(name, styles[name], f"best {percent(most, result.prompts)}"))
    named = None if numeric and not logarithmic else list(positions.items())
    axis = {"label": sweep.axes[0], "log": logarithmic, "ticks": named}
    bands = "seeds" if result.seeds > 1 else "prompts"
    return Figure(
        f"Along {sweep.axes[0]}",
        f"Bars: {tables.level(result.confidence)} over {bands}.",
        {
            "kind": "points",
            "joined": True,
            "x": axis,
            "y": {"label": "RAS, strict wins (%)", "percent": True},
            "series": drawn,
        },
        legend,
    )


def sweep_maps(result: StudyResult, sweep: Sweep) -> list[Map]:
    """RAS over two axes, one map an arm; none of a sweep with one axis."""
    if len(sweep.axes) == 1:
        return []
    rows, columns = (list(dict.fromkeys(place.point[axis] for place in sweep.places)) for axis in (0, 1))
    reached = {(place.arm, *place.point): arm.ras.over_prompts.value for arm, place in _placed(result, sweep)}
    highest = max(reached.values(), default=0.0) or 1.0

    def shaded(value: float | None) -> tuple[str, int]:
        return ("", 0) if value is None else (percent(value, result.prompts), round(_SHADES * max(value, 0) / highest))

    return [
        Map(arm, columns, [(row, [shaded(reached.get((arm, row, column))) for column in columns]) for row in rows])
        for arm in _arms(sweep)
    ]
