"""What each command is told: the words on the command line into one frozen dataclass a command.

Options that a command does not know itself (`--rollout.group_size 4`) go to the recipe, which is checked here:
a mistake is answered before anything heavy is imported.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from grao.cli.parser import Ability, Architecture, command_parser
from grao.config import Recipe, load_recipe
from grao.config.ablation import ablation
from grao.config.arms import study_arms
from grao.config.fields import names
from grao.config.parse import load_config
from grao.config.reward_model import RewardModelRecipe
from grao.config.strict_yaml import write_inline
from grao.config.study import Study
from grao.errors import InputError

Overrides = tuple[tuple[str, str], ...]
"""Dotted field and YAML text, in the order of the command line."""


@dataclass(frozen=True)
class QuickstartArguments:
    """`grao quickstart`: the whole method on the embedded tasks."""

    ability: Ability
    """Of the model at the start: a level by name, or a share from 0 to 1."""
    architecture: Architecture
    seed: int
    output: Path
    steps: int | None
    """Optimiser steps; None leaves the choice to the command."""
    overrides: Overrides
    """For the recipe that the command writes; keys and values are checked."""


@dataclass(frozen=True)
class TrainArguments:
    """`grao train`: exactly one of the first two is given."""

    recipe: Recipe | None
    resume: Path | None
    """An existing folder."""
    print_config: bool = False
    """Print the recipe and stop; done before the command is imported."""


@dataclass(frozen=True)
class EvaluateArguments:
    """`grao evaluate`: exactly one of the first two is given."""

    run: Path | None
    """An existing folder: the model, data and rewards of this run."""
    recipe: Recipe | None
    output: Path | None
    """Where the results go; the recipe's `output` is the same folder. None: into the run."""


@dataclass(frozen=True)
class StudyArguments:
    """`grao compare`, `grao ablate` and `grao sweep`."""

    study: Study
    """Its arms are checked too."""
    quick: bool = False
    """Cut down to see it work."""
    retry: bool = False
    """Try failed runs again."""


@dataclass(frozen=True)
class RewardTrainArguments:
    """`grao reward train`."""

    recipe: RewardModelRecipe
    print_config: bool = False
    """Print the recipe and stop; done before the command is imported."""


@dataclass(frozen=True)
class RewardAuditArguments:
    """`grao reward audit`."""

    recipe: Recipe
    """Of the run that is to be."""


@dataclass(frozen=True)
class ReportArguments:
    """`grao report`."""

    run: Path
    """An existing folder."""


Arguments = (
    QuickstartArguments
    | TrainArguments
    | EvaluateArguments
    | StudyArguments
    | RewardTrainArguments
    | RewardAuditArguments
    | ReportArguments
)


def parse_arguments(argv: Sequence[str]) -> tuple[str, Arguments]:
    """The command's name and what it is told.

    Raises:
        InputError: for anything wrong on the command line or in the recipe.
        SystemExit: after `--help` and `--version`.
    """
    namespace, rest = command_parser().parse_known_args(argv)
    return namespace.command, _BUILDERS[namespace.command](namespace, tuple(_overrides(rest)))


def _quickstart(namespace: argparse.Namespace, overrides: Overrides) -> QuickstartArguments:
    _check_names(namespace, overrides, ())
    load_recipe(None, (*_STAND_INS, ("seed", str(namespace.seed)), *overrides))
    return QuickstartArguments(
        ability=namespace.ability,
        architecture=namespace.architecture,
        seed=namespace.seed,
        output=namespace.output,
        steps=namespace.steps,
        overrides=overrides,
    )


_STAND_INS = (("model.path", "m"), ("data.path", "d"), ("rewards.0.function", "r:r"), ("output", "o"))
"""What the recipe of the quickstart has besides the user's options, as far as the check of those needs it."""


def _train(namespace: argparse.Namespace, overrides: Overrides) -> TrainArguments:
    _check_names(namespace, overrides, names()[()])
    if namespace.resume is not None:
        if namespace.config or overrides or namespace.print_config:
            raise InputError("--resume takes no other options: the run keeps the recipe it was started with")
        return TrainArguments(recipe=None, resume=_folder("--resume", namespace.resume))
    if namespace.config is None and not overrides:
        raise InputError("give --config FILE or --resume RUN; see grao train --help")
    return TrainArguments(load_recipe(namespace.config, overrides), None, namespace.print_config)


def _evaluate(namespace: argparse.Namespace, overrides: Overrides) -> EvaluateArguments:
    _check_names(namespace, overrides, names()[()])
    if namespace.run is not None:
        if namespace.config or overrides:
            raise InputError("--run takes no --config and no fields of the recipe: it evaluates the run as it was")
        return EvaluateArguments(_folder("--run", namespace.run), None, namespace.output)
    if namespace.config is None and not overrides:
        raise InputError("give --run RUN or --config FILE; see grao evaluate --help")
    if namespace.output is not None:
        overrides = (*overrides, ("output", write_inline(str(namespace.output))))
    recipe = load_recipe(namespace.config, overrides)
    return EvaluateArguments(None, recipe, recipe.output)


def _study(namespace: argparse.Namespace, overrides: Overrides, cut: Callable[[Study], Study]) -> StudyArguments:
    _check_names(namespace, overrides, names(Study)[()])
    if namespace.config is None:
        raise InputError(f"give --config FILE; see grao {namespace.command} --help")
    try:
        study = cut(load_config(Study, namespace.config, overrides))
        study_arms(study)
    except InputError as error:
        place = str(namespace.config)
        raise InputError(str(error) if str(error).startswith((place, "--")) else f"{place}: {error}") from error
    return StudyArguments(study, namespace.quick, namespace.retry)


_ABLATED: Overrides = (("arms", "{grao: {}}"), ("against", "null"), ("over", "{}"))
"""What an ablation replaces of a study."""


def _compared(study: Study) -> Study:
    if study.over:
        raise InputError("over: has axes; run it with grao sweep")
    return study


def _swept(study: Study) -> Study:
    if not study.over:
        raise InputError("over: a sweep needs one or two axes, such as over: {method.beta: [0, 0.5, 1]}")
    return study


def _reward_train(namespace: argparse.Namespace, overrides: Overrides) -> RewardTrainArguments:
    _check_names(namespace, overrides, names(RewardModelRecipe)[()])
    if namespace.config is None and not overrides:
        raise InputError("give --config FILE; see grao reward train --help")
    recipe = load_config(RewardModelRecipe, namespace.config, overrides)
    return RewardTrainArguments(recipe, namespace.print_config)


def _reward_audit(namespace: argparse.Namespace, overrides: Overrides) -> RewardAuditArguments:
    _check_names(namespace, overrides, names()[()])
    if namespace.config is None and not overrides:
        raise InputError("give --config FILE; see grao reward audit --help")
    return RewardAuditArguments(load_recipe(namespace.config, overrides))


def _report(namespace: argparse.Namespace, overrides: Overrides) -> ReportArguments:
    for name, _ in overrides:
        raise InputError(f"--{name} is unknown: grao report takes a run folder and nothing else")
    return ReportArguments(_folder("RUN", namespace.run))


_BUILDERS: dict[str, Callable[[argparse.Namespace, Overrides], Arguments]] = {
    "quickstart": _quickstart,
    "train": _train,
    "evaluate": _evaluate,
    "compare": lambda namespace, overrides: _study(namespace, overrides, _compared),
    "ablate": lambda namespace, overrides: _study(namespace, (*overrides, *_ABLATED), ablation),
    "sweep": lambda namespace, overrides: _study(namespace, overrides, _swept),
    "reward train": _reward_train,
    "reward audit": _reward_audit,
    "report": _report,
}


def _overrides(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Pairs out of `--a.b value` and `--a.b=value`, in order."""
    rest = iter(words)
    for word in rest:
        name, equals, text = word.partition("=")
        if not name.startswith("--"):
            hint = "a recipe is given as --config FILE" if word.endswith((".yaml", ".yml")) else "options begin with --"
            raise InputError(f"{word!r} is not expected here; {hint}")
        value = text if equals else next(rest, None)
        if value is None or (value.startswith("--") and not equals):
            raise InputError(f"{name} needs a value")
        yield name[2:], value


def _check_names(namespace: argparse.Namespace, overrides: Overrides, fields: Sequence[str]) -> None:
    """A word without a dot is a field at the recipe's top level, or a slip in an option of the command."""
    known = [*(name for name in vars(namespace) if name != "command"), *fields]
    for name, _ in overrides:
        if "." not in name and name not in fields:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean --{near[0]}?" if near else f"see grao {namespace.command} --help"
            raise InputError(f"--{name} is unknown; {hint}")


def _folder(option: str, path: Path) -> Path:
    if not path.is_dir():
        raise InputError(f"{option}: {path} is not a folder; give the folder of a run")
    return path
