"""What a sweep shows: lines along one axis or a map of two, the leads of the main arm at every point, and words."""

from collections.abc import Iterator

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from grao.config.arms import short
from grao.records.study import ArmResult, Comparison, Place, StudyResult, Sweep
from grao.reports import tables
from grao.reports.figures import COLOURS, ArmLine, Figure, Legend, paint_arms, picture
from grao.reports.tables import Table, interval, interval_over_seeds, p_value, percent, plain_table, points, share

_FITS = 40
"""Letters of labels that fit below a map side by side."""


def sweep_headline(result: StudyResult, sweep: Sweep) -> str:
    """Where the main arm does best."""
    reached = [(arm.ras.over_prompts, place.point) for arm, place in _placed(result, sweep) if place.arm == result.main]
    if not reached:
        return f"No run of {result.main} came to its end."
    best, point = max(reached, key=lambda pair: pair[0].value)
    where = " and ".join(f"{axis} {label}" for axis, label in zip(sweep.axes, point, strict=True))
    return (
        f"After {result.budget} {result.main} beats the reference most often at {where}: on {share(best)} of "
        f"{result.prompts:,} held-out prompts."
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
    """Lines of all arms over one axis; of two axes a map an arm."""
    if len(sweep.axes) == 1:
        return [_lines(result, sweep)]
    return [_map(result, sweep, arm, number) for number, arm in enumerate(_arms(sweep))]


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
    lines = {}
    for index, name in enumerate(_arms(sweep)):
        reached = [(positions[place.point[0]], arm.ras) for arm, place in _placed(result, sweep) if place.arm == name]
        rising = sorted(reached, key=lambda point: point[0])
        lines[name] = ArmLine(index, [(x, ras.over_seeds or ras.over_prompts) for x, ras in rising])

    def paint(axes: Axes) -> None:
        paint_arms(axes, lines.values(), sweep.axes[0], marker="o", markersize=4)
        x = list(positions.values())
        logarithmic = numeric and min(x) > 0 and max(x) >= 8 * min(x)
        if logarithmic:
            axes.set_xscale("log")
            axes.minorticks_off()
        if logarithmic or not numeric:
            axes.set_xticks(x, labels)

    legend = [
        Legend(arm, line.hue, f"best {percent(max(ras.value for _, ras in line.points), result.prompts)}")
        for arm, line in lines.items()
        if line.points
    ]
    spoken = "; ".join(f"{entry.label}, {entry.change}" for entry in legend)
    svg = picture(paint, "sweep", f"RAS over {sweep.axes[0]}: {spoken}.")
    bands = "seeds" if result.seeds > 1 else "prompts"
    return Figure(f"Along {sweep.axes[0]}", f"Bands: {tables.level(result.confidence)} over {bands}.", svg, legend)


def _map(result: StudyResult, sweep: Sweep, arm: str, number: int) -> Figure:
    down, across = sweep.axes
    rows, columns = (list(dict.fromkeys(place.point[axis] for place in sweep.places)) for axis in (0, 1))
    table = np.full((len(rows), len(columns)), np.nan)
    for reached, place in _placed(result, sweep):
        if place.arm == arm:
            table[rows.index(place.point[0]), columns.index(place.point[1])] = reached.ras.over_prompts.value

    def paint(axes: Axes) -> None:
        highest = max(float(np.nanmax(table)), 0.01)
        for (row, column), value in np.ndenumerate(table):
            shade = (COLOURS["blue"], 0.0 if np.isnan(value) else 0.75 * value / highest)
            axes.add_patch(Rectangle((column - 0.48, row - 0.46), 0.96, 0.92, facecolor=shade, linewidth=0))
            text = "" if np.isnan(value) else f"{100 * value:.0f}"
            axes.text(column, row, text, ha="center", va="center", color=COLOURS["ink"])
        axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5), xlabel=across, ylabel=down)
        axes.grid(visible=False)
        crowded = sum(map(len, columns)) > _FITS
        axes.set_xticks(range(len(columns)), columns, rotation=25 * crowded, ha="right" if crowded else "center")
        axes.set_yticks(range(len(rows)), rows)

    spoken = f"RAS in percent of {arm} over {down} and {across}; highest {100 * np.nanmax(table):.0f}."
    note = "RAS in percent, mean over seeds." if result.seeds > 1 else "RAS in percent, one seed."
    return Figure(arm, note, picture(paint, f"map{number}", spoken))
