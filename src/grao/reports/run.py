"""One run as one self-contained page and its headline as a table, made from the records in its folder alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grao.errors import InputError
from grao.records import run as records
from grao.records.collapse import collapses
from grao.records.files import replace_text
from grao.records.numbers import Estimate
from grao.records.reward_model import RewardModelRecord
from grao.records.run import Evaluation, Gain, Item, Manifest
from grao.records.samples import SampledGroup, read_groups
from grao.reports import tables
from grao.reports.advice import next_steps
from grao.reports.evaluation import answers_table, contest_tables, measures_table
from grao.reports.figures import MOST_POINTS, run_figures, window
from grao.reports.items import compared, pack, read_first, sampled_example, transitions
from grao.reports.parts import render_page
from grao.reports.reproduce import origin, portable
from grao.reports.tables import Table, interval, measured, plain_table, share

_LOOKS = 3
"""Groups of the training that a page shows."""


@dataclass(frozen=True)
class RunRecords:
    """What a run folder holds; None or empty where a part is missing."""

    name: str
    """Of the folder."""
    manifest: Manifest | None
    metrics: list[records.Step]
    evaluation: Evaluation | None
    items: list[Item]
    evaluations: Sequence[records.Step] = ()
    """While training."""
    groups: Sequence[SampledGroup] = ()
    """Completions of the training, the last ones."""

    @property
    def steps(self) -> int | None:
        """Optimiser steps that were logged, None where none was."""
        return round(self.metrics[-1].get("step", len(self.metrics))) if self.metrics else None


def write_report(folder: Path) -> Path:
    """Writes `report.html` into a run folder and returns its path.

    Raises:
        InputError: the folder holds no records, or one that cannot be read.
    """
    path = folder / "report.html"
    replace_text(path, render(read_run(folder)))
    return path


def render(run: RunRecords, state: str = "") -> str:
    """The page as HTML; `state` says how far the run is."""
    evaluation = run.evaluation
    sections, unlogged = run_figures([*run.metrics, *run.evaluations])
    under_way = state and run.manifest and run.manifest.status == "running"
    first, second = compared(evaluation.models if evaluation else run.items[0].answers if run.items else ())
    if evaluation and _several(evaluation):
        first, second = _strongest(evaluation)
    return render_page(
        "run.html.j2",
        name=run.name,
        run=run,
        doubts=evaluation.doubts if evaluation else [],
        state=state,
        headline=run_verdict(evaluation, run.steps) if evaluation or not state else "Not evaluated yet.",
        judged=judged_by(run),
        sentences=[certainty(evaluation), net_gain(evaluation)],
        notices=list(_notices(run, state)),
        tiles=list(_tiles(run)),
        measures=measures_table(evaluation) if evaluation else None,
        contest=list(contest_tables(evaluation)) if evaluation and _several(evaluation) else [],
        answers=answers_table(evaluation) if evaluation else None,
        moved=transitions(run.items, first, second) if first and run.items else None,
        sections=sections,
        unlogged=unlogged,
        window=window(len(run.metrics)),
        thinned=len(run.metrics) > MOST_POINTS,
        examples=read_first(run.items, first, second),
        items=pack(run.items, first, second, "items.jsonl"),
        sampled=[(group.step, sampled_example(group)) for group in reversed(run.groups)],
        spent=list(_spent(run.metrics)),
        steps=[] if under_way else next_steps(run.name, run.manifest, run.metrics, evaluation),
        **origin(run.manifest or Manifest()),
    )


def judged_by(run: RunRecords) -> str:
    """Who says so, in words: the judges of the evaluation or, in older records, the rewards of the recipe."""
    if run.evaluation is None:
        return ""
    rewards = (run.manifest.config if run.manifest else {}).get("rewards")
    kinds = ("function", "judge", "model", "rule")
    parts = [reward for reward in rewards if isinstance(reward, dict)] if isinstance(rewards, list) else []
    named = [f"{kind} {_name_of(part[kind])}" for part in parts for kind in kinds if part.get(kind)]
    judges = run.evaluation.judges or named
    return f"According to {' and '.join(judges)}." if judges else ""


def _name_of(reward: Any) -> str:
    """Of a reward in a recipe: the file of a function, the model of a judge, the kind of a rule."""
    given = {name: value for name, value in reward.items() if value} if isinstance(reward, dict) else {"path": reward}
    return str(portable(given.get("model") or given.get("path") or next(iter(given), "")))


def reward_model_table(record: RewardModelRecord) -> Table:
    """Accuracy on held-out pairs beside what length alone would reach."""
    scores, correlation = record.scores, record.scores.length_correlation
    related = tables.NOT_MEASURED if correlation is None else f"{correlation:+.2f}"
    return plain_table(
        f"{scores.accuracy.n:,} held-out pairs",
        ["Measure", "Value", f"{tables.level(record.config['confidence'])} interval"],
        [
            ["the better answer scores higher", share(scores.accuracy), interval(scores.accuracy)],
            ["the better answer is the longer one", share(scores.longer), interval(scores.longer)],
            ["correlation of differences in score and length", related, ""],
            ["mean difference in score", f"{scores.mean_margin:+.3f}", ""],
            ["equal scores, counted as wrong", f"{scores.ties:,}", ""],
        ],
    )


def run_verdict(evaluation: Evaluation | None, steps: int | None) -> str:
    """One sentence: how often the answers beat the reference after training, and before.

    Args:
        evaluation: None where the run has none.
        steps: optimiser steps that were taken, None where that is not known.
    """
    if evaluation is None or not evaluation.models:
        return "This run was not evaluated: its answers have not been compared with the references."
    before, after = evaluation.models.get("before"), evaluation.models.get("after")
    if _several(evaluation):
        return _leader(evaluation)
    if after is None:
        name, scores = next(iter(evaluation.models.items()))
        start = "Before training" if name == "before" else f"With the model {name!r}"
        return f"{start} {_beats(scores.ras)}; there is no evaluation after training."
    start = "After training" if steps is None else f"After {steps:,} step{'' if steps == 1 else 's'}"
    sentence = f"{start} {_beats(after.ras)}"
    if before is None:
        return f"{sentence}; there is no evaluation before training."
    if not measured(before.ras):
        return f"{sentence}; before: {tables.NOT_MEASURED}."
    prompts = "" if before.ras.n == after.ras.n else f" of {before.ras.n:,} prompts"
    return f"{sentence}; before: {share(before.ras)}{prompts} ({interval(before.ras)})."


def _several(evaluation: Evaluation | None) -> bool:
    """Whether it is of models side by side, and not of one before and after training."""
    return evaluation is not None and bool(evaluation.ranking) and "after" not in evaluation.models


def _strongest(evaluation: Evaluation) -> tuple[str, str]:
    """Of several models the second and the first by rank."""
    first, second = [rank.name for rank in evaluation.ranking if rank.name in evaluation.models][:2]
    return second, first


def _leader(evaluation: Evaluation) -> str:
    """Of several models, which one stands highest, and whether the next one can be told from it."""
    second, first = _strongest(evaluation)
    pair = next(name for name in (f"{first}|{second}", f"{second}|{first}") if name in evaluation.corrected)
    told, p = evaluation.corrected[pair] <= 1 - evaluation.confidence, tables.p_value(evaluation.corrected[pair])
    apart = "can be told from it" if told else "cannot be told from it"
    scores = evaluation.models[first]
    return (
        f"Of {len(evaluation.models)} models {first!r} stands highest: {_beats(scores.ras)}. The next, {second!r}, "
        f"{apart} (p {p if p.startswith('<') else f'= {p}'}, Holm)."
    )


def certainty(evaluation: Evaluation | None) -> str:
    """Whether the change from before to after is clear of chance, and by which interval; empty without both.

    The relative RAS gain is measured on the same prompts and decides where it exists; without it (the model
    before never won) the two RAS intervals do, which is the more cautious test.
    """
    if evaluation is None or not {"before", "after"} <= evaluation.models.keys():
        return ""
    before, after = evaluation.models["before"].ras, evaluation.models["after"].ras
    if not (measured(before) and measured(after)):
        return ""
    gain, sure = _gain(evaluation), tables.level(evaluation.confidence)
    if gain and (relative := gain.relative_ras) and measured(relative):
        more, less = relative.low > 0, relative.high < 0
        zero = "excludes zero" if more or less else "contains zero"
        reason = f"the {sure} interval of the relative gain, {interval(relative, signed=True)}, {zero}"
    else:
        more, less = after.low > before.high, after.high < before.low
        reason = f"the two {sure} intervals {'do not overlap' if more or less else 'overlap'}"
    clear = f"That is clearly {'more' if more else 'less'} often than before"
    return f"{clear if more or less else 'The change is not clear of chance'}: {reason}."


def net_gain(evaluation: Evaluation | None) -> str:
    """One sentence on the answers after training against those before; empty where they were not compared."""
    gain = _gain(evaluation)
    if gain is None or not measured(gain.nag):
        return ""
    return (
        f"Put side by side on {gain.nag.n:,} prompts, the answers after training win against those before in "
        f"{share(gain.nag_win)}; wins minus losses is {share(gain.nag, signed=True)} "
        f"({interval(gain.nag, signed=True)})."
    )


def _gain(evaluation: Evaluation | None) -> Gain | None:
    """The comparison of the models after and before training, None where there is none."""
    gains = evaluation.gains if evaluation else []
    return next((gain for gain in gains if (gain.model, gain.baseline) == ("after", "before")), None)


def _beats(ras: Estimate) -> str:
    if not measured(ras):
        return "no verdict against the reference could be had"
    return f"the answers beat the reference in {share(ras)} of {ras.n:,} prompts ({interval(ras)})"


def read_run(folder: Path) -> RunRecords:
    """All records of a folder.

    Raises:
        InputError: there are none, or one cannot be read.
    """
    manifest, metrics = records.read_manifest(folder), records.read_metrics(folder)
    evaluation, items = records.read_evaluation(folder), records.read_items(folder)
    if manifest is None and evaluation is None and not metrics:
        raise InputError(f"{folder}: no manifest.json, metrics.jsonl or evaluation.json here; give the folder of a run")
    looks, groups = records.read_evaluations(folder), read_groups(folder)[-_LOOKS:]
    return RunRecords(folder.resolve().name, manifest, metrics, evaluation, items, looks, groups)


def _notices(run: RunRecords, state: str) -> Iterator[str]:
    """How far the run is and what is missing from it, one sentence each."""
    manifest, evaluation = run.manifest, run.evaluation
    if state:
        yield state
    elif manifest is None:
        yield "There is no manifest.json in this folder: settings and origin of the run are not known."
    elif not manifest.complete:
        status = f" (status: {manifest.status})" if manifest.status else ""
        planned = manifest.steps or manifest.setting("training", "steps")  # of all stages, or of the last
        reach = f" It reached step {run.steps or 0:,} of {planned:,}." if isinstance(planned, int) else ""
        yield f"This run has not come to its end{status}; the page shows what it has recorded so far.{reach}"
    yield from _hand_overs(run)
    if not run.metrics and not _several(evaluation):
        yield "No training step has been logged, so there are no curves."
    if hacked := [step for step in run.metrics if step.get("watch/alarm") == records.Alarm.HACKED]:
        yield (
            f"The reward was probably being hacked from step {hacked[0].get('step', 0):,.0f} on: the second reward "
            "fell while the one that is trained on did not."
        )
    for collapse in collapses(run.metrics):
        yield f"The policy may have collapsed, {collapse}."
    if evaluation is None:
        return
    if not run.items:
        yield "There is no items.jsonl in this folder, so no answers can be shown."
    for name, scores in evaluation.models.items():
        if scores.missing:
            yield (
                f"No verdict could be had on the {name!r} answers to {scores.missing:,} of {evaluation.prompts:,} "
                "prompts; they are in no estimate."
            )


def _hand_overs(run: RunRecords) -> Iterator[str]:
    """Where each stage ended, and how the held-out prompts stood there."""
    names = run.manifest.stages if run.manifest else []
    ends = {round(step["stage"]): step["step"] for step in run.metrics if "stage" in step}
    for number, name in enumerate(names[: max(ends, default=1) - 1], start=1):
        at = ends.get(number)
        wins = next((look["eval/win"] for look in run.evaluations if look.get("step") == at), None)
        stood = "" if wins is None else f", with wins on {wins:.0%} of the held-out prompts"
        yield f"Stage {number} of {len(names)}, {name}, ended after step {at or 0:,.0f}{stood}."


def _tiles(run: RunRecords) -> Iterator[tuple[str, str]]:
    """The small numbers that are known."""
    manifest, metrics = run.manifest or Manifest(), run.metrics
    data = manifest.data.model_dump(exclude_unset=True)
    if run.steps is not None:
        yield f"{run.steps:,}", "optimiser steps"
    if seconds := manifest.seconds or (metrics[-1].get("seconds") if metrics else None):
        yield tables.duration(seconds), "wall time"
    held_out = run.evaluation.prompts if run.evaluation else data.get("held_out")
    trained = None if _several(run.evaluation) else data.get("prompts")
    for prompts, label in ((trained, "training prompts"), (held_out, "held-out prompts")):
        if prompts is not None:
            yield f"{prompts:,}", label
    tokens = sum(step.get("tokens/sampled", 0.0) for step in metrics)
    group = manifest.setting("rollout", "group_size")
    if isinstance(group, int) and not _several(run.evaluation) and (tokens or not metrics):  # not every method samples
        yield f"{group:,}", "samples per prompt"
    if tokens:
        size, unit = next(((s, f" {u}") for s, u in ((1e9, "billion"), (1e6, "million")) if tokens >= s), (1, ""))
        yield f"{tokens / size:,.{1 if unit else 0}f}{unit}", "tokens sampled"


def _spent(metrics: Sequence[records.Step]) -> Iterator[Table]:
    """What training took by phase, and what each judge was asked in it, as far as that was logged."""
    names = {"rollout": "sampling", "reward": "rewards", "update": "update"}
    spent = {label: _total(metrics, f"seconds/{phase}") for phase, label in names.items()}
    whole = _total(metrics, "seconds/step") or sum(spent.values())
    if whole:
        spent["all else"] = max(whole - sum(spent.values()), 0.0)
        rows = [[name, tables.duration(part), tables.percent(part / whole, 0)] for name, part in spent.items()]
        yield plain_table("Time of training", ["Phase", "Time", "Share"], rows)
    judges = dict.fromkeys(
        name.removeprefix("judge_").removesuffix("/requests")
        for step in metrics
        for name in step
        if name.startswith("judge_") and name.endswith("/requests")
    )
    rows = []
    for judge in judges:
        counts = [_total(metrics, f"judge_{judge}/{what}") for what in ("requests", "cached", "unreadable", "failed")]
        flips = [step[f"judge_{judge}/flip"] for step in metrics if f"judge_{judge}/flip" in step]
        cost = _total(metrics, f"judge_{judge}/cost")
        flipped = tables.percent(sum(flips) / len(flips), 0) if flips else "-"
        rows.append([judge, *(f"{count:,.0f}" for count in counts), flipped, f"{cost:,.2f}" if cost else "no price"])
    if rows:
        columns = ["Judge", "Asked", "Known already", "Unreadable", "No answer", "Contradicts itself", "Paid"]
        yield plain_table("Questions of training", columns, rows)


def _total(metrics: Sequence[records.Step], name: str) -> float:
    return sum(step.get(name, 0.0) for step in metrics)
