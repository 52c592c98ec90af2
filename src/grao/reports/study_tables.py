"""The tables of a study as rows of text, for the terminal and the page, and its numbers as CSV."""

import csv
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from grao.records.evaluation import Estimate
from grao.records.study import ArmResult, Measured, Situation, StudyResult, Sweep
from grao.reports.study_grid import Grid, interval_over_seeds
from grao.reports.study_words import p_value, points, relative
from grao.reports.sweep import sweep_grids
from grao.reports.words import interval, level, number, share

BEFORE = "before training"


@dataclass(frozen=True)
class MeasureRow:
    """One arm in one measure."""

    arm: str
    value: str
    over_prompts: str
    over_seeds: str
    seeds: str
    estimate: Estimate
    """Over prompts, for a drawing."""


@dataclass(frozen=True)
class StudyMeasure:
    """One measure over all arms."""

    name: str
    meaning: str
    rows: list[MeasureRow]
    signed: bool = False
    """Whether it may be negative."""


def study_measures(result: StudyResult) -> list[StudyMeasure]:
    """The headline: RAS and NAG of every arm."""

    def rows(pick: Callable[[ArmResult], Measured], signed: bool = False) -> list[MeasureRow]:
        return [_row(arm.arm, pick(arm), str(len(arm.seeds)), signed) for arm in result.arms]

    return [
        StudyMeasure(
            "RAS, strict wins", "answers that beat the reference", [*_before(result), *rows(lambda arm: arm.ras)]
        ),
        StudyMeasure(
            "RAS, win or tie", "answers that beat the reference or draw level", rows(lambda arm: arm.ras_win_or_tie)
        ),
        StudyMeasure(
            "NAG, net",
            "answers after training against those before, wins minus losses",
            rows(lambda arm: arm.nag, signed=True),
            signed=True,
        ),
    ]


def comparison_grid(result: StudyResult) -> Grid:
    """The main arm against each other one."""
    sure = level(result.confidence)
    headings = ["against", "points", f"{sure} over prompts", "p", f"{sure} over seeds", "p", "gain"]
    rows = [
        [
            one.other,
            points(one.difference.over_prompts.value, result.prompts).removesuffix(" points"),
            interval(one.difference.over_prompts, signed=True),
            p_value(one.p_prompts_corrected),
            interval_over_seeds(one.difference.over_seeds, result.prompts, signed=True),
            p_value(one.p_seeds_corrected),
            relative(one),
        ]
        for one in result.comparisons
    ]
    return Grid(
        f"RAS of {result.main} less that of each other arm; p after Holm's correction; relative gain", headings, rows
    )


def cost_grid(result: StudyResult) -> Grid:
    """What a run of each arm took, on average."""
    headings = ["arm", "rate", "steps", "calls", "tokens", "seconds", "sampling", "reward", "update"]
    rows = []
    for arm in result.arms:
        cost = arm.cost
        phases = (f"{cost.seconds[phase]:,.1f}" for phase in ("training", "rollout", "reward", "update"))
        counts = (f"{round(count):,}" for count in (cost.steps, cost.reward_calls, cost.tokens_trained))
        rows.append([arm.arm, number(arm.learning_rate), *counts, *phases])
    return Grid(
        "One run: learning rate, reward calls, tokens trained on, seconds in all and of each phase", headings, rows
    )


def dynamics_grid(result: StudyResult) -> Grid | None:
    """How soon and how steadily; None where no curves were taken."""
    rows = [
        [
            arm.arm,
            "" if arm.calls_to_best is None else f"{round(arm.calls_to_best):,}",
            "" if arm.steps_to_best is None else f"{arm.steps_to_best:.0f}",
            f"{100 * arm.falling:.0f} %",
        ]
        for arm in result.arms
        if arm.falling is not None
    ]
    headings = ["arm", "reward calls", "steps", "evaluations that fall"]
    return (
        Grid("How soon each arm reaches 95 % of its own best RAS, and how steadily", headings, rows) if rows else None
    )


def selection_grid(result: StudyResult) -> Grid | None:
    """What every learning rate reached on the selection's prompts; None where nothing was selected."""
    chosen = {arm.arm: arm.learning_rate for arm in result.arms}
    rows = [
        [
            one.arm,
            number(one.learning_rate),
            "failed" if one.ras is None else f"{100 * one.ras:.1f} %",
            "" if one.mean_reward is None else f"{one.mean_reward:+.3f}",
            "chosen" if chosen.get(one.arm) == one.learning_rate else "",
        ]
        for one in result.candidates
    ]
    headings = ["arm", "learning rate", "RAS", "mean reward", ""]
    return Grid("Learning rates, on training prompts kept away from training", headings, rows) if rows else None


def weight_grids(result: StudyResult) -> list[Grid]:
    """The effective weights of arms that are weighted likelihoods; none for fewer than two."""
    if len(result.weights) < 2:
        return []
    repeated = any(arm.rescaled for arm in result.weights)
    headings = ["arm", "kappa", "all lost", "one won", "all won", *["same as"] * repeated]
    rows = [
        [
            arm.arm,
            "" if arm.kappa is None else f"{arm.kappa:.3f}",
            *(_weights(one) for one in arm.situations),
            *[arm.rescaled or ""] * repeated,
        ]
        for arm in result.weights
    ]
    scale = "; same as: but for scale" if repeated else "; none is a rescaling of another"
    title = f"Effective weights: of a won sample, of a lost one, of the reference{scale}"
    return [Grid(title, headings, rows)]


def _weights(one: Situation) -> str:
    parts = (one.won, one.lost, one.reference)
    return ", ".join(f"{part + 0.0:+.2f}" for part in parts if part is not None)


def grids(result: StudyResult) -> list[Grid]:
    """All tables behind the headline that have something to say."""
    swept = sweep_grids(result, result.sweep) if result.sweep else [comparison_grid(result), *weight_grids(result)]
    found = (*swept, cost_grid(result), dynamics_grid(result), selection_grid(result))
    return [grid for grid in found if grid and grid.rows]


def study_tables(result: StudyResult) -> Iterator[Table]:
    """For the terminal."""
    sure = level(result.confidence)
    for measure in [] if result.sweep else study_measures(result):
        headings = ["", "value", f"{sure} over prompts", f"{sure} over seeds", "seeds"]
        rows = [[row.arm, row.value, row.over_prompts, row.over_seeds, row.seeds] for row in measure.rows]
        yield _table(Grid(f"{measure.name}: {measure.meaning}", headings, rows))
    for grid in grids(result):
        yield _table(grid)


def study_csv(result: StudyResult) -> str:
    """One line an arm, every number unrounded; a comparison stands with the other arm."""
    swept = result.sweep
    against = {one.other: one for one in (swept.contrasts if swept else result.comparisons)}
    lines = []
    for arm in result.arms:
        one = against.get(arm.arm)
        line: dict[str, object] = {
            **_place(arm.arm, swept),
            "learning_rate": arm.learning_rate,
            "seeds": " ".join(map(str, arm.seeds)),
        }
        measures = {"ras": arm.ras, "ras_win_or_tie": arm.ras_win_or_tie, "nag": arm.nag}
        for name, measured in (measures | {f"{result.main}_minus_arm": one.difference} if one else measures).items():
            line |= _numbers(name, measured)
        if one:
            line |= {
                name: value for name, value in vars(one).items() if name.startswith("p_") or name == "relative_ras"
            }
        line |= {name: vars(arm)[name] for name in ("mean_reward", "mean_tokens", "truncated")}
        line |= {name: value for name, value in vars(arm.cost).items() if name != "seconds"}
        line |= {f"seconds_{phase}": seconds for phase, seconds in arm.cost.seconds.items()}
        line |= {name: vars(arm)[name] for name in ("calls_to_best", "steps_to_best", "falling")}
        lines.append(line)
    names = list(dict.fromkeys(name for line in lines for name in line))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _place(name: str, sweep: Sweep | None) -> dict[str, object]:
    """The arm, and in a sweep its point on each axis."""
    place = next((place for place in sweep.places if place.name == name), None) if sweep else None
    return {"arm": place.arm, **dict(zip(sweep.axes, place.point, strict=True))} if sweep and place else {"arm": name}


def _numbers(name: str, measured: Measured) -> dict[str, object]:
    found: dict[str, object] = {name: measured.over_prompts.value}
    for kind, estimate in vars(measured).items():
        found |= {f"{name}_{end}_{kind}": getattr(estimate, end, None) for end in ("low", "high")}
    return found


def _before(result: StudyResult) -> list[MeasureRow]:
    """One row where all arms start alike, as far as they have the same seeds; else one an arm."""
    first = max(result.arms, key=lambda arm: len(arm.seeds))
    if all(arm.before == first.before for arm in result.arms if arm.seeds == first.seeds):
        return [_row(BEFORE, first.before, "", signed=False)]
    return [_row(f"{arm.arm}, {BEFORE}", arm.before, "", signed=False) for arm in result.arms]


def _row(arm: str, measured: Measured, seeds: str, signed: bool) -> MeasureRow:
    over = measured.over_prompts
    return MeasureRow(
        arm,
        share(over, signed),
        interval(over, signed),
        interval_over_seeds(measured.over_seeds, over.n, signed),
        seeds,
        over,
    )


def _table(grid: Grid) -> Table:
    table = Table(
        title=Text(grid.title),
        title_justify="left",
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
    )
    for place, heading in enumerate(grid.headings):
        table.add_column(heading, justify="right" if place else "left", overflow="fold")
    for row in grid.rows:
        table.add_row(*map(Text, row))
    return table
