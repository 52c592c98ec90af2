"""What a sweep shows: lines along one axis or a map of two, the leads of the main arm at every point, and words."""

from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from grao.config.sweep import short
from grao.records.evaluation import Estimate
from grao.records.study import ArmResult, Place, StudyResult, Sweep
from grao.reports.blocks import Figure, Legend
from grao.reports.figures import COLOURS, picture, ticks
from grao.reports.study_figures import dash, hue
from grao.reports.study_grid import Grid, interval_over_seeds
from grao.reports.study_words import p_value, points, seeds_needed
from grao.reports.words import interval, level, percent, share

_FITS = 40
"""Letters of labels that fit below a map side by side."""


def sweep_headline(result: StudyResult, sweep: Sweep) -> str:
    """Where the main arm does best."""
    reached = [(arm.ras.over_prompts, place.point) for arm, place in _placed(result, sweep) if place.arm == result.main]
    if not reached:
        return f"No run of {result.main} came to its end."
    best, point = max(reached, key=lambda one: one[0].value)
    where = " and ".join(f"{axis} {label}" for axis, label in zip(sweep.axes, point, strict=True))
    return (
        f"After {result.budget} {result.main} beats the reference most often at {where}: on {share(best)} of "
        f"{result.prompts:,} held-out prompts."
    )


def sweep_sentences(result: StudyResult, sweep: Sweep) -> list[str]:
    """How far the main arm is ahead of each other one, and what so many seeds can tell."""
    found = []
    arm_of = {place.name: place.arm for place in sweep.places}
    for other in dict.fromkeys(place.arm for place in sweep.places if place.arm != result.main):
        leads = [one.difference for one in sweep.contrasts if arm_of[one.other] == other]
        seeds = [lead.over_seeds for lead in leads if lead.over_seeds]
        if seeds and len(seeds) == len(leads):
            least, most = (points(pick(one.value for one in seeds), result.prompts) for pick in (min, max))
            lowest = points(min(one.low for one in seeds), result.prompts)
            found.append(
                f"{result.main} less {other}: {least.removesuffix(' points')} to {most}, place by place; the lowest "
                f"bound over seeds, of all places, is {lowest}."
            )
    needed = seeds_needed(len(sweep.contrasts), 1 - result.confidence) if sweep.contrasts else 0
    if result.seeds < needed:
        found.append(
            f"With {result.seeds} seed{'s' * (result.seeds > 1)} no test over seeds can find anything among "
            f"{len(sweep.contrasts)} contrasts after correction; it takes {needed}."
        )
    return found


def sweep_figures(result: StudyResult, sweep: Sweep) -> list[Figure]:
    """Lines of all arms over one axis; of two axes a map an arm."""
    arms = list(dict.fromkeys(place.arm for place in sweep.places))
    if len(sweep.axes) == 1:
        return [_lines(result, sweep, arms)]
    return [_map(result, sweep, arm, number) for number, arm in enumerate(arms)]


def value_grid(result: StudyResult, sweep: Sweep) -> Grid:
    """RAS of every arm at every point, before and after training."""
    arms = list(dict.fromkeys(place.arm for place in sweep.places))
    found = {(tuple(place.point), place.arm): arm for arm, place in _placed(result, sweep)}
    rows = []
    for point in dict.fromkeys(tuple(place.point) for place in sweep.places):
        here = [found.get((point, arm)) for arm in arms]
        before = next((arm.before.over_prompts for arm in here if arm), None)
        after = ["" if arm is None else share(arm.ras.over_prompts) for arm in here]
        rows.append([", ".join(point), share(before) if before else "", *after])
    title = "RAS, strict wins: mean over seeds" if result.seeds > 1 else "RAS, strict wins"
    return Grid(title, [", ".join(map(short, sweep.axes)), "before", *arms], rows)


def sweep_grids(result: StudyResult, sweep: Sweep) -> list[Grid]:
    """Values, the main arm less each other one at every point, and how that changes along the axis."""
    place_of = {place.name: place for place in sweep.places}
    sure = level(result.confidence)
    contrasts = [
        [
            ", ".join(place_of[one.other].point),
            place_of[one.other].arm,
            points(one.difference.over_prompts.value, result.prompts).removesuffix(" points"),
            interval(one.difference.over_prompts, signed=True),
            p_value(one.p_prompts_corrected),
            interval_over_seeds(one.difference.over_seeds, result.prompts, signed=True),
            p_value(one.p_seeds_corrected),
        ]
        for one in sweep.contrasts
    ]
    changes = [
        [
            one.other,
            points(one.change.value, result.prompts).removesuffix(" points"),
            interval_over_seeds(one.change, result.prompts, signed=True),
            p_value(one.p_seeds),
        ]
        for one in sweep.changes
    ]
    first, last = (", ".join(sweep.places[place].point) for place in (0, -1))
    axes = ", ".join(map(short, sweep.axes))
    headings = [axes, "against", "points", f"{sure} over prompts", "p", f"{sure} over seeds", "p"]
    return [
        value_grid(result, sweep),
        Grid(
            f"RAS of {result.main} less that of another arm at the same point; p after Holm's correction",
            headings,
            contrasts,
        ),
        Grid(
            f"How the lead of {result.main} changes: {axes} {last} less {first}; p after Holm's correction",
            ["against", "points", f"{sure} over seeds", "p"],
            changes,
        ),
    ]


def _placed(result: StudyResult, sweep: Sweep) -> Iterator[tuple[ArmResult, Place]]:
    """The arms that came to an end, each with its place."""
    results = {arm.arm: arm for arm in result.arms}
    yield from ((results[place.name], place) for place in sweep.places if place.name in results)


def _lines(result: StudyResult, sweep: Sweep, arms: Sequence[str]) -> Figure:
    labels = list(dict.fromkeys(place.point[0] for place in sweep.places))
    numeric = all(_number(label) is not None for label in labels)
    found: dict[str, list[tuple[float, Estimate]]] = {arm: [] for arm in arms}
    for arm, place in _placed(result, sweep):
        x = float(place.point[0]) if numeric else labels.index(place.point[0])
        found[place.arm].append((x, arm.ras.over_seeds or arm.ras.over_prompts))

    def paint(axes: Axes) -> None:
        for arm, reached in found.items():
            reached.sort(key=lambda one: one[0])
            number = arms.index(arm)
            x, colour = [at for at, _ in reached], COLOURS[hue(number)]
            low, high = ([getattr(ras, end) for _, ras in reached] for end in ("low", "high"))
            axes.fill_between(x, low, high, facecolor=(colour, 0.14), linewidth=0)
            axes.plot(
                x,
                [ras.value for _, ras in reached],
                marker="o",
                color=colour,
                linewidth=1.9,
                markersize=4,
                linestyle=dash(number),
            )
        if not numeric:
            axes.set_xticks(range(len(labels)), labels)
        elif _stretched([float(label) for label in labels]):
            axes.set_xscale("log")
            axes.set_xticks([float(label) for label in labels], labels)
            axes.minorticks_off()
        axes.set_xlabel(sweep.axes[0])
        axes.set_ylabel("RAS, strict wins (%)")
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(ticks(percent=True))

    ends = {arm: max(reached, key=lambda one: one[1].value)[1].value for arm, reached in found.items() if reached}
    legend = [
        Legend(arm, hue(arms.index(arm)), f"best {percent(value, result.prompts)}") for arm, value in ends.items()
    ]
    bands = "seeds" if result.seeds > 1 else "prompts"
    spoken = "; ".join(f"{entry.label}, {entry.change}" for entry in legend)
    note = f"Bands: {level(result.confidence)} over {bands}."
    return Figure(
        f"Along {sweep.axes[0]}", note, legend, None, picture(paint, "sweep", f"RAS over {sweep.axes[0]}: {spoken}.")
    )


def _map(result: StudyResult, sweep: Sweep, arm: str, number: int) -> Figure:
    rows, columns = (list(dict.fromkeys(place.point[axis] for place in sweep.places)) for axis in (0, 1))
    table = np.full((len(rows), len(columns)), np.nan)
    for one, place in _placed(result, sweep):
        if place.arm == arm:
            table[rows.index(place.point[0]), columns.index(place.point[1])] = one.ras.over_prompts.value

    def paint(axes: Axes) -> None:
        highest = max(float(np.nanmax(table)), 0.01)
        for (row, column), value in np.ndenumerate(table):
            shade = (COLOURS["blue"], 0.0 if np.isnan(value) else 0.75 * value / highest)
            axes.add_patch(Rectangle((column - 0.48, row - 0.46), 0.96, 0.92, facecolor=shade, linewidth=0))
            text = "" if np.isnan(value) else f"{100 * value:.0f}"
            axes.text(column, row, text, ha="center", va="center", color=COLOURS["ink"])
        axes.set_xlim(-0.5, len(columns) - 0.5)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.grid(visible=False)
        crowded = sum(map(len, columns)) > _FITS
        axes.set_xticks(range(len(columns)), columns, rotation=25 * crowded, ha="right" if crowded else "center")
        axes.set_yticks(range(len(rows)), rows)
        axes.set_xlabel(sweep.axes[1])
        axes.set_ylabel(sweep.axes[0])

    spoken = f"RAS in percent of {arm} over {sweep.axes[0]} and {sweep.axes[1]}; highest {100 * np.nanmax(table):.0f}."
    note = "RAS in percent, mean over seeds." if result.seeds > 1 else "RAS in percent, one seed."
    return Figure(arm, note, [], None, picture(paint, f"map{number}", spoken))


def _number(label: str) -> float | None:
    try:
        return float(label)
    except ValueError:
        return None


def _stretched(values: Sequence[float]) -> bool:
    """Whether the values are laid out for a logarithmic axis."""
    return min(values) > 0 and max(values) >= 8 * min(values)
