"""A study as one self-contained page, a CSV file and terminal tables, with what it comes to in words."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from grao.records.answers import read_answers
from grao.records.files import replace_text
from grao.records.numbers import Estimate, Measured
from grao.records.run import Item
from grao.records.study import ArmResult, Comparison, Situation, StudyResult, Sweep
from grao.reports import tables
from grao.reports.advice import study_steps
from grao.reports.figures import Figure, Legend, arm_styles, estimates
from grao.reports.items import pack, read_first
from grao.reports.paper import paper_tables
from grao.reports.parts import render_page
from grao.reports.reproduce import portable_text
from grao.reports.sweep import (
    both_cells,
    difference_cells,
    sweep_figures,
    sweep_headline,
    sweep_maps,
    sweep_sentences,
    sweep_tables,
)
from grao.reports.tables import Block, Row, Table, interval, level, number, percent, plain_table, share
from grao.reports.verdict import headline, notes, on_both, on_prompts, on_seeds, ranked, separable

BEFORE = "before training"
_MEASURES = (
    ("ras", "RAS, strict wins", "answers that beat the reference", False),
    ("ras_win_or_tie", "RAS, win or tie", "answers that beat the reference or draw level", False),
    ("right", "Right answers", "by the embedded world's gold judge", False),
    ("nag", "NAG, net", "answers after training against those before, wins minus losses", True),
)
"""Field of `ArmResult`, title, meaning, and whether it may be negative."""
_MOST_ARMS = 12
"""Arms whose pairs are shown as a matrix."""
_AXES = (
    ("By work", "seconds of counted work", "work"),
    ("By optimiser steps", "optimiser steps", "step"),
    ("By reward calls", "rewards asked for", "reward_calls"),
    ("By time", "seconds of training", "seconds"),
)
"""Title, label, and field of `BandPoint`, of each horizontal axis."""


def write_study_report(folder: Path, result: StudyResult, recipe: str) -> Path:
    """Writes `study.html` and `study.csv` into the folder of a study.

    Args:
        folder: of the study.
        result: its numbers.
        recipe: the study as YAML.
    """
    path = folder / "study.html"
    replace_text(path, render_study(folder.resolve().name, result, recipe, read_answers(folder, result)))
    replace_text(folder / "study.csv", study_csv(result))
    return path


def render_study(name: str, result: StudyResult, recipe: str, items: Sequence[Item] = ()) -> str:
    """The page as HTML; `items` hold the answers of the arms, where they were kept."""
    swept = result.sweep
    best, *others = (arm.arm for arm in ranked(result))
    against = "before" if any("before" in item.answers for item in items) else (others or [""])[0]
    return render_page(
        "study.html.j2",
        name=name,
        model="",
        result=result,
        headline=sweep_headline(result, swept) if swept else headline(result),
        separable="" if swept else separable(result),
        sentences=sweep_sentences(result, swept) if swept else [on_both(result), on_prompts(result), on_seeds(result)],
        notices=notes(result),
        tiles=[
            (str(len(result.arms)), "arms"),
            (str(result.seeds), "seeds of each"),
            (f"{result.prompts:,}", "held-out prompts"),
            (result.budget, "budget of a run"),
        ],
        measures=None if swept else _measures(result),
        matrix=_matrix(result),
        tables=_details(result),
        figures=sweep_figures(result, swept) if swept else list(_figures(result)),
        maps=sweep_maps(result, swept) if swept else [],
        selection=_selection_figure(result),
        examples=read_first(items, against, best),
        items=pack(items, against, best, "answers/"),
        paper=paper_tables([arm.arm for arm in result.arms]),
        steps=study_steps(name, result),
        recipe=portable_text(recipe),
    )


def study_tables(result: StudyResult) -> list[Table]:
    """For the terminal, where each measure is a table of its own."""
    sure = level(result.confidence)
    columns = ["", "value", f"{sure} over both", "over prompts", "over seeds", "seeds"]
    blocks = [] if result.sweep else _measures(result).blocks
    measures = (Table(columns, [block], f"{block.title}: {block.note}", dense=True) for block in blocks)
    return [*measures, *_details(result)]


def study_csv(result: StudyResult) -> str:
    """One line an arm, every number unrounded; a comparison stands with the other arm. Over both comes last."""
    swept = result.sweep
    against = {compared.other: compared for compared in (swept.contrasts if swept else result.comparisons)}
    first = [_numbers(arm, against.get(arm.arm), result) for arm in result.arms]
    last = [_numbers_over_both(arm, against.get(arm.arm), result) for arm in result.arms]
    names = list(dict.fromkeys(name for line in (*first, *last) for name in line))
    lines = [one | other for one, other in zip(first, last, strict=True)]
    cells = [["" if line.get(name) is None else str(line[name]) for name in names] for line in lines]
    return plain_table("", names, cells).csv()


def _measures(result: StudyResult) -> Table:
    """The headline: RAS and NAG of every arm, the highest first, and RAS before training."""
    blocks, styles = [], arm_styles(arm.arm for arm in result.arms)
    for field, title, note, signed in _MEASURES:
        if not all(getattr(arm, field) for arm in result.arms):
            continue
        order = sorted(result.arms, key=lambda arm: -getattr(arm, field).over_prompts.value)
        rows = [
            replace(_row(arm.arm, getattr(arm, field), str(len(arm.seeds)), signed), style=styles[arm.arm].colour)
            for arm in order
        ]
        blocks.append(Block([*rows, *(_before(result) if field == "ras" else [])], title, note))
    columns = ["Arm", "Value", "over both", "over prompts", "over seeds", "Seeds"]
    return Table(columns, blocks, scale="thick over prompts, thin over both")


def _matrix(result: StudyResult) -> Table | None:
    """RAS of each row's arm less that of each column's, highest first; None where pairs were not tested."""
    if not result.pairs or not 2 < len(result.arms) <= _MOST_ARMS:
        return None
    known = {(pair.arm, pair.other): (1, pair) for pair in result.pairs}
    known |= {(pair.other, pair.arm): (-1, pair) for pair in result.pairs}
    names = [arm.arm for arm in ranked(result)]

    def cell(row: str, column: str) -> str:
        if (row, column) not in known:
            return ""
        sign, pair = known[row, column]
        both = pair.both.p_corrected if pair.both else None
        tests = {"b": both, "p": pair.p_prompts_corrected, "s": pair.p_seeds_corrected}
        sure = "".join(letter for letter, p in tests.items() if p is not None and p <= 1 - result.confidence)
        return tables.points(sign * pair.difference.over_prompts.value, result.prompts) + (f" {sure}" if sure else "")

    return plain_table(
        "Every two arms", ["", *names], [[row, *(cell(row, column) for column in names)] for row in names]
    )


def _details(result: StudyResult) -> list[Table]:
    """All tables behind the headline that have something to say."""
    swept = result.sweep
    compared = sweep_tables(result, swept) if swept else [*_comparisons(result), _weights(result)]
    offered = [*compared, _costs(result), _dynamics(result), _selection(result)]
    return [replace(table, dense=True) for table in offered if any(table.rows)]


def _figures(result: StudyResult) -> Iterator[Figure]:
    """RAS of every arm over work, steps, reward calls and seconds, each with the arms that move on that axis."""
    order, n, styles = [arm.arm for arm in result.arms], result.prompts, arm_styles(arm.arm for arm in result.arms)
    bands = {band.arm: band.points for band in result.curves if len(band.points) > 1}
    for title, label, x in _AXES:
        moving = {arm: points for arm, points in bands.items() if getattr(points[-1], x) > 0}
        if not moving:
            continue
        banded = any(point.ras.n > 1 for points in moving.values() for point in points)
        drawn = [
            estimates(arm, styles[arm], [(getattr(p, x), p.ras) for p in points], any(p.ras.n > 1 for p in points))
            for arm, points in moving.items()
        ]
        legend = [Legend(arm, styles[arm], percent(points[-1].ras.value, n)) for arm, points in moving.items()]
        note = f"Bands: {level(result.confidence)} over seeds." if banded else "One seed, so there are no bands."
        if x == "work":
            note += f" A second of work by what these took when the study began: {_rates(result)}."
        if absent := [arm for arm in order if arm not in moving]:
            note += f" Not on this axis: {', '.join(absent)}."
        axis = {"label": "RAS, strict wins (%)", "percent": True}
        yield Figure(title, note, {"kind": "line", "x": {"label": label}, "y": axis, "series": drawn}, legend)


def _rates(result: StudyResult) -> str:
    """What work is counted by, in words."""
    rates = {name: number(1000 * seconds) for name, seconds in result.rates.items()}
    told = [f"{rates[name]} ms a token {name}" for name in ("sampled", "forwarded", "backwarded") if name in rates]
    return ", ".join([f"{rates.get('steps', 0)} ms a step", *told])


def _selection_figure(result: StudyResult) -> list[Figure]:
    """RAS of every arm over the learning rates that could be chosen; none where there was no choice."""
    styles = arm_styles(arm.arm for arm in result.arms)
    drawn, legend = [], []
    for arm in result.arms:
        offered = sorted((c.learning_rate, c.ras, c.interval) for c in result.candidates if c.arm == arm.arm)
        tried = [(rate, bar or Estimate(ras, ras, ras, 0)) for rate, ras, bar in offered if ras is not None]
        if len(tried) > 1:
            drawn.append(estimates(arm.arm, styles[arm.arm], tried) | {"marked": arm.learning_rate})
            legend.append(Legend(arm.arm, styles[arm.arm], f"{number(arm.learning_rate)} chosen"))
    axes = {"x": {"label": "learning rate", "log": True}, "y": {"label": "RAS, strict wins (%)", "percent": True}}
    note = f"A ring marks the chosen rate. The test prompts took no part. Bars: {level(result.confidence)}."
    drawing = {"kind": "points", "joined": True, **axes, "series": drawn}
    return [Figure("Selection", note, drawing, legend)] if drawn else []


def _comparisons(result: StudyResult) -> Iterator[Table]:
    """The main arm against each other one: over prompts and seeds at once, then over either."""
    sure, n = level(result.confidence), result.prompts

    def gain(compared: Comparison) -> str:
        ratio = compared.relative_ras
        return "" if ratio is None else percent(ratio, compared.difference.over_prompts.n, signed=True)

    yield plain_table(
        f"{result.main} less each other arm, for new prompts and new trainings at once; p after Holm's correction",
        ["against", "RAS", sure, "p", "win or tie", sure, "p"],
        [[arm.other, *both_cells(arm, n)] for arm in result.comparisons if arm.both],
    )
    yield plain_table(
        f"RAS of {result.main} less that of each other arm; p after Holm's correction; relative gain",
        ["against", "points", f"{sure} over prompts", "p", f"{sure} over seeds", "p", "gain"],
        [[arm.other, *difference_cells(arm, n), gain(arm)] for arm in result.comparisons],
    )


def _costs(result: StudyResult) -> Table:
    """What a run of each arm took, on average."""
    rows = []
    for arm in result.arms:
        phases = (f"{arm.cost.seconds[phase]:,.1f}" for phase in ("training", "rollout", "reward", "update"))
        counts = (f"{round(count):,}" for count in (arm.cost.steps, arm.cost.reward_calls, arm.cost.tokens_trained))
        rows.append([arm.arm, number(arm.learning_rate), *counts, *phases])
    title = "One run: learning rate, reward calls, tokens trained on, seconds in all and of each phase"
    columns = ["arm", "rate", "steps", "calls", "tokens", "seconds", "sampling", "reward", "update"]
    if result.rates:
        title, columns = title.replace(", seconds", ", counted work, seconds"), [*columns[:5], "work", *columns[5:]]
        rows = [[*row[:5], f"{arm.cost.work:,.1f}", *row[5:]] for row, arm in zip(rows, result.arms, strict=True)]
    return plain_table(title, columns, rows)


def _dynamics(result: StudyResult) -> Table:
    """How soon and how steadily; without rows where no curves were taken."""
    rows = [
        [arm.arm, _cell(arm.calls_to_best, ",.0f"), _cell(arm.steps_to_best, ".0f"), f"{100 * arm.falling:.0f} %"]
        for arm in result.arms
        if arm.falling is not None
    ]
    columns = ["arm", "reward calls", "steps", "evaluations that fall"]
    return plain_table("How soon each arm reaches 95 % of its own best RAS, and how steadily", columns, rows)


def _selection(result: StudyResult) -> Table:
    """What every learning rate reached on the selection's prompts."""
    chosen = {arm.arm: arm.learning_rate for arm in result.arms}
    rows = []
    for tried in result.candidates:
        ras = "failed" if tried.ras is None else f"{100 * tried.ras:.1f} %"
        sure = interval(tried.interval) if tried.interval else ""
        choice = "chosen" if chosen.get(tried.arm) == tried.learning_rate else ""
        again = _cell(tried.chosen, ".0%").replace("%", " %")
        rows.append(
            [tried.arm, number(tried.learning_rate), ras, sure, _cell(tried.mean_reward, "+.3f"), again, choice]
        )
    columns = ["arm", "rate", "RAS", level(result.confidence), "mean reward", "resamples", ""]
    title = "Learning rates, on training prompts kept away from training; in how many resamples each is chosen"
    return plain_table(title, columns, rows)


def _weights(result: StudyResult) -> Table:
    """The effective weights of arms that are weighted likelihoods; without rows for fewer than two."""
    weighted = result.weights if len(result.weights) > 1 else []
    repeated = any(arm.rescaled for arm in weighted)

    def shown(group: Situation) -> str:
        return ", ".join(f"{part + 0.0:+.2f}" for part in (group.won, group.lost, group.reference) if part is not None)

    rows = [
        [arm.arm, _cell(arm.kappa, ".3f"), *map(shown, arm.situations), *[arm.rescaled or ""] * repeated]
        for arm in weighted
    ]
    scale = "same as: but for scale" if repeated else "none is a rescaling of another"
    title = f"Effective weights: of a won sample, of a lost one, of the reference; {scale}"
    return plain_table(title, ["arm", "kappa", "all lost", "one won", "all won", *["same as"] * repeated], rows)


def _numbers(arm: ArmResult, compared: Comparison | None, result: StudyResult) -> dict[str, object]:
    """One line of the CSV: column -> number, None for an empty cell."""
    measures = {"ras": arm.ras, "ras_win_or_tie": arm.ras_win_or_tie, "nag": arm.nag}
    tests = {}
    if compared:
        measures[f"{result.main}_minus_arm"] = compared.difference
        tests = {name: value for name, value in vars(compared).items() if name.startswith("p_") or "relative" in name}
    line = _point(arm.arm, result.sweep) | {"learning_rate": arm.learning_rate, "seeds": " ".join(map(str, arm.seeds))}
    for name, measured in measures.items():
        line[name] = measured.over_prompts.value
        for kind in ("over_prompts", "over_seeds"):
            line |= _limits(name, kind, getattr(measured, kind))
    return {
        **line,
        **tests,
        **{name: vars(arm)[name] for name in ("mean_reward", "mean_tokens", "truncated")},
        **{name: value for name, value in vars(arm.cost).items() if name not in ("seconds", "work", "stages")},
        **{f"seconds_{phase}": seconds for phase, seconds in arm.cost.seconds.items()},
        **{name: vars(arm)[name] for name in ("calls_to_best", "steps_to_best", "falling")},
    }


def _numbers_over_both(arm: ArmResult, compared: Comparison | None, result: StudyResult) -> dict[str, object]:
    """The last columns of a line: for new prompts and new trainings at once, and how the learning rate was chosen."""
    line: dict[str, object] = {}
    for name in ("ras", "ras_win_or_tie", "nag"):
        line |= _limits(name, "over_both", vars(arm)[name].over_both)
    line |= {"work": arm.cost.work} if result.rates else {}
    if arm.right:
        line |= {"right": arm.right.over_prompts.value, **_limits("right", "over_both", arm.right.over_both)}
    lead = f"{result.main}_minus_arm"
    families = {lead: compared.both, f"{lead}_win_or_tie": compared.win_or_tie} if compared else {}
    for name, tested in families.items():
        if tested:
            line |= {name: tested.difference.value, **_limits(name, "over_both", tested.difference)}
            line |= _limits(name, "simultaneous", tested.simultaneous)
            line |= {f"{name}_p": tested.p, f"{name}_p_corrected": tested.p_corrected}
    points = {point.name: point.ras for point in result.sweep.below} if result.sweep else {}
    if below := points.get(arm.arm):
        line |= {"minus_best": below.difference.value, **_limits("minus_best", "over_both", below.difference)}
        line |= {"minus_best_p": below.p, "minus_best_p_corrected": below.p_corrected}
    chosen = {(tried.arm, tried.learning_rate): tried.chosen for tried in result.candidates}
    share = chosen.get((arm.arm, arm.learning_rate))
    return line if share is None else line | {"learning_rate_chosen_in": share}


def _limits(name: str, kind: str, estimate: Estimate | None) -> dict[str, object]:
    return {f"{name}_{end}_{kind}": getattr(estimate, end, None) for end in ("low", "high")}


def _point(name: str, sweep: Sweep | None) -> dict[str, object]:
    """The arm, and in a sweep its point on each axis."""
    place = next((place for place in sweep.places if place.name == name), None) if sweep else None
    return {"arm": place.arm, **dict(zip(sweep.axes, place.point, strict=True))} if sweep and place else {"arm": name}


def _before(result: StudyResult) -> list[Row]:
    """One row where all arms start alike, as far as they have the same seeds; else one an arm."""
    first = max(result.arms, key=lambda arm: len(arm.seeds))
    if all(arm.before == first.before for arm in result.arms if arm.seeds == first.seeds):
        return [_row(BEFORE, first.before, "")]
    return [_row(f"{arm.arm}, {BEFORE}", arm.before, "") for arm in result.arms]


def _row(label: str, measured: Measured, seeds: str, signed: bool = False) -> Row:
    over = measured.over_prompts
    every = (measured.over_both, over, measured.over_seeds)
    intervals = (tables.interval_over_seeds(each, over.n, signed).removesuffix(" %") for each in every)
    cells = [label, share(over, signed), *intervals, seeds]
    return Row(cells, over, measured.over_both, "earlier" if BEFORE in label else "")


def _cell(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
