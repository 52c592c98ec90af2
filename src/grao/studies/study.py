"""`grao compare`, `grao sweep`, `grao ablate`: run a study, or resume it where it stopped.

study.yaml   the study with all defaults
answers/     answers of the runs, for reading; no number depends on them
cells/       one small record per run, from which the result is computed; archived studies have them in cells.jsonl
study.json   the result, recomputable from the records
study.csv    table of the result
study.html   report page
work/        scratch folder; keeps the tracebacks of failed runs
models/      trained models, if they are kept

A run with a valid record is not repeated. A run that was killed has no record and starts again. A run that failed is
recorded with its error, appears in the result as failed, and is repeated on request.
"""

import math
import os
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from itertools import chain, combinations_with_replacement
from pathlib import Path
from typing import Any

import torch

from grao.config.arms import Arm, study_arms, with_world
from grao.config.load import dump_recipe, load_config
from grao.config.study import BudgetConfig, SandboxConfig, Study
from grao.data.load import fingerprint
from grao.errors import InputError
from grao.evaluation.study import arm_result, comparisons, curve_band, pairs, sweep_result
from grao.methods.base import Method, StepGroups
from grao.methods.grao import GRAO
from grao.records import study as records
from grao.records.files import replace_text
from grao.records.lock import locked
from grao.records.work import WorkRates, read_work, write_work
from grao.reports.study import write_study_report
from grao.sandbox.world import Sandbox
from grao.sandbox.world import prepare as build_sandbox
from grao.studies.cells import WORK_RATES, Material, best, candidates, study_cells
from grao.studies.prepare import Advance, Progress, StudyScreen, check_writable
from grao.studies.runner import Runner
from grao.studies.work import measure
from grao.types import PerAnswer

_QUICK_STEPS = 6
_TOLERANCE = 1e-9
"""Relative deviation up to which weights are proportional."""


def run_study(study: Study, screen: StudyScreen, retry: bool = False, seconds: float = math.inf) -> records.StudyResult:
    """Do the missing runs of a study and write its result. An existing study is resumed.

    Args:
        study: the study.
        screen: shows progress.
        retry: repeat failed runs.
        seconds: time limit; after the first, runs start only if they are expected to end in time.

    Raises:
        InputError: for a mistake in the study, or if all its runs fail.
        RewardUnavailableError: if the reward is unavailable; finished runs are kept.
        TimeUpError: if the time limit is too short for all runs; finished runs are kept.
    """
    deadline = time.monotonic() + seconds
    arms, folder = study_arms(study), study.output
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise InputError("grao compare runs in one process; start it without `accelerate launch`")
    if (folder / "manifest.json").exists():
        raise InputError(f"output: {folder} contains a run of `grao train`; choose another folder for the study")
    check_writable(folder)
    with locked(folder):
        return _run(study, arms, screen, retry, deadline)


def _run(study: Study, arms: Sequence[Arm], screen: StudyScreen, retry: bool, deadline: float) -> records.StudyResult:
    folder = study.output
    arms, material = _in_worlds(arms, screen), Material(study)
    with screen.stage("reading the data"):
        _check_held_out(arms, material)
    (folder / "work").mkdir(parents=True, exist_ok=True)
    replace_text(folder / "work" / ".gitignore", "*\n")
    replace_text(folder / "study.yaml", dump_recipe(study))

    material.rates = _work_rates(study, arms[0], material, screen)
    rates_to_select = {arm.name: arm.learning_rates for arm in arms if len(arm.learning_rates) > 1}
    recorded, selection = records.read_cells(folder), study_cells(material, arms, "select", rates_to_select)
    total = len(selection) + len(study.seeds) * len(arms)
    rates_of = {arm.name: arm.learning_rates for arm in arms}
    recorded_keys = [
        key
        for key, record in recorded.items()
        if key.role == "final" and key.learning_rate in rates_of.get(key.arm, ()) and not (retry and record.error)
    ]
    pending_records = len({(key.arm, key.seed) for key in recorded_keys if key.seed in study.seeds})
    runner = Runner(folder, screen, recorded, retry, total, pending_records, deadline=deadline)
    selected = runner.run(selection)
    runner.pending_records = 0
    offered = {arm.name: candidates(arm, selected) for arm in arms if arm.name in rates_to_select}
    rates = {arm.name: best(offered[arm.name]) if arm.name in offered else arm.learning_rates[0] for arm in arms}
    final_cells = study_cells(material, arms, "final", {arm: [rate] for arm, rate in rates.items() if rate})
    runner.total = len(selection) + len(final_cells)  # an arm whose rates all failed has no final runs
    finals = runner.run(final_cells)

    with screen.stage("writing the report"):
        result = study_result(study, arms, list(chain(*offered.values())), selected, finals)
        records.write_study(folder, result)
        write_study_report(folder, result, dump_recipe(study))
    return result


def recorded_result(folder: Path) -> records.StudyResult | None:
    """Return the result of an archived study, from `study.yaml` and the records of its runs; None if either is missing.

    Raises:
        InputError: if a run of the study has no record.
    """
    if not (folder / "study.yaml").is_file() or not (recorded := records.read_cells(folder)):
        return None
    study = load_config(Study, folder / "study.yaml")
    arms = study_arms(study)

    def record_of(arm: Arm, role: records.Role, rate: float, seed: int) -> records.CellRecord:
        key = records.Key(arm.name, role, rate, seed)
        if key not in recorded:
            raise InputError(f"{folder}: there is no record of {key.words}; resume the study")
        return recorded[key]

    selected = [
        record_of(arm, "select", rate, seed)
        for seed in study.selection.seeds
        for arm in arms
        if len(arm.learning_rates) > 1
        for rate in arm.learning_rates
    ]
    offered = {arm.name: candidates(arm, selected) for arm in arms if len(arm.learning_rates) > 1}
    rates = {arm.name: best(offered[arm.name]) if arm.name in offered else arm.learning_rates[0] for arm in arms}
    finals = [record_of(arm, "final", rate, seed) for seed in study.seeds for arm in arms if (rate := rates[arm.name])]
    return study_result(study, arms, list(chain(*offered.values())), selected, finals)


def quick(study: Study) -> Study:
    """Return a small version of a study to try it out: two arms or one at two points, one seed, few steps, one rate.

    Of the learning rates it takes the middle one. It has its own output folder.
    """
    names = [study.main, *(name for name in study.arms if name != study.main)][: 1 if study.over else 2]
    rates = {name: sorted(study.arms[name].get("learning_rates", study.learning_rates)) for name in names}
    arms = {name: {**study.arms[name], "learning_rates": each[len(each) // 2 :][:1]} for name, each in rates.items()}
    over = {axis: dict(list(v.items())[:2]) if isinstance(v, dict) else v[:2] for axis, v in study.over.items()}
    steps = min(study.budget.steps or _QUICK_STEPS, _QUICK_STEPS)
    every = steps // 2 if study.evaluate_every and steps > 1 else None
    output = Path(f"{study.output}-quick")
    small = replace(study, arms=arms, over=over, seeds=study.seeds[:1], budget=BudgetConfig(steps=steps))
    return replace(small, evaluate_every=every, output=output)


def study_result(
    study: Study,
    arms: Sequence[Arm],
    choices: Sequence[records.Candidate],
    selected: Sequence[records.CellRecord],
    finals: Sequence[records.CellRecord],
) -> records.StudyResult:
    """Compute the result from the records.

    Args:
        study: the study.
        arms: its arms, `study_arms`.
        choices: all candidate learning rates with their results.
        selected: records of the runs behind `choices`.
        finals: records of the final runs.

    Raises:
        InputError: if no final run is finished.
    """
    finished = [record for record in finals if record.outcomes]
    failures = [records.Failure(record.key.name, record.error) for record in (*selected, *finals) if record.error]
    if not finished:
        first = f"{failures[0].cell}: {failures[0].error}"
        raise InputError(f"all runs of the study failed; the first: {first}; fix the cause and run again with --retry")
    by_arm = {arm.name: runs for arm in arms if (runs := [run for run in finished if run.key.arm == arm.name])}
    confidence, settings = arms[0].recipe.evaluation.confidence, finished[0].settings
    positions = [records.GridPosition(arm.name, arm.spot.arm, list(arm.spot.point)) for arm in arms]
    return records.StudyResult(
        confidence=confidence,
        prompts=max(len(record.outcomes.after) for record in finished if record.outcomes),
        seeds=len(study.seeds),
        budget=study.budget.words,
        main=study.main,
        arms=[arm_result(runs, confidence) for runs in by_arm.values()],
        comparisons=comparisons(by_arm, study.main, confidence) if study.main in by_arm else [],
        curves=[curve_band(runs, confidence) for runs in by_arm.values()],
        candidates=list(choices),
        failures=failures,
        absent=[arm.name for arm in arms if arm.name not in by_arm],
        versions=[dict(versions) for versions in dict.fromkeys(tuple(run.versions.items()) for run in finished)],
        sweep=sweep_result(positions, list(study.over), by_arm, study.main, confidence) if study.over else None,
        weights=[] if study.over else arm_weights(arms),
        pairs=[] if study.over else pairs(by_arm, confidence),
        rates={name[len(WORK_RATES) :]: rate for name, rate in settings.items() if name.startswith(WORK_RATES)},
    )


def arm_weights(arms: Sequence[Arm]) -> list[records.ArmWeights]:
    """Return the effective weights of every arm whose update is a weighted likelihood, per group.

    Omitting a term of eq. 3 changes the weights of samples and reference, often only their ratio (docs/method.md). So
    each arm's effective weights are shown with its result.
    Not covered: arms with several stages, methods with their own loss, and methods whose weights depend on other groups
    of the step.
    """
    listed: list[records.ArmWeights] = []
    weights_of: dict[str, torch.Tensor] = {}
    for arm in arms:
        method, samples = arm.recipe.method, arm.recipe.rollout.group_size
        by_step = getattr(method, "normalise", None) == "batch" or getattr(method, "rule", None) == "step"
        if by_step or not method.weighted_likelihood or len(arm.recipe.plan) > 1:
            continue
        # every group of wins, ties and losses, up to the order of its samples
        weights = _weights(method, combinations_with_replacement((1.0, 0.0, -1.0), samples))
        same = next((name for name, other in weights_of.items() if _proportional(other, weights)), None)
        weights_of[arm.name] = weights
        situations: list[records.WeightExample] = []
        for wins, losses in ((0, samples), (1, samples - 1), (samples, 0)):  # all lose, one wins, all win
            *answers, reference = _weights(method, [[1.0] * wins + [-1.0] * losses])[0].tolist()
            won, lost = answers[0] if wins else None, answers[-1] if losses else None
            situations.append(records.WeightExample(wins, losses, won, lost, reference))
        kappa = method.kappa(samples) if isinstance(method, GRAO) else None
        listed.append(records.ArmWeights(arm.name, kappa, situations, same))
    return listed


def _weights(method: Method, groups: Iterable[Sequence[float]]) -> torch.Tensor:
    """Return weights (groups, G + 1) of samples and reference, for the rewards of each group."""
    rewards = torch.tensor(list(groups), dtype=torch.float64)
    lengths = PerAnswer.of(torch.ones_like(rewards), 1.0)
    weights = method.weigh(
        StepGroups(rewards, lengths, 1.0, step=0, mean_samples=float(rewards.shape[1]), limit=1)
    ).weights
    return torch.cat([weights.samples, weights.reference[:, None]], dim=1)


def _proportional(weights: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether the weights are equal up to a positive factor."""
    if weights.shape != other.shape:
        return False
    product = (weights * other).sum()
    return bool(product > 0) and bool((weights.norm() * other.norm() - product).abs() <= _TOLERANCE * product)


def _in_worlds(arms: Sequence[Arm], screen: StudyScreen) -> list[Arm]:
    """Return the arms with the files of their embedded worlds; each world is built once."""

    @cache
    def build(world: SandboxConfig) -> dict[str, str]:
        built = build_world(screen, **vars(world))
        return {"model.path": str(built.model), "data.path": str(built.train), "data.test_path": str(built.test)}

    return [with_world(arm, build(arm.world)) if arm.world else arm for arm in arms]


def build_world(screen: Progress, **settings: Any) -> Sandbox:
    """Build an embedded world (`grao.sandbox.world.prepare`); if its model is cached, no phase is shown."""
    with ExitStack() as phase:
        bars: list[Advance] = []

        def progress(step: int, steps: int, loss: float) -> None:
            if not bars:
                bars.append(phase.enter_context(screen.stage("building a tiny model")))
            bars[0](step, steps)

        return build_sandbox(**settings, progress=progress)


def _work_rates(study: Study, arm: Arm, material: Material, screen: StudyScreen) -> WorkRates | None:
    """Return the rates of counted work, measured once and kept with the study; None if the budget is not work."""
    if study.budget.work is None:
        return None
    if rates := read_work(study.output):
        return rates
    with screen.stage("measuring the work of a step") as advance:
        rates = measure(arm.recipe, material.split(arm.recipe.data, "final"), advance)
    write_work(study.output, rates)
    return rates


def _check_held_out(arms: Sequence[Arm], material: Material) -> None:
    """Check that all arms at the same point are evaluated on the same prompts and references."""
    firsts: dict[tuple[str, ...], tuple[str, str]] = {}
    for arm in arms:
        held_out = fingerprint(material.split(arm.recipe.data, "final").test)
        first, expected = firsts.setdefault(arm.spot.point, (arm.name, held_out))
        if held_out != expected:
            problem = f"the held-out prompts are not those of {first}; paired arms need the same"
            raise InputError(f"arms.{arm.name}: data: {problem}")
