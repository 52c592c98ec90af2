"""What to do next with a run or a study, as commands that fit how it ended."""

import shlex
from collections.abc import Sequence
from typing import NamedTuple

from grao.records.run import Alarm, Evaluation, Manifest, Step
from grao.records.study import StudyResult
from grao.reports.reproduce import scripted
from grao.reports.tables import measured, seeds_needed

MOST = 4
"""Steps that a page proposes."""
_ABOUT_THE_REWARD = {
    *("content-blind", "reward-follows-length", "narrow-margin", "not-text", "judge-favours-a-place"),
    "judge-contradicts-itself",
}
"""Kinds of `Doubt` for which the rewards have to be looked at before anything else."""


class NextStep(NamedTuple):
    """One proposal."""

    why: str
    command: str


def next_steps(
    name: str, manifest: Manifest | None, metrics: Sequence[Step], evaluation: Evaluation | None
) -> list[NextStep]:
    """Up to four commands, the most urgent first; they are run in the folder that holds the run's.

    Args:
        name: of the run's folder.
        manifest: of the run.
        metrics: of its training.
        evaluation: None where there is none.
    """
    folder = shlex.quote(name)
    recipe = shlex.quote(f"{name}/recipe.yaml")
    if manifest and scripted(manifest):  # there is no recipe to go on from
        return []
    if manifest and not manifest.complete:
        unfinished = NextStep("It has not come to its end.", f"grao train --resume {folder}")
        return [unfinished, NextStep("See this page again when it has gone on.", f"grao report {folder}")]
    steps: list[NextStep] = []
    kinds = {doubt.kind for doubt in evaluation.doubts} if evaluation else set()
    hacked = any(step.get("watch/alarm") == Alarm.HACKED for step in metrics)
    audit = NextStep("See what the rewards are worth, before you train on.", f"grao reward audit --config {recipe}")
    if kinds & _ABOUT_THE_REWARD or hacked:
        steps.append(audit)
    if hacked:
        why = "The reward was probably being hacked: train again, gentler."
        rate = manifest.setting("training", "learning_rate") if manifest else None
        lower = f" --training.learning_rate {rate / 3:.2g}" if isinstance(rate, int | float) else ""
        steps.append(NextStep(why, f"grao train --config {recipe} --output {folder}-gentler{lower}"))
    if evaluation is None or not evaluation.models:
        steps.append(NextStep("Judge the model on held-out prompts.", f"grao evaluate --run {folder}"))
    elif metrics:
        steps += _after_training(name, manifest, metrics, evaluation)
    elif manifest and manifest.config:
        train = f"grao train --config {recipe} --output {folder}-trained"
        steps.append(NextStep("Train the model by the same rewards.", train))
    if audit not in steps and manifest and manifest.config:
        steps.append(audit)
    return steps[:MOST]


def study_steps(name: str, result: StudyResult) -> list[NextStep]:
    """Up to three commands; they are run in the folder that holds the study's.

    Args:
        name: of the study's folder.
        result: its numbers.
    """
    command = f"grao {'sweep' if result.sweep else 'compare'} --config {shlex.quote(f'{name}/study.yaml')}"
    command += f" --output {shlex.quote(name)}"
    steps = []
    if result.failures or result.absent:
        steps.append(NextStep("Some runs have failed: try them again.", f"{command} --retry"))
    tests, alpha = max(len(result.comparisons), 1), 1 - result.confidence
    fewest = min((len(arm.seeds) for arm in result.arms), default=0)
    used = sorted({seed for arm in result.arms for seed in arm.seeds})
    if (needed := seeds_needed(tests, alpha)) > max(fewest, len(used)):
        why = f"What {fewest} seed{'s' * (fewest != 1)} of an arm cannot tell, {needed} can; finished runs are kept."
        more = [seed for seed in range(needed + len(used)) if seed not in used]
        steps.append(NextStep(why, f"{command} --seeds '{[*used, *more][: max(needed, len(used))]}'"))
    count, _, unit = result.budget.replace(",", "").partition(" ")
    field = {"steps": "steps", "s of counted work": "work"}.get(unit)
    if field and count.isdecimal():
        why = "The order of methods changes with the length of the training: see a longer one."
        steps.append(NextStep(why, f"{command}-longer --budget.{field} {3 * int(count)}"))
    return steps


def _after_training(
    name: str, manifest: Manifest | None, metrics: Sequence[Step], evaluation: Evaluation
) -> list[NextStep]:
    folder, recipe = shlex.quote(name), shlex.quote(f"{name}/recipe.yaml")
    before, after = evaluation.models.get("before"), evaluation.models.get("after")
    seed = ((manifest.seed if manifest else None) or 0) + 1
    again = f"grao train --config {recipe} --seed {seed} --output {folder}-seed{seed}"
    seeds = NextStep("Whether it holds if all is trained again one seed cannot tell.", again)
    if before is None or after is None or not (measured(before.ras) and measured(after.ras)):
        return [NextStep("Judge before and after again.", f"grao evaluate --run {folder} --output {folder}-judged")]
    if before.ras.low <= after.ras.high and after.ras.low <= before.ras.high:  # the intervals overlap
        if manifest and manifest.stages:  # training.steps are those of the last one
            last = [step for step in metrics if step.get("stage") == len(manifest.stages)]
            planned = manifest.setting("training", "steps") or len(last)
        else:
            planned = (manifest.steps if manifest else None) or len(metrics)
        longer = f"grao train --config {recipe} --training.steps {2 * planned} --output {folder}-longer"
        return [NextStep("The change is small against chance: train longer.", longer), seeds]
    steps = [seeds]
    if after.ras.value > before.ras.value:
        why = "Let a judge that did not train it decide: name it in a copy of the recipe, as its reward."
        judged = f"--model.path {folder}/model --output {folder}-judged"
        steps.append(NextStep(why, f"grao evaluate --config other-judge.yaml {judged}"))
    return steps
