"""`grao compare`: a study from beginning to end, or on from where it stopped.

study.yaml   the study with all defaults
cells/       one small record a run: all that the result rests on
study.json   the result, recomputable from the records
study.csv    its table
study.html   all of it to look at
work/        scratch; of failed runs the traceback stays. models/ where they are kept

A run with a record that still counts is never done again. One that was killed has no record and is begun anew. One that
failed is recorded with its error, stands in the result as failed, and is tried again on request.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from grao.config import dump_recipe
from grao.config.arms import Arm, Settings, Worlds, study_arms
from grao.config.strict_yaml import write_inline
from grao.config.study import BudgetConfig, SandboxConfig, Study
from grao.data import fingerprint
from grao.errors import InputError
from grao.evaluation.study import arm_result, comparisons, curve_band
from grao.evaluation.sweep import sweep_result
from grao.records.cell import CellRecord, Key, cell_path
from grao.records.files import replace_text
from grao.records.study import Candidate, Failure, Place, StudyResult, write_study
from grao.reports.study_page import write_study_report
from grao.sandbox.world import prepare as build_sandbox
from grao.studies.cells import Material, final_cells, selection_cells
from grao.studies.prepare import check_writable
from grao.studies.runner import Runner
from grao.studies.screen import StudyScreen
from grao.studies.selection import best, candidates
from grao.studies.weights import arm_weights

_QUICK_STEPS = 6


def run_study(study: Study, screen: StudyScreen, retry: bool = False) -> StudyResult:
    """Does what is missing of a study and writes its result.

    Args:
        study: the study.
        screen: where it shows how far it is.
        retry: try failed runs again.

    Raises:
        InputError: for a mistake in the study, or if no run of it comes to its end.
        RewardUnavailableError: if the reward cannot be had; the runs that are finished stay.
    """
    study_arms(study)  # mistakes before a world is built
    _claim(study.output)
    arms = study_arms(study, _worlds(screen))
    material = Material(study)
    _check_held_out(arms, material)
    (study.output / "work").mkdir(parents=True, exist_ok=True)
    replace_text(study.output / "work" / ".gitignore", "*\n")
    replace_text(study.output / "study.yaml", dump_recipe(study))

    selecting = selection_cells(study, arms, material)
    total = len(selecting) + len(study.seeds) * len(arms)
    runner = Runner(study.output, screen, retry, total, ahead=_recorded(study, arms))
    selected = runner.run(selecting)
    runner.ahead = 0
    found = {arm.name: candidates(arm, selected) for arm in arms if len(arm.learning_rates) > 1}
    rates = {arm.name: best(found[arm.name]) if arm.name in found else arm.learning_rates[0] for arm in arms}
    finals = runner.run(final_cells(study, arms, {arm: rate for arm, rate in rates.items() if rate}, material))

    choices = [candidate for arm in found.values() for candidate in arm]
    result = study_result(study, arms, choices, selected, finals)
    write_study(study.output, result)
    write_study_report(study.output, result, dump_recipe(study))
    return result


def _recorded(study: Study, arms: Sequence[Arm]) -> int:
    """Final runs of which there is some record, whatever rate will be chosen."""
    names = [
        [Key(arm.name, "final", rate, seed) for rate in arm.learning_rates] for arm in arms for seed in study.seeds
    ]
    return sum(any(cell_path(study.output, key).exists() for key in keys) for keys in names)


def quick(study: Study) -> Study:
    """The same study cut down to see it work: two arms, or one at two points; one seed, few steps, one rate.

    It gets a folder of its own.
    """
    names = [study.main, *(name for name in study.arms if name != study.main)][: 1 if study.over else 2]
    arms = {name: {**study.arms[name], "learning_rates": _middle(study, name)} for name in names}
    over = {axis: dict(list(v.items())[:2]) if isinstance(v, dict) else v[:2] for axis, v in study.over.items()}
    steps = min(study.budget.steps or _QUICK_STEPS, _QUICK_STEPS)
    return replace(
        study,
        arms=arms,
        over=over,
        seeds=study.seeds[:1],
        budget=BudgetConfig(steps=steps),
        evaluate_every=steps // 2 if study.evaluate_every and steps > 1 else None,
        output=study.output.with_name(f"{study.output.name}-quick"),
    )


def study_result(
    study: Study,
    arms: Sequence[Arm],
    choices: Sequence[Candidate],
    selected: Sequence[CellRecord],
    finals: Sequence[CellRecord],
) -> StudyResult:
    """All numbers from the records.

    Raises:
        InputError: if no final run is finished.
    """
    finished = [record for record in finals if record.outcomes]
    failures = [Failure(one.key.name, one.error) for one in (*selected, *finals) if one.error]
    if not finished:
        first = f"{failures[0].cell}: {failures[0].error}"
        raise InputError(f"no run of the study came to its end; the first: {first}; mend it and try again with --retry")
    by_arm = {arm.name: [one for one in finished if one.key.arm == arm.name] for arm in arms}
    by_arm = {arm: records for arm, records in by_arm.items() if records}
    confidence = arms[0].recipe.evaluation.confidence
    places = [Place(arm.name, arm.spot.arm, list(arm.spot.point)) for arm in arms]
    sweep = sweep_result(places, list(study.over), by_arm, study.main, confidence) if study.over else None
    return StudyResult(
        confidence=confidence,
        prompts=max(len(one.outcomes.after) for one in finished if one.outcomes),
        seeds=len(study.seeds),
        budget=next(f"{limit:g} {name}" for name, limit in vars(study.budget).items() if limit),
        main=study.main,
        arms=[arm_result(records, confidence) for records in by_arm.values()],
        comparisons=comparisons(by_arm, study.main, confidence) if study.main in by_arm else [],
        curves=[curve_band(records, confidence) for records in by_arm.values()],
        candidates=list(choices),
        failures=failures,
        absent=[arm.name for arm in arms if arm.name not in by_arm],
        versions=[dict(one) for one in dict.fromkeys(tuple(record.versions.items()) for record in finished)],
        sweep=sweep,
        weights=[] if study.over else arm_weights(arms),
    )


def _middle(study: Study, arm: str) -> list[float]:
    """The one candidate that stands in the middle, none if there are none."""
    rates = sorted(study.arms[arm].get("learning_rates", study.learning_rates))
    return rates[len(rates) // 2 :][:1]


def _claim(folder: Path) -> None:
    """Makes sure that the folder is new, or a study's, and ours alone.

    Raises:
        InputError: if it holds a run, or cannot be written, or there are several processes.
    """
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise InputError("grao compare runs in one process; start it without `accelerate launch`")
    if (folder / "manifest.json").exists():
        raise InputError(f"output: {folder} holds a run of `grao train`; choose another folder for the study")
    check_writable(folder)


def _worlds(screen: StudyScreen) -> Worlds:
    """Builds embedded worlds, each once."""

    @cache
    def build(world: SandboxConfig) -> Settings:
        with screen.stage("building a tiny model") as advance:
            built = build_sandbox(**vars(world), progress=lambda step, total, loss: advance(step, total))
        places = {"model.path": built.model, "data.path": built.train, "data.test_path": built.test}
        return tuple((name, write_inline(str(path))) for name, path in places.items())

    return build


def _check_held_out(arms: Sequence[Arm], material: Material) -> None:
    """All arms must be evaluated on the same prompts and references."""
    first, *others = ((arm.name, fingerprint(material.split(arm.recipe.data, "final").test)) for arm in arms)
    for name, found in others:
        if found != first[1]:
            raise InputError(
                f"arms.{name}: data: the held-out prompts are not those of {first[0]}, so both cannot be paired"
            )
