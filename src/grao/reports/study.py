"""A study as one self-contained page, a CSV file and terminal tables, with what it comes to in words."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from grao.records.files import replace_text
from grao.records.study import ArmResult, Comparison, Measured, Situation, StudyResult, Sweep
from grao.reports import tables
from grao.reports.figures import ArmLine, Figure, Legend, paint_arms, picture, ticks
from grao.reports.parts import render_page
from grao.reports.sweep import difference_cells, sweep_figures, sweep_headline, sweep_sentences, sweep_tables
from grao.reports.tables import Block, Row, Table, level, number, percent, plain_table, share

BEFORE = "before training"
_MEASURES = (
    ("ras", "RAS, strict wins", "answers that beat the reference", False),
    ("ras_win_or_tie", "RAS, win or tie", "answers that beat the reference or draw level", False),
    ("nag", "NAG, net", "answers after training against those before, wins minus losses", True),
)
"""Field of `ArmResult`, title, meaning, and whether it may be negative."""
_AXES = (
    ("steps", "By optimiser steps", "optimiser steps", "step"),
    ("calls", "By reward calls", "rewards asked for", "reward_calls"),
    ("seconds", "By time", "seconds of training", "seconds"),
)
"""Key, title, label, and field of `BandPoint`, of each horizontal axis."""


def write_study_report(folder: Path, result: StudyResult, recipe: str) -> Path:
    """Writes `study.html` and `study.csv` into the folder of a study.

    Args:
        folder: of the study.
        result: its numbers.
        recipe: the study as YAML.
    """
    path = folder / "study.html"
    replace_text(path, render_study(folder.resolve().name, result, recipe))
    replace_text(folder / "study.csv", study_csv(result))
    return path


def render_study(name: str, result: StudyResult, recipe: str) -> str:
    """The page as HTML."""
    swept = result.sweep
    return render_page(
        "study.html.j2",
        name=name,
        model="",
        result=result,
        headline=sweep_headline(result, swept) if swept else headline(result),
        sentences=sweep_sentences(result, swept) if swept else [on_prompts(result), on_seeds(result)],
        notices=notes(result),
        tiles=[
            (str(len(result.arms)), "arms"),
            (str(result.seeds), "seeds of each"),
            (f"{result.prompts:,}", "held-out prompts"),
            (result.budget, "budget of a run"),
        ],
        measures=None if swept else _measures(result),
        tables=_details(result),
        figures=sweep_figures(result, swept) if swept else list(_figures(result)),
        recipe=recipe,
    )


def study_tables(result: StudyResult) -> list[Table]:
    """For the terminal, where each measure is a table of its own."""
    sure = level(result.confidence)
    columns = ["", "value", f"{sure} over prompts", f"{sure} over seeds", "seeds"]
    blocks = [] if result.sweep else _measures(result).blocks
    measures = (Table(columns, [block], f"{block.title}: {block.note}", dense=True) for block in blocks)
    return [*measures, *_details(result)]


def verdict(result: StudyResult) -> str:
    """One paragraph: what was reached, what holds for other prompts, what for training again."""
    return " ".join(sentence for sentence in (headline(result), on_prompts(result), on_seeds(result)) if sentence)


def headline(result: StudyResult) -> str:
    """What the main arm reached."""
    main = next((arm for arm in result.arms if arm.arm == result.main), None)
    if main is None:
        return f"No run of {result.main} came to its end, so nothing is compared with it."
    over = "" if len(main.seeds) == 1 else f", mean over {len(main.seeds)} seeds"
    return (
        f"After {result.budget} {main.arm} beats the reference on {share(main.ras.over_prompts)} of {result.prompts:,} "
        f"held-out prompts{over}; before training it was {share(main.before.over_prompts)}."
    )


def on_prompts(result: StudyResult) -> str:
    """What holds for other prompts, with these very models."""
    if not result.comparisons:
        return ""
    these = "these very models" if len(result.comparisons[0].seeds) > 1 else "these very models, of one seed"
    told = _told(result, lambda compared: compared.p_prompts_corrected)
    return f"On other prompts of the kind, for {these}: {result.main} {told}."


def on_seeds(result: StudyResult) -> str:
    """What holds for training again; or that so few seeds cannot tell."""
    compared = result.comparisons
    if not compared:
        return ""
    fewest = min(len(other.seeds) for other in compared)
    needed = tables.seeds_needed(len(compared), 1 - result.confidence)
    if fewest < needed:
        tests = "a test" if len(compared) == 1 else f"{len(compared)} tests after correction"
        return (
            f"Whether it holds if all is trained again {fewest} seed{'s' * (fewest > 1)} cannot tell: for {tests} "
            f"at {level(1 - result.confidence)} it takes at least {needed}."
        )
    told = _told(result, lambda compared: compared.p_seeds_corrected)
    return f"If all is trained again, on these very prompts: {result.main} {told}."


def notes(result: StudyResult) -> Iterator[str]:
    """What a reader should know before believing the numbers, one sentence each."""
    for failure in result.failures:
        yield f"The run {failure.cell} failed, --retry tries it again: {failure.error}"
    for name in result.absent:
        yield f"{name} is missing: no run of it came to its end."
    for arm in result.arms:
        if len(arm.seeds) < result.seeds:
            yield f"{arm.arm} has {len(arm.seeds)} of {result.seeds} seeds; comparisons use those that both arms have."
    for side, end in (("smallest", min), ("largest", max)):
        if at_edge := [f"{arm.arm} ({number(arm.learning_rate)})" for arm in result.arms if _at(arm, result, end)]:
            yield f"The {side} learning rate offered was selected for {_listed(at_edge)}: a better one may lie beyond."
    if len(result.versions) > 1:
        yield "The runs were made with different versions of the libraries; see the end of the page."


def study_csv(result: StudyResult) -> str:
    """One line an arm, every number unrounded; a comparison stands with the other arm."""
    swept = result.sweep
    against = {compared.other: compared for compared in (swept.contrasts if swept else result.comparisons)}
    lines = [_numbers(arm, against.get(arm.arm), result) for arm in result.arms]
    names = list(dict.fromkeys(name for line in lines for name in line))
    cells = [["" if line.get(name) is None else str(line[name]) for name in names] for line in lines]
    return plain_table("", names, cells).csv()


def _measures(result: StudyResult) -> Table:
    """The headline: RAS and NAG of every arm, under those of the model before training."""
    blocks = []
    for field, title, note, signed in _MEASURES:
        rows = [_row(arm.arm, getattr(arm, field), str(len(arm.seeds)), signed) for arm in result.arms]
        blocks.append(Block([*(_before(result) if field == "ras" else []), *rows], title, note, signed))
    columns = ["Arm", "Value", "over prompts", "over seeds", "Seeds"]
    return Table(columns, blocks, scale="over prompts; 0 to 100 %, net values -100 to 100 %")


def _details(result: StudyResult) -> list[Table]:
    """All tables behind the headline that have something to say."""
    swept = result.sweep
    compared = sweep_tables(result, swept) if swept else [_comparisons(result), _weights(result)]
    offered = [*compared, _costs(result), _dynamics(result), _selection(result)]
    return [replace(table, dense=True) for table in offered if any(table.rows)]


def _told(result: StudyResult, p: Callable[[Comparison], float | None]) -> str:
    """`beats a by +3.2 points (...), loses to b by ..., and does not differ significantly from c (...)`."""
    groups: dict[str, list[str]] = {"beats": [], "loses to": [], "does not differ significantly from": []}
    for compared in result.comparisons:
        tested, over = p(compared), compared.difference.over_prompts
        sure = tested is not None and tested <= 1 - result.confidence
        kind = ("beats" if over.value > 0 else "loses to") if sure else "does not differ significantly from"
        shown, ahead = tables.p_value(tested), tables.points(over.value, over.n)
        groups[kind].append(f"{compared.other} ({ahead} points, p {'' if shown.startswith('<') else '= '}{shown})")
    return _listed([f"{kind} {_listed(arms)}" for kind, arms in groups.items() if arms])


def _at(arm: ArmResult, result: StudyResult, end: Callable[[Sequence[float]], float]) -> bool:
    """Whether an arm's learning rate is one end of its grid."""
    rates = [candidate.learning_rate for candidate in result.candidates if candidate.arm == arm.arm]
    return len(rates) > 1 and arm.learning_rate == end(rates)


def _listed(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _figures(result: StudyResult) -> Iterator[Figure]:
    """RAS of every arm over steps, reward calls and seconds, each with the arms that move on that axis."""
    order, n = [arm.arm for arm in result.arms], result.prompts
    bands = {band.arm: band.points for band in result.curves if len(band.points) > 1}
    for key, title, label, x in _AXES:
        lines = {
            arm: ArmLine(order.index(arm), [(getattr(p, x), p.ras) for p in band], any(p.ras.n > 1 for p in band))
            for arm, band in bands.items()
            if getattr(band[-1], x) > 0
        }
        if not lines:
            continue
        legend = [Legend(arm, line.hue, percent(line.points[-1][1].value, n)) for arm, line in lines.items()]
        banded = any(line.banded for line in lines.values())
        note = f"Bands: {level(result.confidence)} over seeds." if banded else "One seed, so there are no bands."
        if absent := [arm for arm in order if arm not in lines]:
            note += f" Not on this axis: {', '.join(absent)}."
        spoken = "; ".join(f"{entry.label} ends at {entry.change}" for entry in legend)
        paint = partial(_paint, list(lines.values()), label)
        yield Figure(title, note, picture(paint, key, f"RAS {title.lower()}: {spoken}."), legend)


def _paint(lines: Sequence[ArmLine], label: str, axes: Axes) -> None:
    paint_arms(axes, lines, label)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.xaxis.set_major_formatter(ticks())


def _comparisons(result: StudyResult) -> Table:
    """The main arm against each other one."""
    sure = level(result.confidence)

    def gain(compared: Comparison) -> str:
        ratio = compared.relative_ras
        return "" if ratio is None else percent(ratio, compared.difference.over_prompts.n, signed=True)

    return plain_table(
        f"RAS of {result.main} less that of each other arm; p after Holm's correction; relative gain",
        ["against", "points", f"{sure} over prompts", "p", f"{sure} over seeds", "p", "gain"],
        [[arm.other, *difference_cells(arm, result.prompts), gain(arm)] for arm in result.comparisons],
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
        choice = "chosen" if chosen.get(tried.arm) == tried.learning_rate else ""
        rows.append([tried.arm, number(tried.learning_rate), ras, _cell(tried.mean_reward, "+.3f"), choice])
    columns = ["arm", "learning rate", "RAS", "mean reward", ""]
    return plain_table("Learning rates, on training prompts kept away from training", columns, rows)


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
        for kind, estimate in vars(measured).items():
            line |= {f"{name}_{end}_{kind}": getattr(estimate, end, None) for end in ("low", "high")}
    return {
        **line,
        **tests,
        **{name: vars(arm)[name] for name in ("mean_reward", "mean_tokens", "truncated")},
        **{name: value for name, value in vars(arm.cost).items() if name != "seconds"},
        **{f"seconds_{phase}": seconds for phase, seconds in arm.cost.seconds.items()},
        **{name: vars(arm)[name] for name in ("calls_to_best", "steps_to_best", "falling")},
    }


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
    over_seeds = tables.interval_over_seeds(measured.over_seeds, over.n, signed)
    cells = [label, share(over, signed), tables.interval(over, signed), over_seeds, seeds]
    return Row(cells, over, earlier=BEFORE in label)


def _cell(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
