"""The commands: one function each, called with checked arguments. A returned value is the exit code.

`main` imports this module last, since it loads torch.
"""

import math
import os
import shutil
import sys
from itertools import chain, repeat
from pathlib import Path

from rich.console import Console

from grao.cli.arguments import (
    ChatArguments,
    DataCheckArguments,
    DryRunArguments,
    ExportArguments,
    QuickstartArguments,
    ResumeArguments,
    StudyArguments,
    TrainArguments,
    WatchArguments,
)
from grao.cli.entrants import EvaluateArguments
from grao.cli.screen import TerminalScreen, terminal
from grao.command import command
from grao.config.arms import SANDBOX
from grao.config.load import load_recipe
from grao.config.recipe import Recipe, RewardModelRecipe
from grao.data.files import FILE_TYPES
from grao.errors import InputError, TimeUpError, one_line
from grao.files import read_text
from grao.records.run import Evaluation, read_evaluation
from grao.records.study import StudyResult, read_study
from grao.reports.audit import audit_tables, verdict_words
from grao.reports.evaluation import evaluation_lines, evaluation_tables
from grao.reports.live import LiveServer
from grao.reports.run import certainty, net_gain, reward_model_table, run_verdict, write_report
from grao.reports.runs import runs_table
from grao.reports.study import study_tables, write_study_report
from grao.reports.sweep import sweep_headline, sweep_sentences
from grao.reports.verdict import notes, verdict
from grao.rollouts.base import Sampling
from grao.sandbox.world import Sandbox
from grao.studies.audit import audit_folder, audit_rewards
from grao.studies.data_check import check_data
from grao.studies.evaluate import (
    Options,
    contestants,
    evaluate_again,
    evaluate_models,
    evaluate_recipe,
    evaluate_run,
)
from grao.studies.export import export_run
from grao.studies.likelihood import start_of
from grao.studies.plan import dry_run
from grao.studies.prepare import claim_folder
from grao.studies.reward_model import train_reward_model
from grao.studies.study import build_world, quick, recorded_result, run_study
from grao.studies.talk import BEFORE, Speaker, talk, typed_lines
from grao.studies.train import Finished, resume_run, start_run
from grao.visible import visible


def quickstart(arguments: QuickstartArguments) -> None:
    """Build the sandbox, align its model with an ordinary recipe and show the result."""
    if (arguments.output / "manifest.json").exists():
        raise InputError(f"--output: {arguments.output} already holds a run; choose another folder or remove it")
    sandbox = {name: getattr(arguments, name) for name in ("ability", "architecture", "seed")}
    with terminal(arguments.show_samples) as screen, claim_folder(arguments.output):
        world = _kept(build_world(screen, **sandbox), arguments.output / "world")
        data = {"data.path": str(world.train), "data.test_path": str(world.test)}
        settings = {"model.path": str(world.model), **data, "output": str(arguments.output), "seed": arguments.seed}
        settings |= {**SANDBOX, "training.steps": 100 if arguments.steps is None else arguments.steps}
        finished = start_run(load_recipe(None, arguments.overrides, list(settings.items())), screen)
    _show_run(finished, screen)


def data_check(arguments: DataCheckArguments) -> None:
    """Show the columns of a file, how they are read, and a starter recipe."""
    with terminal() as screen:
        check_data(*arguments, screen)


def train(run: TrainArguments | ResumeArguments | DryRunArguments) -> None:
    """Train from a recipe or resume a run, then evaluate and report. A dry run only plans memory, time and cost."""
    if isinstance(run, DryRunArguments):
        with terminal() as screen:
            return dry_run(*run, screen)
    with terminal(run.show_samples) as screen:
        if isinstance(run, ResumeArguments):
            finished = resume_run(run.folder, screen, run.overrides)
        else:
            finished = start_run(run.recipe, screen)
    _show_run(finished, screen)


def evaluate(arguments: EvaluateArguments) -> None:
    """Evaluate models and ready answers on held-out prompts, record the verdicts and write a report."""
    source, folder, options = arguments.source, arguments.folder, Options(**dict(arguments.options))
    with terminal() as screen:
        if not isinstance(source, Recipe):
            result = evaluate_run(source, folder, screen, options)
        elif arguments.rejudged:
            result = evaluate_again(source, arguments.rejudged, screen, options)
        elif arguments.models:
            result = evaluate_models(source, contestants(source, arguments.models), screen, options)
        else:
            result = evaluate_recipe(source, screen, options)
    _show_evaluation(result, screen.console)
    _show_spending(screen)
    _show_path(screen.console, "report", folder / "report.html")
    recipe = folder / "recipe.yaml"
    if isinstance(source, Recipe) and source.model.path.endswith(FILE_TYPES):
        return  # a file of answers was evaluated, so there is no model to train
    if isinstance(source, Recipe):
        _show_next(screen.console, command("train", "--config", recipe, "--output", f"{folder}-trained"))
    else:
        _show_next(screen.console, command("chat", source, "--against", BEFORE), command("export", source))


def compare(arguments: StudyArguments) -> None:
    """Run what is missing from a study and show the result."""
    study = quick(arguments.study) if arguments.quick else arguments.study
    try:
        with terminal() as screen:
            result = run_study(study, screen, arguments.retry, 60 * (arguments.minutes or math.inf))
    except TimeUpError as ended:
        return screen.copyable(f"time is up: {ended}; resume with {arguments.resume}")
    except KeyboardInterrupt:
        raise KeyboardInterrupt("stopped; finished runs are kept, the same command resumes the study") from None
    _show_study(result, study.output / "study.html", screen.console)
    _show_spending(screen)
    _show_next(screen.console, command("report", study.output))


ablate = sweep = compare


def reward_train(recipe: RewardModelRecipe) -> None:
    """Train a reward model, measure its accuracy on held-out pairs and show where it is saved."""
    with terminal() as screen:
        record = train_reward_model(recipe, screen)
    screen.console.print(reward_model_table(record))
    _show_path(screen.console, "model", recipe.output / "model")
    _show_path(screen.console, "record", recipe.output / "reward.json")
    _show_path(screen.console, "next", f"in a recipe: rewards: [{{model: {{path: {recipe.output / 'model'}}}}}]")


def reward_audit(recipe: Recipe) -> None:
    """Audit the rewards of a recipe and print the verdict."""
    folder = audit_folder(recipe)
    with terminal() as screen:
        audit = audit_rewards(recipe, screen)
    screen.console.print(audit_tables(audit))
    _show_spending(screen)
    for name in ("audit.html", "audit.json"):
        _show_path(screen.console, f"{name:12}", folder / name)
    screen.console.print()
    screen.console.print(verdict_words(audit.verdict))
    _show_path(screen.console, "next", "fix what is named above, or run grao train with the same recipe and options")


def export(arguments: ExportArguments) -> None:
    """Export a run's model to a folder that other tools can load, and show where it is."""
    with terminal() as screen:
        folder, address = export_run(screen=screen, **arguments._asdict())
    _show_path(screen.console, "model", folder)
    _show_path(screen.console, "card", folder / "README.md")
    if address:
        _show_path(screen.console, "hub", address)


def report(folder: Path) -> None:
    """Rewrite the report of a run or a study from its records, and print its tables."""
    console = Console()
    if study := read_study(folder) or recorded_result(folder):
        page = write_study_report(folder, study, read_text(folder / "study.yaml") or "")
        _show_study(study, page, console)
        return
    page = write_report(folder)
    if evaluation := read_evaluation(folder):
        _show_evaluation(evaluation, console)
    _show_path(console, "report", page)


def chat(arguments: ChatArguments) -> None:
    """Chat with one model, or with two side by side."""
    sampling = Sampling(1, arguments.temperature, 1.0, arguments.max_tokens)
    models = {Path(arguments.model).name or arguments.model: arguments.model}
    if arguments.against:
        other = start_of(arguments.model) if arguments.against == BEFORE else arguments.against
        if other is None:
            problem = f"{arguments.model} is not a run that recorded its starting model"
            raise InputError(f"--against before: {problem}; name the model")
        models[arguments.against] = other
    with terminal() as screen:
        speakers = [Speaker(path, name, sampling, arguments.seed) for name, path in models.items()]
        talk(speakers, typed_lines(), screen.copyable)


def watch(arguments: WatchArguments) -> None:
    """Serve a run's live report on this machine until Ctrl-C."""
    runs_inside = sorted(path.parent.name for path in arguments.run.glob("*/manifest.json"))
    if runs_inside and not (arguments.run / "manifest.json").exists():
        raise InputError(f"RUN: {arguments.run} is not a run but contains runs; name one: {', '.join(runs_inside[:5])}")
    try:
        server = LiveServer(arguments.run, arguments.port)
    except (OSError, OverflowError) as error:
        raise InputError(f"--port: {arguments.port} cannot be opened ({one_line(error)}); choose another") from error
    with server:
        sys.stdout.write(f"{arguments.run} is at {server.address} (Ctrl-C ends this, not the run)\n")
        sys.stdout.flush()
        server.serve_forever()


def runs(folder: Path) -> None:
    """List the runs and studies in a folder."""
    console = Console()
    console.print(runs_table(folder, console.width))


def _kept(world: Sandbox, folder: Path) -> Sandbox:
    """Copy the sandbox to a folder, so that the run's folder holds all that its recipe names; return the copy.

    Raises:
        InputError: if the folder exists and is not an earlier copy.
    """
    if os.environ.get("RANK", "0") != "0":
        return world  # the same files; only the first process copies
    copy = Sandbox(folder / "model", folder / "train.jsonl", folder / "test.jsonl")
    copied_before = copy.train.is_file() and copy.train.read_bytes() == world.train.read_bytes()
    if folder.exists() and not copied_before:  # a copy is left by a run that was stopped before its training
        raise InputError(f"--output: {folder} exists already; choose another folder or remove it")
    folder.mkdir(parents=True, exist_ok=True)
    for source, target in zip(world[1:], copy[1:], strict=True):
        shutil.copyfile(source, target)
    shutil.copytree(world.model, copy.model, dirs_exist_ok=True)
    return copy


def _show_run(finished: Finished, screen: TerminalScreen) -> None:
    """Print the evaluation, what was spent, where model and report are, and commands to go on with."""
    folder, console = finished.folder, screen.console
    if finished.evaluation:
        _show_evaluation(finished.evaluation, console)
    _show_spending(screen)
    _show_path(console, "model", folder / "model")
    _show_path(console, "report", finished.report)
    judge_again = command("evaluate", "--run", folder, "--rewards.0.judge.model", "NAME")
    _show_next(console, command("chat", folder, "--against", BEFORE), judge_again, command("export", folder))


def _show_evaluation(evaluation: Evaluation, console: Console) -> None:
    """Print who judged, reasons to doubt the result, the verdict, and the tables."""
    sentences = (run_verdict(evaluation, None), certainty(evaluation), net_gain(evaluation))
    for line in filter(None, (*evaluation_lines(evaluation), *sentences)):
        console.print(visible(line), highlight=False, markup=False)
    for table in evaluation_tables(evaluation):
        console.print()
        console.print(table)


def _show_study(result: StudyResult, page: Path, console: Console) -> None:
    """Print the tables, the verdict in words, notes, and the path of the report."""
    for table in study_tables(result):
        console.print(table)
        console.print()
    swept = result.sweep
    sentences = (sweep_headline(result, swept), *sweep_sentences(result, swept)) if swept else (verdict(result),)
    for line in (*sentences, *notes(result)):
        console.print(visible(line), highlight=False, markup=False)
    _show_path(console, "report", page)


def _show_spending(screen: TerminalScreen) -> None:
    """Print how much judges on servers were asked and paid, if there are any."""
    if words := screen.spending.words:
        _show_path(screen.console, "judges", words)


def _show_next(console: Console, *commands: str) -> None:
    """Print commands to go on with."""
    for heading, line in zip(chain(["next"], repeat("")), commands, strict=False):
        _show_path(console, heading, line)


def _show_path(console: Console, what: str, path: Path | str) -> None:
    console.print(visible(f"{what:8}{path}"), highlight=False, markup=False, soft_wrap=True)
