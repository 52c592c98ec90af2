"""The report of a study: a self-contained page, a CSV file and terminal tables."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from grao.records.answers import read_answers
from grao.records.files import replace_text
from grao.records.numbers import Estimate, Measured
from grao.records.run import Item
from grao.records.study import ArmResult, Comparison, StudyResult, Sweep, WeightExample
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
    ("ras", "RAS, strict wins", "share of answers that beat the reference", False),
    ("ras_win_or_tie", "RAS, win or tie", "share of answers that beat or tie with the reference", False),
    ("right", "Correct answers", "according to the gold judge of the embedded world", False),
    ("nag", "NAG, net", "wins minus losses of the answers after training against those before", True),
)
"""Field of `ArmResult`, title, meaning, and whether it may be negative."""
_MOST_ARMS = 12
"""Largest number of arms for which the matrix of pairs is shown."""
_AXES = (
    ("RAS by counted work", "counted work (seconds)", "work"),
    ("RAS by optimiser step", "optimiser step", "step"),
    ("RAS by reward calls", "reward calls", "reward_calls"),
    ("RAS by training time", "training time (seconds)", "seconds"),
)
"""Title, label, and field of `BandPoint` for each horizontal axis."""


def write_study_report(folder: Path, result: StudyResult, recipe: str) -> Path:
    """Write `study.html` and `study.csv` into the folder of a study.

    Args:
        folder: of the study.
        result: numbers of the study.
        recipe: configuration of the study as YAML.

    Returns:
        Path of `study.html`.
    """
    path = folder / "study.html"
    replace_text(path, render_study(folder.resolve().name, result, recipe, read_answers(folder, result)))
    replace_text(folder / "study.csv", study_csv(result))
    return path


def render_study(name: str, result: StudyResult, recipe: str, items: Sequence[Item] = ()) -> str:
    """Render the page as HTML.

    Args:
        name: of the study's folder.
        result: numbers of the study.
        recipe: configuration of the study as YAML.
        items: held-out prompts with the answers of the arms; empty if none were kept.
    """
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
            (str(result.seeds), "seeds per arm"),
            (f"{result.prompts:,}", "held-out prompts"),
            (result.budget, "budget per run"),
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
    """Tables for the terminal, with a separate table for each measure."""
    columns = ["", "value", f"{level(result.confidence)} CI over both", "over prompts", "over seeds", "seeds"]
    blocks = [] if result.sweep else _measures(result).blocks
    measures = (Table(columns, [block], f"{block.title}: {block.note}", dense=True) for block in blocks)
    return [*measures, *_details(result)]


def study_csv(result: StudyResult) -> str:
    """All numbers as CSV, unrounded, one row per arm.

    The comparison of the main arm with another arm is in the other arm's row. Intervals over prompts and seeds are
    the last columns.
    """
    swept = result.sweep
    against = {compared.other: compared for compared in (swept.contrasts if swept else result.comparisons)}
    first = [_numbers(arm, against.get(arm.arm), result) for arm in result.arms]
    last = [_numbers_over_both(arm, against.get(arm.arm), result) for arm in result.arms]
    names = list(dict.fromkeys(name for line in (*first, *last) for name in line))
    lines = [start | end for start, end in zip(first, last, strict=True)]
    cells = [["" if line.get(name) is None else str(line[name]) for name in names] for line in lines]
    return plain_table("", names, cells).csv()


def _measures(result: StudyResult) -> Table:
    """Headline table: each measure of every arm, highest first, and RAS before training."""
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
    return Table(columns, blocks, scale="thick: over prompts, thin: over both")


def _matrix(result: StudyResult) -> Table | None:
    """RAS of each row's arm minus that of each column's arm, highest first; None if pairs were not tested."""
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
        marks = "".join(letter for letter, p in tests.items() if p is not None and p <= 1 - result.confidence)
        return tables.points(sign * pair.difference.over_prompts.value, result.prompts) + (f" {marks}" if marks else "")

    rows = [[row, *(cell(row, column) for column in names)] for row in names]
    return plain_table("Pairwise differences", ["", *names], rows)


def _details(result: StudyResult) -> list[Table]:
    """The tables after the headline, without empty ones."""
    swept = result.sweep
    compared = sweep_tables(result, swept) if swept else [*_comparisons(result), _weights(result)]
    offered = [*compared, _costs(result), _dynamics(result), _selection(result)]
    return [replace(table, dense=True) for table in offered if any(table.rows)]


def _figures(result: StudyResult) -> Iterator[Figure]:
    """RAS over counted work, steps, reward calls and time, each with the arms for which that axis is not 0."""
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
        note = "There are no bands because there is only one seed."
        if banded:
            note = f"Bands: {level(result.confidence)} confidence intervals over seeds."
        if x == "work":
            note += f" Work is counted at the rates measured when the study began: {_rates(result)}."
        if absent := [arm for arm in order if arm not in moving]:
            note += f" Not shown, because zero on this axis: {', '.join(absent)}."
        axis = {"label": "RAS, strict wins (%)", "percent": True}
        yield Figure(title, note, {"kind": "line", "x": {"label": label}, "y": axis, "series": drawn}, legend)


def _rates(result: StudyResult) -> str:
    """The rates of counted work, in words."""
    rates = {name: number(1000 * seconds) for name, seconds in result.rates.items()}
    passes = {"sampled": "sampled", "forwarded": "forward", "backwarded": "forward and backward"}
    tokens = [f"{rates[name]} ms per token ({words})" for name, words in passes.items() if name in rates]
    return ", ".join([f"{rates.get('steps', 0)} ms per step", *tokens])


def _selection_figure(result: StudyResult) -> list[Figure]:
    """RAS of every arm over its candidate learning rates; empty if there was nothing to choose."""
    styles = arm_styles(arm.arm for arm in result.arms)
    drawn, legend = [], []
    for arm in result.arms:
        candidates = sorted((c.learning_rate, c.ras, c.interval) for c in result.candidates if c.arm == arm.arm)
        tried = [(rate, bar or Estimate(ras, ras, ras, 0)) for rate, ras, bar in candidates if ras is not None]
        if len(tried) > 1:
            drawn.append(estimates(arm.arm, styles[arm.arm], tried) | {"marked": arm.learning_rate})
            legend.append(Legend(arm.arm, styles[arm.arm], f"{number(arm.learning_rate)} chosen"))
    axes = {"x": {"label": "learning rate", "log": True}, "y": {"label": "RAS, strict wins (%)", "percent": True}}
    note = (
        "A ring marks the chosen rate. The held-out prompts play no part in the choice. Bars: "
        f"{level(result.confidence)} confidence intervals."
    )
    drawing = {"kind": "points", "joined": True, **axes, "series": drawn}
    return [Figure("RAS by learning rate", note, drawing, legend)] if drawn else []


def _comparisons(result: StudyResult) -> Iterator[Table]:
    """The main arm against each other one: over prompts and seeds, then over either alone."""
    confidence, n = f"{level(result.confidence)} CI", result.prompts

    def gain(compared: Comparison) -> str:
        ratio = compared.relative_ras
        return "" if ratio is None else percent(ratio, compared.difference.over_prompts.n, signed=True)

    yield plain_table(
        f"{result.main} minus each other arm, over prompts and seeds; Holm-adjusted p",
        ["against", "RAS", confidence, "p", "win or tie", confidence, "p"],
        [[arm.other, *both_cells(arm, n)] for arm in result.comparisons if arm.both],
    )
    yield plain_table(
        f"RAS of {result.main} minus that of each other arm, with Holm-adjusted p and relative gain",
        ["against", "points", f"{confidence} over prompts", "p", f"{confidence} over seeds", "p", "gain"],
        [[arm.other, *difference_cells(arm, n), gain(arm)] for arm in result.comparisons],
    )


def _costs(result: StudyResult) -> Table:
    """Mean cost of a run of each arm."""
    rows = []
    for arm in result.arms:
        phases = (f"{arm.cost.seconds[phase]:,.1f}" for phase in ("training", "rollout", "reward", "update"))
        counts = (f"{round(count):,}" for count in (arm.cost.steps, arm.cost.reward_calls, arm.cost.tokens_trained))
        rows.append([arm.arm, number(arm.learning_rate), *counts, *phases])
    title = "Mean cost per run: learning rate, reward calls, tokens trained on, seconds in total and by phase"
    columns = ["arm", "rate", "steps", "calls", "tokens", "seconds", "sampling", "reward", "update"]
    if result.rates:
        title, columns = title.replace(", seconds", ", counted work, seconds"), [*columns[:5], "work", *columns[5:]]
        rows = [[*row[:5], f"{arm.cost.work:,.1f}", *row[5:]] for row, arm in zip(rows, result.arms, strict=True)]
    return plain_table(title, columns, rows)


def _dynamics(result: StudyResult) -> Table:
    """Sample efficiency and steadiness of the curves; without rows if no curves were recorded."""
    rows = [
        [arm.arm, _cell(arm.calls_to_best, ",.0f"), _cell(arm.steps_to_best, ".0f"), f"{100 * arm.falling:.0f} %"]
        for arm in result.arms
        if arm.falling is not None
    ]
    columns = ["arm", "reward calls", "steps", "declining evaluations"]
    title = "Reward calls and steps to 95 % of the arm's best RAS, and share of evaluations below the previous one"
    return plain_table(title, columns, rows)


def _selection(result: StudyResult) -> Table:
    """Results of every candidate learning rate on the prompts of the selection."""
    chosen = {arm.arm: arm.learning_rate for arm in result.arms}
    rows = []
    for tried in result.candidates:
        ras = "failed" if tried.ras is None else f"{100 * tried.ras:.1f} %"
        limits = interval(tried.interval) if tried.interval else ""
        choice = "chosen" if chosen.get(tried.arm) == tried.learning_rate else ""
        resamples = _cell(tried.chosen, ".0%").replace("%", " %")
        reward = _cell(tried.mean_reward, "+.3f")
        rows.append([tried.arm, number(tried.learning_rate), ras, limits, reward, resamples, choice])
    columns = ["arm", "rate", "RAS", f"{level(result.confidence)} CI", "mean reward", "resamples", ""]
    title = "Candidate learning rates on the selection's prompts, and share of bootstrap resamples that choose each"
    return plain_table(title, columns, rows)


def _weights(result: StudyResult) -> Table:
    """Effective weights of the arms that are weighted likelihoods; without rows for fewer than two such arms."""
    weighted = result.weights if len(result.weights) > 1 else []
    repeated = any(arm.rescaled for arm in weighted)

    def shown(group: WeightExample) -> str:
        return ", ".join(f"{part + 0.0:+.2f}" for part in (group.won, group.lost, group.reference) if part is not None)

    rows = [
        [arm.arm, _cell(arm.kappa, ".3f"), *map(shown, arm.situations), *[arm.rescaled or ""] * repeated]
        for arm in weighted
    ]
    scale = "'same as': equal up to scale" if repeated else "no arm is a rescaling of another"
    title = f"Effective weights of a winning sample, a losing sample and the reference; {scale}"
    return plain_table(title, ["arm", "kappa", "all lost", "one won", "all won", *["same as"] * repeated], rows)


def _numbers(arm: ArmResult, compared: Comparison | None, result: StudyResult) -> dict[str, object]:
    """One row of the CSV: column -> number, None for an empty cell."""
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
    """Last columns of a row: intervals and tests over prompts and seeds, and how the learning rate was chosen."""
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
    """The arm's name and, in a sweep, its label on each axis."""
    place = next((place for place in sweep.places if place.name == name), None) if sweep else None
    return {"arm": place.arm, **dict(zip(sweep.axes, place.point, strict=True))} if sweep and place else {"arm": name}


def _before(result: StudyResult) -> list[Row]:
    """RAS before training: one row if all arms with the same seeds start alike, otherwise one row per arm."""
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
