"""`grao compare`, `grao sweep`, `grao ablate`: a study from beginning to end, or resumed where it stopped.

study.yaml   the study with all defaults
answers/     what the runs answered, to be read; no number rests on it
cells/       one small record a run: all that the result rests on. A study that is kept has them in cells.jsonl
study.json   the result, recomputable from the records
study.csv    its table
study.html   all of it to look at
work/        scratch; of failed runs the traceback stays. models/ where they are kept

A run with a record that still counts is never done again. One that was killed has no record and is begun anew. One that
failed is recorded with its error, stands in the result as failed, and is tried again on request.
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
from grao.studies.cells import WORKED, Material, best, candidates, study_cells
from grao.studies.prepare import Advance, Stages, StudyScreen, check_writable
from grao.studies.runner import Runner
from grao.studies.work import measure
from grao.types import PerAnswer

_QUICK_STEPS = 6
_ALIKE = 1e-9
"""Relative deviation of weights that differ in scale alone."""


def run_study(study: Study, screen: StudyScreen, retry: bool = False, seconds: float = math.inf) -> records.StudyResult:
    """Does what is missing of a study and writes its result.

    Args:
        study: the study.
        screen: where it shows how far it is.
        retry: try failed runs again.
        seconds: no run but the first begins that would not end in this time, by what those of its arm took.

    Raises:
        InputError: for a mistake in the study, or if no run of it comes to its end.
        RewardUnavailableError: if the reward cannot be had; the runs that are finished stay.
        TimeUpError: if the time does not do for all runs; those that are finished stay.
    """
    until = time.monotonic() + seconds
    arms, folder = study_arms(study), study.output
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise InputError("grao compare runs in one process; start it without `accelerate launch`")
    if (folder / "manifest.json").exists():
        raise InputError(f"output: {folder} holds a run of `grao train`; choose another folder for the study")
    check_writable(folder)
    with locked(folder):
        return _run(study, arms, screen, retry, until)


def _run(study: Study, arms: Sequence[Arm], screen: StudyScreen, retry: bool, until: float) -> records.StudyResult:
    folder = study.output
    arms, material = _in_worlds(arms, screen), Material(study)
    with screen.stage("reading the data"):
        _check_held_out(arms, material)
    (folder / "work").mkdir(parents=True, exist_ok=True)
    replace_text(folder / "work" / ".gitignore", "*\n")
    replace_text(folder / "study.yaml", dump_recipe(study))

    material.rates = _work_rates(study, arms[0], material, screen)
    choosing = {arm.name: arm.learning_rates for arm in arms if len(arm.learning_rates) > 1}
    recorded, selecting = records.read_cells(folder), study_cells(material, arms, "select", choosing)
    total = len(selecting) + len(study.seeds) * len(arms)
    tried = {arm.name: arm.learning_rates for arm in arms}
    kept = [
        key
        for key, record in recorded.items()
        if key.role == "final" and key.learning_rate in tried.get(key.arm, ()) and not (retry and record.error)
    ]
    ahead = len({(key.arm, key.seed) for key in kept if key.seed in study.seeds})
    runner = Runner(folder, screen, recorded, retry, total, ahead, until=until)
    selected = runner.run(selecting)
    runner.ahead = 0
    offered = {arm.name: candidates(arm, selected) for arm in arms if arm.name in choosing}
    rates = {arm.name: best(offered[arm.name]) if arm.name in offered else arm.learning_rates[0] for arm in arms}
    finals_wanted = study_cells(material, arms, "final", {arm: [rate] for arm, rate in rates.items() if rate})
    runner.total = len(selecting) + len(finals_wanted)  # an arm whose every rate failed has no more runs to wait for
    finals = runner.run(finals_wanted)

    with screen.stage("writing the page"):
        result = study_result(study, arms, list(chain(*offered.values())), selected, finals)
        records.write_study(folder, result)
        write_study_report(folder, result, dump_recipe(study))
    return result


def recorded_result(folder: Path) -> records.StudyResult | None:
    """The result of a study that is kept as `study.yaml` and the records of its runs; None where there is none.

    Raises:
        InputError: if a run that the study wants has no record.
    """
    if not (folder / "study.yaml").is_file() or not (recorded := records.read_cells(folder)):
        return None
    study = load_config(Study, folder / "study.yaml")
    arms = study_arms(study)

    def known(arm: Arm, role: records.Role, rate: float, seed: int) -> records.CellRecord:
        key = records.Key(arm.name, role, rate, seed)
        if key not in recorded:
            raise InputError(f"{folder}: there is no record of {key.words}; resume the study")
        return recorded[key]

    selected = [
        known(arm, "select", rate, seed)
        for seed in study.selection.seeds
        for arm in arms
        if len(arm.learning_rates) > 1
        for rate in arm.learning_rates
    ]
    offered = {arm.name: candidates(arm, selected) for arm in arms if len(arm.learning_rates) > 1}
    rates = {arm.name: best(offered[arm.name]) if arm.name in offered else arm.learning_rates[0] for arm in arms}
    finals = [known(arm, "final", rate, seed) for seed in study.seeds for arm in arms if (rate := rates[arm.name])]
    return study_result(study, arms, list(chain(*offered.values())), selected, finals)


def quick(study: Study) -> Study:
    """The same study cut down to see it work: two arms, or one at two points; one seed, few steps, the middle rate.

    It gets a folder of its own.
    """
    names = [study.main, *(name for name in study.arms if name != study.main)][: 1 if study.over else 2]
    rates = {name: sorted(study.arms[name].get("learning_rates", study.learning_rates)) for name in names}
    arms = {name: {**study.arms[name], "learning_rates": few[len(few) // 2 :][:1]} for name, few in rates.items()}
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
    """All numbers from the records.

    Args:
        study: the study.
        arms: its arms, `study_arms`.
        choices: what every learning rate reached that could be chosen.
        selected: records of the runs behind `choices`.
        finals: records of the runs that count.

    Raises:
        InputError: if no final run is finished.
    """
    finished = [record for record in finals if record.outcomes]
    failures = [records.Failure(record.key.name, record.error) for record in (*selected, *finals) if record.error]
    if not finished:
        first = f"{failures[0].cell}: {failures[0].error}"
        raise InputError(f"no run of the study came to its end; the first: {first}; mend it and try again with --retry")
    by_arm = {arm.name: runs for arm in arms if (runs := [run for run in finished if run.key.arm == arm.name])}
    confidence = arms[0].recipe.evaluation.confidence
    places = [records.Place(arm.name, arm.spot.arm, list(arm.spot.point)) for arm in arms]
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
        sweep=sweep_result(places, list(study.over), by_arm, study.main, confidence) if study.over else None,
        weights=[] if study.over else arm_weights(arms),
        pairs=[] if study.over else pairs(by_arm, confidence),
        rates={
            name.removeprefix(WORKED): rate for name, rate in finished[0].settings.items() if name.startswith(WORKED)
        },
    )


def arm_weights(arms: Sequence[Arm]) -> list[records.ArmWeights]:
    """The effective weights of every arm whose update is a weighted likelihood, group by group.

    Leaving a term out of eq. 3 does not remove a force: it changes the weights of samples and reference, and often
    nothing but their ratio (docs/method.md). So each arm's effective weights stand beside its result.
    Left out are arms of several stages, methods with a loss of their own, and those whose weights depend on the other
    groups of the step.
    """
    listed: list[records.ArmWeights] = []
    everywhere: dict[str, torch.Tensor] = {}
    for arm in arms:
        method, samples = arm.recipe.method, arm.recipe.rollout.group_size
        by_step = getattr(method, "normalise", None) == "batch" or getattr(method, "rule", None) == "step"
        if by_step or not method.weighted_likelihood or len(arm.recipe.plan) > 1:
            continue
        # every group that wins, ties and losses can make, but for the order of its samples
        weights = _weights(method, combinations_with_replacement((1.0, 0.0, -1.0), samples))
        same = next((name for name, other in everywhere.items() if _proportional(other, weights)), None)
        everywhere[arm.name] = weights
        situations: list[records.Situation] = []
        for wins, losses in ((0, samples), (1, samples - 1), (samples, 0)):  # all lose, one wins, all win
            *answers, reference = _weights(method, [[1.0] * wins + [-1.0] * losses])[0].tolist()
            won, lost = answers[0] if wins else None, answers[-1] if losses else None
            situations.append(records.Situation(wins, losses, won, lost, reference))
        kappa = method.kappa(samples) if isinstance(method, GRAO) else None
        listed.append(records.ArmWeights(arm.name, kappa, situations, same))
    return listed


def _weights(method: Method, groups: Iterable[Sequence[float]]) -> torch.Tensor:
    """(groups, G + 1), samples and reference, for the rewards of each group."""
    rewards = torch.tensor(list(groups), dtype=torch.float64)
    lengths = PerAnswer.of(torch.ones_like(rewards), 1.0)
    weights = method.weigh(
        StepGroups(rewards, lengths, 1.0, step=0, mean_samples=float(rewards.shape[1]), limit=1)
    ).weights
    return torch.cat([weights.samples, weights.reference[:, None]], dim=1)


def _proportional(weights: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether one is the other times a positive number."""
    if weights.shape != other.shape:
        return False
    product = (weights * other).sum()
    return bool(product > 0) and bool((weights.norm() * other.norm() - product).abs() <= _ALIKE * product)


def _in_worlds(arms: Sequence[Arm], screen: StudyScreen) -> list[Arm]:
    """The arms with the files of their embedded worlds, each of which is built once."""

    @cache
    def build(world: SandboxConfig) -> dict[str, str]:
        built = build_world(screen, **vars(world))
        return {"model.path": str(built.model), "data.path": str(built.train), "data.test_path": str(built.test)}

    return [with_world(arm, build(arm.world)) if arm.world else arm for arm in arms]


def build_world(screen: Stages, **settings: Any) -> Sandbox:
    """An embedded world of these settings (`grao.sandbox.world.prepare`); a model in the cache takes no phase."""
    with ExitStack() as phase:
        shown: list[Advance] = []

        def progress(step: int, steps: int, loss: float) -> None:
            if not shown:
                shown.append(phase.enter_context(screen.stage("building a tiny model")))
            shown[0](step, steps)

        return build_sandbox(**settings, progress=progress)


def _work_rates(study: Study, arm: Arm, material: Material, screen: StudyScreen) -> WorkRates | None:
    """What counted work is counted by: measured once, then kept with the study; None where none is counted."""
    if study.budget.work is None:
        return None
    if rates := read_work(study.output):
        return rates
    with screen.stage("measuring the work of a step") as advance:
        rates = measure(arm.recipe, material.split(arm.recipe.data, "final"), advance)
    write_work(study.output, rates)
    return rates


def _check_held_out(arms: Sequence[Arm], material: Material) -> None:
    """All arms at the same point must be evaluated on the same prompts and references."""
    firsts: dict[tuple[str, ...], tuple[str, str]] = {}
    for arm in arms:
        held_out = fingerprint(material.split(arm.recipe.data, "final").test)
        first, expected = firsts.setdefault(arm.spot.point, (arm.name, held_out))
        if held_out != expected:
            told = f"the held-out prompts are not those of {first}, so both cannot be paired"
            raise InputError(f"arms.{arm.name}: data: {told}")
