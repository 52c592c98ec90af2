"""The report page of a run and its headline sentences, made only from the records in the run folder."""

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
from grao.reports.items import models_to_compare, pack, read_first, sampled_example, transitions
from grao.reports.parts import render_page
from grao.reports.reproduce import portable, template_variables
from grao.reports.tables import Table, interval, is_measured, plain_table, share

_SHOWN_GROUPS = 3
"""Sampled training groups that a page shows, the most recent ones."""


@dataclass(frozen=True)
class RunRecords:
    """The records of a run folder; a missing part is None or empty."""

    name: str
    """Name of the folder."""
    manifest: Manifest | None
    metrics: list[records.Step]
    evaluation: Evaluation | None
    items: list[Item]
    evaluations: Sequence[records.Step] = ()
    """Evaluations during training."""
    groups: Sequence[SampledGroup] = ()
    """The most recent groups sampled in training."""

    @property
    def steps(self) -> int | None:
        """Number of the last logged optimiser step; None if none was logged."""
        return round(self.metrics[-1].get("step", len(self.metrics))) if self.metrics else None


def write_report(folder: Path) -> Path:
    """Write `report.html` into a run folder and return its path.

    Raises:
        InputError: if the folder has no records, or a record cannot be read.
    """
    path = folder / "report.html"
    replace_text(path, render(read_run(folder)))
    return path


def render(run: RunRecords, state: str = "") -> str:
    """Render the page as HTML.

    Args:
        run: records of the run.
        state: a sentence about the progress of an unfinished run; empty for a finished one.
    """
    evaluation = run.evaluation
    sections, unlogged = run_figures([*run.metrics, *run.evaluations])
    running = state and run.manifest and run.manifest.status == "running"
    first, second = models_to_compare(evaluation.models if evaluation else run.items[0].answers if run.items else ())
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
        steps=[] if running else next_steps(run.name, run.manifest, run.metrics, evaluation),
        **template_variables(run.manifest or Manifest()),
    )


def judged_by(run: RunRecords) -> str:
    """Name the judges of the evaluation in a sentence; for older records without judges, the rewards of the recipe."""
    if run.evaluation is None:
        return ""
    rewards = (run.manifest.config if run.manifest else {}).get("rewards")
    kinds = ("function", "judge", "model", "rule")
    parts = [reward for reward in rewards if isinstance(reward, dict)] if isinstance(rewards, list) else []
    names = [f"{kind} {_reward_name(part[kind])}" for part in parts for kind in kinds if part.get(kind)]
    judges = run.evaluation.judges or names
    return f"Verdicts by {' and '.join(judges)}." if judges else ""


def _reward_name(reward: Any) -> str:
    """Name a reward of a recipe: the file of a function, the model of a judge, or the kind of a rule."""
    fields = {name: value for name, value in reward.items() if value} if isinstance(reward, dict) else {"path": reward}
    return str(portable(fields.get("model") or fields.get("path") or next(iter(fields), "")))


def reward_model_table(record: RewardModelRecord) -> Table:
    """Accuracy on held-out pairs, next to the accuracy of preferring the longer answer."""
    scores, correlation = record.scores, record.scores.length_correlation
    shown_correlation = tables.NOT_MEASURED if correlation is None else f"{correlation:+.2f}"
    return plain_table(
        f"{scores.accuracy.n:,} held-out pairs",
        ["Measure", "Value", f"{tables.level(record.config['confidence'])} interval"],
        [
            ["the better answer scores higher", share(scores.accuracy), interval(scores.accuracy)],
            ["the better answer is longer", share(scores.longer), interval(scores.longer)],
            ["correlation of score and length differences", shown_correlation, ""],
            ["mean score difference", f"{scores.mean_margin:+.3f}", ""],
            ["equal scores, counted as wrong", f"{scores.ties:,}", ""],
        ],
    )


def run_verdict(evaluation: Evaluation | None, steps: int | None) -> str:
    """State in one sentence how often the answers beat the reference after and before training.

    Args:
        evaluation: of the run; None if it was not evaluated.
        steps: optimiser steps taken; None if unknown.
    """
    if evaluation is None or not evaluation.models:
        return "This run has not been evaluated: its answers were not compared with the references."
    before, after = evaluation.models.get("before"), evaluation.models.get("after")
    if _several(evaluation):
        return _leader(evaluation)
    if after is None:
        name, scores = next(iter(evaluation.models.items()))
        start = "Before training" if name == "before" else f"With the model {name!r}"
        return f"{start}, {_beats(scores.ras)}; the model was not evaluated after training."
    start = "After training" if steps is None else f"After {steps:,} step{'' if steps == 1 else 's'}"
    sentence = f"{start}, {_beats(after.ras)}"
    if before is None:
        return f"{sentence}; the model was not evaluated before training."
    if not is_measured(before.ras):
        return f"{sentence}; before training: {tables.NOT_MEASURED}."
    prompts = "" if before.ras.n == after.ras.n else f" of {before.ras.n:,} prompts"
    return f"{sentence}; before training: {share(before.ras)}{prompts} ({interval(before.ras)})."


def _several(evaluation: Evaluation | None) -> bool:
    """Whether the evaluation compares several models, not one model before and after training."""
    return evaluation is not None and bool(evaluation.ranking) and "after" not in evaluation.models


def _strongest(evaluation: Evaluation) -> tuple[str, str]:
    """The second-ranked and the first-ranked of several models."""
    first, second = [rank.name for rank in evaluation.ranking if rank.name in evaluation.models][:2]
    return second, first


def _leader(evaluation: Evaluation) -> str:
    """Name the highest-ranked of several models, and say whether it differs significantly from the second."""
    second, first = _strongest(evaluation)
    pair = next(name for name in (f"{first}|{second}", f"{second}|{first}") if name in evaluation.corrected)
    significant = evaluation.corrected[pair] <= 1 - evaluation.confidence
    p = tables.p_value(evaluation.corrected[pair])
    differs = "differs significantly from it" if significant else "does not differ significantly from it"
    scores = evaluation.models[first]
    return (
        f"Of {len(evaluation.models)} models, {first!r} ranks highest: {_beats(scores.ras)}. The runner-up, "
        f"{second!r}, {differs} (Holm-adjusted p {p if p.startswith('<') else f'= {p}'})."
    )


def certainty(evaluation: Evaluation | None) -> str:
    """Say whether the change from before to after training is significant, and by which confidence interval.

    The relative RAS gain is paired by prompt and decides where it exists. Where it does not (the model before
    training never won), the two RAS intervals decide, which is more conservative.

    Returns:
        A sentence; empty unless the evaluation has both models.
    """
    if evaluation is None or not {"before", "after"} <= evaluation.models.keys():
        return ""
    before, after = evaluation.models["before"].ras, evaluation.models["after"].ras
    if not (is_measured(before) and is_measured(after)):
        return ""
    gain, confidence = _gain(evaluation), tables.level(evaluation.confidence)
    if gain and (relative := gain.relative_ras) and is_measured(relative):
        more, less = relative.low > 0, relative.high < 0
        zero = "excludes zero" if more or less else "contains zero"
        reason = f"the {confidence} confidence interval of the relative gain, {interval(relative, signed=True)}, {zero}"
    else:
        more, less = after.low > before.high, after.high < before.low
        reason = f"the two {confidence} confidence intervals {'do not overlap' if more or less else 'overlap'}"
    change = f"The win rate {'rose' if more else 'fell'} significantly"
    return f"{change if more or less else 'The change is not significant'}: {reason}."


def net_gain(evaluation: Evaluation | None) -> str:
    """Compare the answers after training with those before in one sentence; empty if they were not compared."""
    gain = _gain(evaluation)
    if gain is None or not is_measured(gain.nag):
        return ""
    return (
        f"In direct comparison on {gain.nag.n:,} prompts, the answers after training beat those before in "
        f"{share(gain.nag_win)} of prompts; wins minus losses: {share(gain.nag, signed=True)} "
        f"({interval(gain.nag, signed=True)})."
    )


def _gain(evaluation: Evaluation | None) -> Gain | None:
    """The comparison of `after` with `before`; None if there is none."""
    gains = evaluation.gains if evaluation else []
    return next((gain for gain in gains if (gain.model, gain.baseline) == ("after", "before")), None)


def _beats(ras: Estimate) -> str:
    if not is_measured(ras):
        return "no answer has a verdict against the reference"
    return f"the answers beat the reference in {share(ras)} of {ras.n:,} prompts ({interval(ras)})"


def read_run(folder: Path) -> RunRecords:
    """Read all records of a run folder.

    Raises:
        InputError: if the folder has no records, or a record cannot be read.
    """
    manifest, metrics = records.read_manifest(folder), records.read_metrics(folder)
    evaluation, items = records.read_evaluation(folder), records.read_items(folder)
    if manifest is None and evaluation is None and not metrics:
        raise InputError(
            f"{folder}: contains no manifest.json, metrics.jsonl or evaluation.json; give the folder of a run"
        )
    evaluations, groups = records.read_evaluations(folder), read_groups(folder)[-_SHOWN_GROUPS:]
    return RunRecords(folder.resolve().name, manifest, metrics, evaluation, items, evaluations, groups)


def _notices(run: RunRecords, state: str) -> Iterator[str]:
    """Notices about the run's progress, missing records and suspicious metrics, one sentence each."""
    manifest, evaluation = run.manifest, run.evaluation
    if state:
        yield state
    elif manifest is None:
        yield "This folder has no manifest.json: the settings and origin of the run are unknown."
    elif not manifest.complete:
        status = f" (status: {manifest.status})" if manifest.status else ""
        planned = manifest.steps or manifest.setting("training", "steps")  # of all stages, else of the last
        reached = f" It reached step {run.steps or 0:,} of {planned:,}." if isinstance(planned, int) else ""
        yield f"This run is not finished{status}; the page shows what it has recorded so far.{reached}"
    yield from _stage_ends(run)
    if not run.metrics and not _several(evaluation):
        yield "No training steps were logged, so there are no curves."
    if hacked := [step for step in run.metrics if step.get("watch/alarm") == records.Alarm.HACKED]:
        yield (
            f"The reward was probably hacked from step {hacked[0].get('step', 0):,.0f} on: the independent reward "
            "fell while the training reward did not."
        )
    for collapse in collapses(run.metrics):
        yield f"The policy may have collapsed at {collapse}."
    if evaluation is None:
        return
    if not run.items:
        yield "This folder has no items.jsonl, so no answers can be shown."
    for name, scores in evaluation.models.items():
        if scores.missing:
            yield (
                f"The {name!r} answers to {scores.missing:,} of {evaluation.prompts:,} prompts have no verdict and are "
                "excluded from all estimates."
            )


def _stage_ends(run: RunRecords) -> Iterator[str]:
    """When each completed stage ended, and the win rate on held-out prompts at that step."""
    names = run.manifest.stages if run.manifest else []
    ends = {round(step["stage"]): step["step"] for step in run.metrics if "stage" in step}
    for number, name in enumerate(names[: max(ends, default=1) - 1], start=1):
        last = ends.get(number)
        wins = next((evaluated["eval/win"] for evaluated in run.evaluations if evaluated.get("step") == last), None)
        reached = "" if wins is None else f", with wins on {wins:.0%} of the held-out prompts"
        yield f"Stage {number} of {len(names)}, {name}, ended after step {last or 0:,.0f}{reached}."


def _tiles(run: RunRecords) -> Iterator[tuple[str, str]]:
    """(value, label) of each key figure that is known."""
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
    """Training time by phase, and the requests to each judge, as far as they were logged."""
    names = {"rollout": "sampling", "reward": "rewards", "update": "update"}
    spent = {label: _total(metrics, f"seconds/{phase}") for phase, label in names.items()}
    whole = _total(metrics, "seconds/step") or sum(spent.values())
    if whole:
        spent["other"] = max(whole - sum(spent.values()), 0.0)
        rows = [[name, tables.duration(part), tables.percent(part / whole, 0)] for name, part in spent.items()]
        yield plain_table("Training time", ["Phase", "Time", "Share"], rows)
    judges = dict.fromkeys(
        name.removeprefix("judge_").removesuffix("/requests")
        for step in metrics
        for name in step
        if name.startswith("judge_") and name.endswith("/requests")
    )
    rows = []
    for judge in judges:
        counts = [_total(metrics, f"judge_{judge}/{name}") for name in ("requests", "cached", "unreadable", "failed")]
        flips = [step[f"judge_{judge}/flip"] for step in metrics if f"judge_{judge}/flip" in step]
        cost = _total(metrics, f"judge_{judge}/cost")
        flipped = tables.percent(sum(flips) / len(flips), 0) if flips else "-"
        rows.append([judge, *(f"{count:,.0f}" for count in counts), flipped, f"{cost:,.2f}" if cost else "no price"])
    if rows:
        columns = ["Judge", "Requests", "From ledger", "Unreadable", "Failed", "Flip rate", "Cost"]
        yield plain_table("Judge requests in training", columns, rows)


def _total(metrics: Sequence[records.Step], name: str) -> float:
    return sum(step.get(name, 0.0) for step in metrics)
