"""What the functions in `grao.cli.commands` are called with, read from the words of the command line.

Options that a command does not know itself (`--rollout.group_size 4`) go to the recipe, which is checked here:
a mistake is answered before anything heavy is imported.
"""

import os
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from grao.cli.entrants import EvaluateArguments, Models, is_run, named
from grao.cli.meant import belongs
from grao.command import command
from grao.config.arms import study_arms
from grao.config.load import dump_recipe, load_config, load_recipe
from grao.config.recipe import Recipe
from grao.config.schema import names
from grao.config.strict_yaml import write_inline
from grao.config.study import Study, ablation
from grao.errors import InputError

Ability = float | str
"""`weak`, `able`, or a share from 0 to 1."""
Architecture = Literal["dense", "moe"]
Overrides = tuple[tuple[str, str], ...]
"""Dotted field and YAML text, in the order of the command line."""

_STAND_INS = (("model.path", "m"), ("data.path", "d"), ("rewards.0.function", "r:r"), ("output", "o"))
"""Required fields, with which the options of the quickstart are checked before its recipe can be written."""
_ABLATED: Overrides = (("arms", "{grao: {}}"), ("against", "null"), ("over", "{}"))
"""What an ablation replaces of a study."""

_EVALUATION = "runs/evaluation"
_OF_JUDGING = ("rewards.", "rewards", "evaluation.confidence", "audit.")
_CHECKS = ("retest", "kl", "judge_error", "labels")


class QuickstartArguments(NamedTuple):
    """`grao quickstart`: the whole method on the embedded tasks."""

    ability: Ability
    """Of the model at the start: a level by name, or a share from 0 to 1."""
    architecture: Architecture
    seed: int
    output: Path
    steps: int | None
    """Optimiser steps; None leaves the choice to the command."""
    show_samples: int
    """Answers of the last step on the screen."""
    overrides: Overrides
    """For the recipe that the command writes; keys and values are checked."""


class TrainArguments(NamedTuple):
    """`grao train`."""

    recipe: Recipe
    show_samples: int = 0
    """Answers of the last step on the screen."""


class ResumeArguments(NamedTuple):
    """`grao train --resume`."""

    folder: Path
    """Of the run; it exists."""
    overrides: Overrides
    """Fields of its recipe that are other ones from here."""
    show_samples: int = 0
    """Answers of the last step on the screen."""


class DryRunArguments(NamedTuple):
    """`grao train --dry-run`."""

    recipe: Recipe
    card: int | None
    """Bytes of the card to plan for; None is the device at hand."""
    gpus: int
    """How many of them the model is split over."""
    ask: bool
    """Judges on servers may be asked, to time them."""


class DataCheckArguments(NamedTuple):
    """`grao data check`."""

    recipe: Recipe
    """Its data section is checked; the rest stands in where nothing was given."""
    given: frozenset[str]
    """Fields of the data section that the user has set."""
    model: bool
    """Whether there is a model to read the rows with."""


class ChatArguments(NamedTuple):
    """`grao chat`."""

    model: str
    against: str | None
    """A second model, or `before` for the one that the run began with."""
    temperature: float
    max_tokens: int
    seed: int


class WatchArguments(NamedTuple):
    """`grao watch`."""

    run: Path
    port: int


class ExportArguments(NamedTuple):
    """`grao export`."""

    run: Path
    checkpoint: int | None
    """Step of the checkpoint to take in place of the result."""
    merge: bool
    """Put the adapter into the weights of its base."""
    dtype: str | None
    """Number format of merged weights; None is the base's own."""
    to: Path | None
    """Where it goes; None is `export` in the run's folder."""
    push: str | None
    """Repository of the hub."""
    public: bool
    """Whether all may read that."""


class StudyArguments(NamedTuple):
    """`grao compare`, `grao ablate` and `grao sweep`."""

    study: Study
    """Its arms are checked too."""
    quick: bool = False
    """Cut down to see it work."""
    retry: bool = False
    """Try failed runs again."""
    minutes: int | None = None
    """Begin no run that would not end by then."""
    again: str = ""
    """The command that goes on with what is left."""


def read_quickstart(namespace: Namespace, overrides: Overrides) -> QuickstartArguments:
    """Of `grao quickstart`: the fields that are given are checked too."""
    load_recipe(None, (*_STAND_INS, ("seed", str(namespace.seed)), *overrides))
    return QuickstartArguments(**_options(namespace), overrides=overrides)


def read_train(namespace: Namespace, overrides: Overrides) -> Any:
    """Of `grao train`: a recipe, a run to go on with, or a dry run."""
    for name in ("card", "gpus", "ask_judges"):
        if getattr(namespace, name) and not namespace.dry_run:
            raise InputError(f"--{name.replace('_', '-')}: is for --dry-run, which plans with it; leave it out")
    if namespace.report_to:
        services = write_inline(namespace.report_to.split(","))
        overrides = (*overrides, ("training.trainer.report_to", services))
    if namespace.resume is None:
        recipe = read_recipe(namespace, overrides, "--config FILE or --resume RUN")
        if namespace.dry_run:
            return DryRunArguments(recipe, namespace.card, namespace.gpus or 1, namespace.ask_judges)
        return TrainArguments(recipe, namespace.show_samples)
    if namespace.config or namespace.print_config or namespace.dry_run or "output" in dict(overrides):
        said = "--resume takes no --config, --print_config, --dry-run or --output"
        raise InputError(f"{said}: the run keeps its folder and the recipe it was started with")
    return ResumeArguments(_folder("--resume", namespace.resume), overrides, namespace.show_samples)


def read_data_check(namespace: Namespace, overrides: Overrides) -> DataCheckArguments:
    """Of `grao data check`."""
    if namespace.config and namespace.file:
        raise InputError("give FILE or --config FILE, not both: a recipe names its data itself")
    if namespace.config:
        return DataCheckArguments(read_recipe(namespace, overrides), frozenset(names(Recipe)["data",]), True)
    if namespace.file is None:
        raise InputError("give FILE or --config FILE; see grao data check --help")
    file = ("data.path", write_inline(str(namespace.file)))
    recipe = load_recipe(None, (*_STAND_INS, file, *overrides))
    given = frozenset(name.removeprefix("data.") for name, _ in overrides if name.startswith("data."))
    return DataCheckArguments(recipe, given, any(name == "model.path" for name, _ in overrides))


def read_evaluate(namespace: Namespace, overrides: Overrides) -> EvaluateArguments:
    """Prompts and rewards are those of `--run`, of the first run among the models, or of a recipe."""
    models, run = tuple(map(named, namespace.models)), namespace.run
    options = tuple((name, getattr(namespace, name)) for name in _CHECKS if getattr(namespace, name))
    if run is not None:
        _folder("--run", run)
        if namespace.config:
            raise InputError("--run takes no --config: its prompts are those of the run")
    elif namespace.config is None and (found := next((path for _, path in models if is_run(path)), None)):
        run, models = Path(found), models if len(models) > 1 else ()
    if run is not None:
        return _evaluate_on(run, namespace.output, models, overrides)._replace(options=options)
    if namespace.output is not None and (namespace.config or overrides or models):
        overrides = (*overrides, ("output", write_inline(str(namespace.output))))
    if models and namespace.config is None:  # what a recipe cannot be without
        given = {name for name, _ in overrides}
        needed = (("model.path", models[0][1]), ("output", _EVALUATION))
        overrides = (*((name, write_inline(text)) for name, text in needed if name not in given), *overrides)
    recipe = read_recipe(namespace, overrides, "grao evaluate RUN, models with --run RUN, or --config FILE")
    return EvaluateArguments(recipe, recipe.output, models, options=options)


def _evaluate_on(run: Path, output: Path | None, models: Models, overrides: Overrides) -> EvaluateArguments:
    """Models on the prompts of a run, the run's own two, or, where rewards are given, its recorded answers."""
    if not models and not overrides:
        return EvaluateArguments(run, output or run)
    if unfit := [name for name, _ in overrides if not models and not name.startswith(_OF_JUDGING)]:
        problem = f"--{unfit[0]} changes what is sampled, and --run RUN judges the recorded answers again"
        raise InputError(f"{problem}; to sample anew, name the models too: grao evaluate {run} --run {run}")
    if any(name.startswith("rewards.") for name, _ in overrides):
        overrides = (("rewards", "[]"), *overrides)
    folder = output or Path(f"{run}-evaluation")
    recipe = load_recipe(run / "recipe.yaml", (*overrides, ("output", write_inline(str(folder)))))
    return EvaluateArguments(recipe, recipe.output, models, None if models else run)


def read_study(namespace: Namespace, overrides: Overrides) -> StudyArguments:
    """Of `grao compare`, `grao ablate` and `grao sweep`."""
    if namespace.config is None:
        raise InputError(f"give --config FILE; see grao {namespace.command} --help")
    try:
        ablate = namespace.command == "ablate"
        study = load_config(Study, namespace.config, (*overrides, *_ABLATED) if ablate else overrides)
        study = ablation(study) if ablate else study
        if namespace.command == "compare" and study.over:
            raise InputError("over: has axes; run it with grao sweep")
        if namespace.command == "sweep" and not study.over:
            raise InputError("over: a sweep needs one or two axes, such as over: {method.beta: [0, 0.5, 1]}")
        study_arms(study)
    except InputError as error:
        file = str(namespace.config)
        raise InputError(str(error) if str(error).startswith((file, "--")) else f"{file}: {error}") from error
    given = [f"--{name}" for name in ("quick", "retry") if getattr(namespace, name)]
    given += [f"--minutes={namespace.minutes}"] if namespace.minutes else []
    given += [f"--{name}={text}" for name, text in overrides]
    again = command(namespace.command, "--config", namespace.config, *given)
    return StudyArguments(study, namespace.quick, namespace.retry, namespace.minutes, again)


def read_report(namespace: Namespace, overrides: Overrides) -> Path:
    """Of `grao report`: the folder."""
    return _folder("RUN", namespace.run)


def read_export(namespace: Namespace, overrides: Overrides) -> ExportArguments:
    """Of `grao export`."""
    if namespace.public and namespace.push is None:
        raise InputError("--public: is for --push; leave it out")
    if namespace.dtype and not namespace.merge:
        raise InputError("--dtype: is for --merge, other weights are exported as they are; leave it out")
    _folder("RUN", namespace.run)
    return ExportArguments(**_options(namespace))


def read_watch(namespace: Namespace, overrides: Overrides) -> WatchArguments:
    """Of `grao watch`."""
    return WatchArguments(_folder("RUN", namespace.run), namespace.port)


def read_chat(namespace: Namespace, overrides: Overrides) -> ChatArguments:
    """Of `grao chat`."""
    return ChatArguments(**_options(namespace))


def read_runs(namespace: Namespace, overrides: Overrides) -> Path:
    """Of `grao runs`: the folder."""
    return _folder("FOLDER", namespace.folder, "the folder that holds the runs")


def read_recipe(namespace: Namespace, overrides: Overrides, needed: str = "--config FILE") -> Any:
    """The checked recipe that `--config` and the options make; `needed` says what to give if there is neither.

    Raises:
        InputError: for anything wrong in it.
        SystemExit: after `--print_config`.
    """
    if namespace.config is None and not overrides:
        raise InputError(f"give {needed}; see grao {namespace.command} --help")
    recipe = load_config(namespace.root, namespace.config, overrides)
    if getattr(namespace, "print_config", False):
        sys.stdout.write(dump_recipe(recipe))
        raise SystemExit
    return recipe


def overrides_of(command: str, words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Pairs out of `--a.b value` and `--a.b=value`, in order."""
    rest = iter(words)
    for word in rest:
        name, equals, text = word.partition("=")
        if not name.startswith("--"):
            raise InputError(f"{word!r} is not expected here; {belongs(word, command) or 'options begin with --'}")
        value = text if equals else next(rest, None)
        if value is None or (value.startswith("--") and not equals):
            raise InputError(f"{name} needs a value")
        yield name[2:], value


def _options(namespace: Namespace) -> dict[str, Any]:
    """The command's own options."""
    others = ("command", "read", "root", "flags", "models")
    return {name: value for name, value in vars(namespace).items() if name not in others}


def _folder(option: str, path: Path, wanted: str = "the folder of a run") -> Path:
    if not os.path.isdir(path):
        raise InputError(f"{option}: {path} is not a folder; give {wanted}")
    if os.path.exists(path / "config.json") and not os.path.exists(path / "manifest.json"):
        remedy = f"give {path.parent}" if is_run(str(path.parent)) else f"to talk to it: grao chat {path}"
        raise InputError(f"{option}: {path} holds a model, not a run; {remedy}")
    return path
