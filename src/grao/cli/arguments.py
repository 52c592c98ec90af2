"""The arguments of the functions in `grao.cli.commands`, parsed from the command line.

Options that are not the command's own (`--rollout.group_size 4`) set fields of the recipe. The recipe is checked here,
before anything heavy is imported.
"""

import os
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from grao.cli.entrants import EvaluateArguments, Models, is_run, name_and_path
from grao.cli.hints import usage_hint
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
"""Stand-ins for required fields, so that options can be checked before there is a complete recipe."""
_ABLATED: Overrides = (("arms", "{grao: {}}"), ("against", "null"), ("over", "{}"))
"""What an ablation replaces in a study."""

_EVALUATION = "runs/evaluation"
_OF_JUDGING = ("rewards.", "rewards", "evaluation.confidence", "audit.")
_CHECKS = ("retest", "kl", "judge_error", "labels")


class QuickstartArguments(NamedTuple):
    """Arguments of `grao quickstart`."""

    ability: Ability
    """Ability of the starting model: a level by name, or a share from 0 to 1."""
    architecture: Architecture
    seed: int
    output: Path
    steps: int | None
    """Optimiser steps; None is the command's default."""
    show_samples: int
    """Number of answers of the last step to show while training."""
    overrides: Overrides
    """Fields to set in the recipe that the command writes; already checked."""


class TrainArguments(NamedTuple):
    """Arguments of `grao train`."""

    recipe: Recipe
    show_samples: int = 0
    """Number of answers of the last step to show while training."""


class ResumeArguments(NamedTuple):
    """Arguments of `grao train --resume`."""

    folder: Path
    """Folder of the run; it exists."""
    overrides: Overrides
    """Fields of its recipe that change from here on."""
    show_samples: int = 0
    """Number of answers of the last step to show while training."""


class DryRunArguments(NamedTuple):
    """Arguments of `grao train --dry-run`."""

    recipe: Recipe
    card: int | None
    """Memory in bytes of the GPU to plan for; None: plan for this machine's device."""
    gpus: int
    """Number of GPUs that the model is split over."""
    ask: bool
    """Ask judges on servers a few questions to time them."""


class DataCheckArguments(NamedTuple):
    """Arguments of `grao data check`."""

    recipe: Recipe
    """Only its data section is checked; missing fields are stand-ins."""
    given: frozenset[str]
    """Fields of the data section that the user set."""
    model: bool
    """Whether a model was given to encode the rows with."""


class ChatArguments(NamedTuple):
    """Arguments of `grao chat`."""

    model: str
    against: str | None
    """A second model, or `before` for the one that the run started from."""
    temperature: float
    max_tokens: int
    seed: int


class WatchArguments(NamedTuple):
    """Arguments of `grao watch`."""

    run: Path
    port: int


class ExportArguments(NamedTuple):
    """Arguments of `grao export`."""

    run: Path
    checkpoint: int | None
    """Step of the checkpoint to export instead of the final model."""
    merge: bool
    """Merge the adapter into the weights of its base."""
    dtype: str | None
    """Data type of merged weights; None is the base's own."""
    to: Path | None
    """Output folder; None is `export` in the run's folder."""
    push: str | None
    """Repository on the hub."""
    public: bool
    """Whether that repository is public."""


class StudyArguments(NamedTuple):
    """Arguments of `grao compare`, `grao ablate` and `grao sweep`."""

    study: Study
    """The study; its arms are checked too."""
    quick: bool = False
    """Run a small version of the study, to check that it works."""
    retry: bool = False
    """Retry failed runs."""
    minutes: int | None = None
    """Start no run that would not finish within these minutes."""
    resume: str = ""
    """The command that resumes the study."""


def read_quickstart(namespace: Namespace, overrides: Overrides) -> QuickstartArguments:
    """Parse the arguments of `grao quickstart`; given settings are checked too."""
    load_recipe(None, (*_STAND_INS, ("seed", str(namespace.seed)), *overrides))
    return QuickstartArguments(**_options(namespace), overrides=overrides)


def read_train(namespace: Namespace, overrides: Overrides) -> Any:
    """Parse the arguments of `grao train`: a recipe, a run to resume, or a dry run."""
    for name in ("card", "gpus", "ask_judges"):
        if getattr(namespace, name) and not namespace.dry_run:
            raise InputError(f"--{name.replace('_', '-')} only applies to --dry-run; remove it")
    if namespace.report_to:
        services = write_inline(namespace.report_to.split(","))
        overrides = (*overrides, ("training.trainer.report_to", services))
    if namespace.resume is None:
        recipe = read_recipe(namespace, overrides, "--config FILE or --resume RUN")
        if namespace.dry_run:
            return DryRunArguments(recipe, namespace.card, namespace.gpus or 1, namespace.ask_judges)
        return TrainArguments(recipe, namespace.show_samples)
    if namespace.config or namespace.print_config or namespace.dry_run or "output" in dict(overrides):
        problem = "--resume takes no --config, --print_config, --dry-run or --output"
        raise InputError(f"{problem}: the run keeps its folder and the recipe it was started with")
    return ResumeArguments(_folder("--resume", namespace.resume), overrides, namespace.show_samples)


def read_data_check(namespace: Namespace, overrides: Overrides) -> DataCheckArguments:
    """Parse the arguments of `grao data check`."""
    if namespace.config and namespace.file:
        raise InputError("give FILE or --config FILE, not both: the recipe names its own data")
    if namespace.config:
        return DataCheckArguments(read_recipe(namespace, overrides), frozenset(names(Recipe)["data",]), True)
    if namespace.file is None:
        raise InputError("give FILE or --config FILE; see grao data check --help")
    file = ("data.path", write_inline(str(namespace.file)))
    recipe = load_recipe(None, (*_STAND_INS, file, *overrides))
    given = frozenset(name.removeprefix("data.") for name, _ in overrides if name.startswith("data."))
    return DataCheckArguments(recipe, given, any(name == "model.path" for name, _ in overrides))


def read_evaluate(namespace: Namespace, overrides: Overrides) -> EvaluateArguments:
    """Parse the arguments of `grao evaluate`.

    Prompts and rewards come from `--run`, from the first run among the models, or from a recipe.
    """
    models, run = tuple(map(name_and_path, namespace.models)), namespace.run
    options = tuple((name, getattr(namespace, name)) for name in _CHECKS if getattr(namespace, name))
    if run is not None:
        _folder("--run", run)
        if namespace.config:
            raise InputError("--run takes no --config: the prompts are those of the run")
    elif namespace.config is None and (first := next((path for _, path in models if is_run(path)), None)):
        run, models = Path(first), models if len(models) > 1 else ()
    if run is not None:
        return _evaluate_on(run, namespace.output, models, overrides)._replace(options=options)
    if namespace.output is not None and (namespace.config or overrides or models):
        overrides = (*overrides, ("output", write_inline(str(namespace.output))))
    if models and namespace.config is None:  # fields that a recipe must have
        given = {name for name, _ in overrides}
        needed = (("model.path", models[0][1]), ("output", _EVALUATION))
        overrides = (*((name, write_inline(text)) for name, text in needed if name not in given), *overrides)
    recipe = read_recipe(namespace, overrides, "grao evaluate RUN, models with --run RUN, or --config FILE")
    return EvaluateArguments(recipe, recipe.output, models, options=options)


def _evaluate_on(run: Path, output: Path | None, models: Models, overrides: Overrides) -> EvaluateArguments:
    """Return the arguments to evaluate `models`, else the run's own two or, given options, its recorded answers."""
    if not models and not overrides:
        return EvaluateArguments(run, output or run)
    if unusable := [name for name, _ in overrides if not models and not name.startswith(_OF_JUDGING)]:
        problem = f"--{unusable[0]} changes how answers are sampled, but --run RUN judges the recorded answers"
        raise InputError(f"{problem}; to sample anew, name the models too: grao evaluate {run} --run {run}")
    if any(name.startswith("rewards.") for name, _ in overrides):
        overrides = (("rewards", "[]"), *overrides)
    folder = output or Path(f"{run}-evaluation")
    recipe = load_recipe(run / "recipe.yaml", (*overrides, ("output", write_inline(str(folder)))))
    return EvaluateArguments(recipe, recipe.output, models, None if models else run)


def read_study(namespace: Namespace, overrides: Overrides) -> StudyArguments:
    """Parse the arguments of `grao compare`, `grao ablate` and `grao sweep`."""
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
    resume = command(namespace.command, "--config", namespace.config, *given)
    return StudyArguments(study, namespace.quick, namespace.retry, namespace.minutes, resume)


def read_report(namespace: Namespace, overrides: Overrides) -> Path:
    """Parse the arguments of `grao report`: the run's folder."""
    return _folder("RUN", namespace.run)


def read_export(namespace: Namespace, overrides: Overrides) -> ExportArguments:
    """Parse the arguments of `grao export`."""
    if namespace.public and namespace.push is None:
        raise InputError("--public only applies to --push; remove it")
    if namespace.dtype and not namespace.merge:
        raise InputError("--dtype only applies to --merge; other weights are exported as they are; remove it")
    _folder("RUN", namespace.run)
    return ExportArguments(**_options(namespace))


def read_watch(namespace: Namespace, overrides: Overrides) -> WatchArguments:
    """Parse the arguments of `grao watch`."""
    return WatchArguments(_folder("RUN", namespace.run), namespace.port)


def read_chat(namespace: Namespace, overrides: Overrides) -> ChatArguments:
    """Parse the arguments of `grao chat`."""
    return ChatArguments(**_options(namespace))


def read_runs(namespace: Namespace, overrides: Overrides) -> Path:
    """Parse the arguments of `grao runs`: the folder."""
    return _folder("FOLDER", namespace.folder, "the folder that holds the runs")


def read_recipe(namespace: Namespace, overrides: Overrides, needed: str = "--config FILE") -> Any:
    """Return the checked recipe made of `--config` and the options; `needed` names what to give if there is neither.

    Raises:
        InputError: if the recipe is not valid.
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
    """Yield the (name, value) pairs of `--a.b value` and `--a.b=value`, in order."""
    rest = iter(words)
    for word in rest:
        name, equals, text = word.partition("=")
        if not name.startswith("--"):
            raise InputError(f"unexpected argument {word!r}; {usage_hint(word, command) or 'options begin with --'}")
        value = text if equals else next(rest, None)
        if value is None or (value.startswith("--") and not equals):
            raise InputError(f"{name} needs a value")
        yield name[2:], value


def _options(namespace: Namespace) -> dict[str, Any]:
    """Return the command's own options by name."""
    others = ("command", "read", "root", "flags", "models")
    return {name: value for name, value in vars(namespace).items() if name not in others}


def _folder(option: str, path: Path, wanted: str = "the folder of a run") -> Path:
    if not os.path.isdir(path):
        raise InputError(f"{option}: {path} is not a folder; give {wanted}")
    if os.path.exists(path / "config.json") and not os.path.exists(path / "manifest.json"):
        remedy = f"give {path.parent}" if is_run(str(path.parent)) else f"to chat with it: grao chat {path}"
        raise InputError(f"{option}: {path} holds a model, not a run; {remedy}")
    return path
