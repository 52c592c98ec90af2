"""Suggested next commands for a run or a study, depending on how it ended."""

import shlex
from collections.abc import Sequence
from typing import NamedTuple

from grao.records.run import Alarm, Evaluation, Manifest, Step
from grao.records.study import StudyResult
from grao.reports.reproduce import started_by_script
from grao.reports.tables import is_measured, seeds_needed

MOST = 4
"""Largest number of suggestions on a page."""
_ABOUT_THE_REWARD = {
    *("content-blind", "reward-follows-length", "narrow-margin", "not-text", "judge-favours-a-place"),
    "judge-contradicts-itself",
}
"""Kinds of `Doubt` that call for a reward audit before anything else."""


class NextStep(NamedTuple):
    """A suggested command and the reason for it."""

    why: str
    command: str


def next_steps(
    name: str, manifest: Manifest | None, metrics: Sequence[Step], evaluation: Evaluation | None
) -> list[NextStep]:
    """Suggest up to four commands for a run, the most urgent first.

    The commands are meant for the parent folder of the run's folder.

    Args:
        name: of the run's folder.
        manifest: of the run.
        metrics: logged training steps.
        evaluation: of the run; None if it was not evaluated.
    """
    folder = shlex.quote(name)
    recipe = shlex.quote(f"{name}/recipe.yaml")
    if manifest and started_by_script(manifest):  # a script leaves no recipe to start from
        return []
    if manifest and not manifest.complete:
        resume = NextStep("The run is not finished: resume it.", f"grao train --resume {folder}")
        return [resume, NextStep("Update this page after the run has progressed.", f"grao report {folder}")]
    steps: list[NextStep] = []
    kinds = {doubt.kind for doubt in evaluation.doubts} if evaluation else set()
    hacked = any(step.get("watch/alarm") == Alarm.HACKED for step in metrics)
    audit = NextStep("Audit the rewards before further training.", f"grao reward audit --config {recipe}")
    if kinds & _ABOUT_THE_REWARD or hacked:
        steps.append(audit)
    if hacked:
        why = "The reward was probably hacked: train again with a lower learning rate."
        rate = manifest.setting("training", "learning_rate") if manifest else None
        lower = f" --training.learning_rate {rate / 3:.2g}" if isinstance(rate, int | float) else ""
        steps.append(NextStep(why, f"grao train --config {recipe} --output {folder}-gentler{lower}"))
    if evaluation is None or not evaluation.models:
        steps.append(NextStep("Evaluate the model on held-out prompts.", f"grao evaluate --run {folder}"))
    elif metrics:
        steps += _after_training(name, manifest, metrics, evaluation)
    elif manifest and manifest.config:
        train = f"grao train --config {recipe} --output {folder}-trained"
        steps.append(NextStep("Train the model on the same rewards.", train))
    if audit not in steps and manifest and manifest.config:
        steps.append(audit)
    return steps[:MOST]


def study_steps(name: str, result: StudyResult) -> list[NextStep]:
    """Suggest up to three commands for a study, meant for the parent folder of the study's folder.

    Args:
        name: of the study's folder.
        result: numbers of the study.
    """
    command = f"grao {'sweep' if result.sweep else 'compare'} --config {shlex.quote(f'{name}/study.yaml')}"
    command += f" --output {shlex.quote(name)}"
    steps = []
    if result.failures or result.absent:
        steps.append(NextStep("Some runs failed: run them again.", f"{command} --retry"))
    tests, alpha = max(len(result.comparisons), 1), 1 - result.confidence
    fewest = min((len(arm.seeds) for arm in result.arms), default=0)
    used = sorted({seed for arm in result.arms for seed in arm.seeds})
    if (needed := seeds_needed(tests, alpha)) > max(fewest, len(used)):
        why = (
            f"With {fewest} seed{'s' * (fewest != 1)} per arm, no difference over seeds can be significant; {needed} "
            "seeds can show one. Finished runs are reused."
        )
        more = [seed for seed in range(needed + len(used)) if seed not in used]
        steps.append(NextStep(why, f"{command} --seeds '{[*used, *more][: max(needed, len(used))]}'"))
    count, _, unit = result.budget.replace(",", "").partition(" ")
    field = {"steps": "steps", "s of counted work": "work"}.get(unit)
    if field and count.isdecimal():
        why = "The ranking of methods can change with the length of training: repeat the study with longer runs."
        steps.append(NextStep(why, f"{command}-longer --budget.{field} {3 * int(count)}"))
    return steps


def _after_training(
    name: str, manifest: Manifest | None, metrics: Sequence[Step], evaluation: Evaluation
) -> list[NextStep]:
    folder, recipe = shlex.quote(name), shlex.quote(f"{name}/recipe.yaml")
    before, after = evaluation.models.get("before"), evaluation.models.get("after")
    seed = ((manifest.seed if manifest else None) or 0) + 1
    again = f"grao train --config {recipe} --seed {seed} --output {folder}-seed{seed}"
    seeds = NextStep("A single seed cannot show whether the result is reproducible: train with another one.", again)
    if before is None or after is None or not (is_measured(before.ras) and is_measured(after.ras)):
        why = "Evaluate the models before and after training again."
        return [NextStep(why, f"grao evaluate --run {folder} --output {folder}-judged")]
    if before.ras.low <= after.ras.high and after.ras.low <= before.ras.high:  # the intervals overlap
        if manifest and manifest.stages:  # training.steps sets the length of the last stage only
            last = [step for step in metrics if step.get("stage") == len(manifest.stages)]
            planned = manifest.setting("training", "steps") or len(last)
        else:
            planned = (manifest.steps if manifest else None) or len(metrics)
        longer = f"grao train --config {recipe} --training.steps {2 * planned} --output {folder}-longer"
        return [NextStep("The change is within chance variation: train longer.", longer), seeds]
    steps = [seeds]
    if after.ras.value > before.ras.value:
        why = "Evaluate with a judge that was not used in training: set it as the reward in a copy of the recipe."
        judged = f"--model.path {folder}/model --output {folder}-judged"
        steps.append(NextStep(why, f"grao evaluate --config other-judge.yaml {judged}"))
    return steps
