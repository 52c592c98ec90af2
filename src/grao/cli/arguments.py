"""The command line: options and help of each command, and what its function in `grao.cli.commands` is called with.

Options that a command does not know itself (`--rollout.group_size 4`) go to the recipe, which is checked here:
a mistake is answered before anything heavy is imported.
"""

import os
import sys
from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn, get_args

from grao import __version__
from grao.cli.entrants import MODELS, EvaluateArguments, Models, divided, is_run, named
from grao.config.arms import study_arms
from grao.config.load import dump_recipe, load_config, load_recipe
from grao.config.other_trainers import ABSENT, OTHER_NAMES
from grao.config.recipe import Recipe, RewardModelRecipe
from grao.config.schema import format_fields, names
from grao.config.strict_yaml import write_inline
from grao.config.study import Study, ablation
from grao.errors import InputError
from grao.files import usable_path
from grao.settings import Dtype

Ability = float | str
"""`weak`, `able`, or a share from 0 to 1."""
Architecture = Literal["dense", "moe"]
Overrides = tuple[tuple[str, str], ...]
"""Dotted field and YAML text, in the order of the command line."""

_STAND_INS = (("model.path", "m"), ("data.path", "d"), ("rewards.0.function", "r:r"), ("output", "o"))
"""Required fields, with which the options of the quickstart are checked before its recipe can be written."""
_ABLATED: Overrides = (("arms", "{grao: {}}"), ("against", "null"), ("over", "{}"))
"""What an ablation replaces of a study."""

_RECIPE = """\
The recipe. Each field is also an option, its value is YAML:
  --rollout.group_size 4   --rewards.0.weight 2   --model.lora.rank 8   --model.lora null
"""
_REWARD_RECIPE = """\
The recipe of a reward model. Each field is also an option, its value is YAML:
  --training.epochs 2   --data.format hh   --model.lora.rank 8
"""
_STUDY = """\
The study. Each field is also an option, its value is YAML:
  --seeds '[0, 1]'   --budget.steps 50   --arms.grao.method.beta 0.3
Records of finished runs are kept in its folder; the same command goes on with what is missing.
"""
_AUDIT = "Nothing is trained. The results go to audit.output, by default the run folder's name with -audit.\n"
_ABLATION = """\
FILE is a study. Its arms are replaced by the ablation's, axes are left out; its output's name gets -ablation behind it.
The result shows what each arm weighs samples and reference with, and which arms differ in nothing but scale.
"""
_SWEEP = """\
FILE is a study with a section over, one or two axes:
  over: {method.beta: [0, 0.25, 0.5]}
  over: {noise: {none: {}, half: {noise.rewards: 0.5}}}
"""
_HOTTEST = 10.0
"""Temperature of `grao chat`."""
_EVALUATION = "runs/evaluation"
_OF_JUDGING = ("rewards.", "rewards", "evaluation.confidence", "audit.")
_CHECKS = ("retest", "kl", "judge_error", "labels")
_LARGEST_CARD = 10_000
"""GiB."""
_DIGITS = 19
"""Of a number that no longer fits into 64 bits."""
_Help = partial(RawDescriptionHelpFormatter, max_help_position=30, width=100)
_CONFIG = "--config FILE [--SECTION.KEY VALUE ...]"
_SEE_COMPARE = "--KEY VALUE changes one field of the study; grao compare --help lists them."
_SEE_TRAIN = "--SECTION.KEY VALUE changes one field of the recipe; grao train --help lists them."


class QuickstartArguments(NamedTuple):
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


class ResumeArguments(NamedTuple):
    """`grao train --resume`."""

    folder: Path
    """Of the run; it exists."""
    overrides: Overrides
    """Fields of its recipe that are other ones from here."""


class DryRunArguments(NamedTuple):
    """`grao train --dry-run`."""

    recipe: Recipe
    card: int | None
    """Bytes of the card to plan for; None is the device at hand."""
    gpus: int
    """How many of them the model is split over."""


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


def parse_arguments(argv: Sequence[str]) -> tuple[str, Any]:
    """The command's name, and the one argument of the function that carries it out.

    That is a recipe (`train`, `reward train`, `reward audit`), the folder of a run (`report`), or a tuple from above.

    Raises:
        InputError: for anything wrong on the command line or in the recipe.
        SystemExit: after `--help`, `--version` and `--print_config`.
    """
    namespace, words = _command_parser().parse_known_args(argv)
    if namespace.read is _evaluate:
        namespace.models, words = divided(words)
    overrides = tuple(_overrides(words))
    if namespace.read in (_chat, _export, _report, _runs):
        for name, _ in overrides:
            raise InputError(f"--{name} is unknown; see grao {namespace.command} --help")
    else:
        _check_names(namespace, overrides)
    return namespace.command, namespace.read(namespace, overrides)


def _quickstart(namespace: Namespace, overrides: Overrides) -> QuickstartArguments:
    load_recipe(None, (*_STAND_INS, ("seed", str(namespace.seed)), *overrides))
    return QuickstartArguments(**_options(namespace), overrides=overrides)


def _train(namespace: Namespace, overrides: Overrides) -> Any:
    for name in ("card", "gpus"):
        if getattr(namespace, name) is not None and not namespace.dry_run:
            raise InputError(f"--{name}: is for --dry-run, which plans for it; leave it out")
    if namespace.resume is None:
        recipe = _recipe(namespace, overrides, "--config FILE or --resume RUN")
        return DryRunArguments(recipe, namespace.card, namespace.gpus or 1) if namespace.dry_run else recipe
    if namespace.config or namespace.print_config or namespace.dry_run or "output" in dict(overrides):
        said = "--resume takes no --config, --print_config, --dry-run or --output"
        raise InputError(f"{said}: the run keeps its folder and the recipe it was started with")
    return ResumeArguments(_folder("--resume", namespace.resume), overrides)


def _data_check(namespace: Namespace, overrides: Overrides) -> DataCheckArguments:
    if namespace.config and namespace.file:
        raise InputError("give FILE or --config FILE, not both: a recipe names its data itself")
    if namespace.config:
        return DataCheckArguments(_recipe(namespace, overrides), frozenset(names(Recipe)["data",]), True)
    if namespace.file is None:
        raise InputError("give FILE or --config FILE; see grao data check --help")
    file = ("data.path", write_inline(str(namespace.file)))
    recipe = load_recipe(None, (*_STAND_INS, file, *overrides))
    given = frozenset(name.removeprefix("data.") for name, _ in overrides if name.startswith("data."))
    return DataCheckArguments(recipe, given, any(name == "model.path" for name, _ in overrides))


def _evaluate(namespace: Namespace, overrides: Overrides) -> EvaluateArguments:
    """Prompts and rewards are those of `--run`, of the first run among the models, or of a recipe."""
    models, run = tuple(map(named, namespace.models)), namespace.run
    options = tuple((name, getattr(namespace, name)) for name in _CHECKS if getattr(namespace, name))
    if run is not None:
        _folder("--run", run)
        if namespace.config:
            raise InputError("--run takes no --config: its prompts are those of the run")
    elif models and namespace.config is None and is_run(models[0][1]):
        run, models = Path(models[0][1]), models if len(models) > 1 else ()
    if run is not None:
        return _evaluate_on(run, namespace.output, models, overrides)._replace(options=options)
    if namespace.output is not None and (namespace.config or overrides or models):
        overrides = (*overrides, ("output", write_inline(str(namespace.output))))
    if models and namespace.config is None:  # what a recipe cannot be without
        given = {name for name, _ in overrides}
        needed = (("model.path", models[0][1]), ("output", _EVALUATION))
        overrides = (*((name, write_inline(text)) for name, text in needed if name not in given), *overrides)
    recipe = _recipe(namespace, overrides, "models, --run RUN or --config FILE")
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


def _study(namespace: Namespace, overrides: Overrides) -> StudyArguments:
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
    return StudyArguments(study, namespace.quick, namespace.retry)


def _report(namespace: Namespace, overrides: Overrides) -> Path:
    return _folder("RUN", namespace.run)


def _export(namespace: Namespace, overrides: Overrides) -> ExportArguments:
    if namespace.public and namespace.push is None:
        raise InputError("--public: is for --push; leave it out")
    if namespace.dtype and not namespace.merge:
        raise InputError("--dtype: is for --merge, other weights are exported as they are; leave it out")
    _folder("RUN", namespace.run)
    return ExportArguments(**_options(namespace))


def _chat(namespace: Namespace, overrides: Overrides) -> ChatArguments:
    return ChatArguments(**_options(namespace))


def _runs(namespace: Namespace, overrides: Overrides) -> Path:
    return _folder("FOLDER", namespace.folder)


def _recipe(namespace: Namespace, overrides: Overrides, needed: str = "--config FILE") -> Any:
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


def _check_names(namespace: Namespace, overrides: Overrides) -> None:
    """Refuses words without a dot that are no field at the top of the recipe: slips in an option of the command."""
    fields = names(namespace.root)[()] if namespace.root else ()
    for name, _ in overrides:
        if "." not in name and name not in fields:
            near = get_close_matches(name, [*_options(namespace), *fields], n=1)
            if name in OTHER_NAMES and "rollout" in fields:
                raise InputError(f"--{name} is unknown; here it is --{OTHER_NAMES[name]}")
            if name in ABSENT and "rollout" in fields:
                raise InputError(f"--{name} has no place here: {ABSENT[name]}; leave it out")
            hint = f"did you mean --{near[0]}?" if near else f"see grao {namespace.command} --help"
            raise InputError(f"--{name} is unknown; {hint}")


def _options(namespace: Namespace) -> dict[str, Any]:
    """The command's own options."""
    return {name: value for name, value in vars(namespace).items() if name not in ("command", "read", "root", "models")}


def _folder(option: str, path: Path) -> Path:
    if not os.path.isdir(path):
        raise InputError(f"{option}: {path} is not a folder; give the folder of a run")
    return path


def _command_parser() -> ArgumentParser:
    """The parser of `grao`; its errors are `InputError`.

    `command` in its result names the command, such as `reward train`, `read` turns the rest into its argument, and
    `root` is the class of the recipe whose fields are options too.
    """
    parser = _Parser(prog="grao", usage="grao [-h] [--version] COMMAND ...", formatter_class=_Help)
    parser.add_argument("--version", action="version", version=f"grao {__version__}")
    top = _subparsers(parser)
    style = {"allow_abbrev": False, "formatter_class": _Help}
    above = {name: top.add_parser(name, usage=f"grao {name} [-h] COMMAND ...", **style) for name in ("data", "reward")}
    families = {"": top, **{name: _subparsers(family) for name, family in above.items()}}
    summaries: list[str] = []

    def command(name: str, read: Any, root: type | None, usage: str, summary: str, epilog: str = "") -> Any:
        """Adds a command and returns the function that adds its options."""
        summaries.append(f"\n  {name:14}{summary}")
        family, _, last = name.rpartition(" ")
        usage = f"grao {name} {usage}"
        added = families[family].add_parser(last, usage=usage, description=summary, epilog=epilog, **style)
        added.set_defaults(command=name, read=read, root=root)
        return added.add_argument

    _add_commands(command)
    parser.description = "Align a language model from prompts with reference answers.\n\ncommands:" + "".join(summaries)
    parser.epilog = "grao COMMAND --help says more."
    for name, family_parser in above.items():
        lines = (line for line in summaries if line.startswith(f"\n  {name} "))
        family_parser.description = "commands:" + "".join(lines)
        family_parser.epilog = f"grao {name} COMMAND --help says more."
    return parser


def _add_commands(command: Callable[..., Callable[..., Any]]) -> None:
    """All commands, in the order of the help."""
    what = "See the whole method work on embedded tasks with a tiny model; no download."
    add = command("quickstart", _quickstart, None, "[options] [--SECTION.KEY VALUE ...]", what, _SEE_TRAIN)
    add("--ability", type=_ability, default="weak", help="of the first model: weak, able or 0 to 1; default weak")
    add("--architecture", choices=get_args(Architecture), default="dense", help="of the model; default dense")
    add("--seed", type=partial(_whole, 0), default=0, metavar="N", help="of everything random; default 0")
    add("--steps", type=partial(_whole, 1), metavar="N", help="optimiser steps")
    folder = Path("runs/quickstart")
    add("--output", type=_path, default=folder, metavar="FOLDER", help=f"the run folder; default {folder}")

    what = "See what a file holds, how it will be read, and a recipe to begin with."
    usage = "(FILE | --config FILE) [--data.KEY VALUE ...] [--model.path MODEL]"
    add = command("data check", _data_check, Recipe, usage, what, _SEE_TRAIN)
    add("file", type=_path, nargs="?", metavar="FILE", help="a data file, a folder of them, a pattern, or a hub id")
    add("--config", type=_path, metavar="FILE", help="check the data of a recipe")

    what = "Train a model as a recipe says, or go on with an interrupted run."
    fields = f"{_RECIPE}\n{format_fields()}"
    add = command("train", _train, Recipe, f"{_CONFIG} | grao train --resume RUN", what, fields)
    add("--config", type=_path, metavar="FILE", help="the recipe, a YAML file")
    add(
        "--resume",
        type=_path,
        metavar="RUN",
        help="continue the run in this folder; with --training.steps past its end",
    )
    add("--print_config", action="store_true", help="print the complete recipe and stop")
    add("--dry-run", action="store_true", help="read the data, plan memory and cost, and stop; needs no weights")
    add("--card", type=_bytes, metavar="SIZE", help="plan for a GPU of this memory, such as 24GiB")
    add("--gpus", type=partial(_whole, 1), metavar="N", help="plan for N of them, over which the model is split")

    what = "Judge models and ready answers on held-out prompts, against the references and each other."
    usage = "[[NAME=]MODEL ...] [--run RUN | --config FILE] [--SECTION.KEY VALUE ...]"
    add = command("evaluate", _evaluate, Recipe, usage, what, f"{MODELS}\n{_SEE_TRAIN}")
    add("--run", type=_path, metavar="RUN", help="prompts, rewards and sampling of this run")
    add("--config", type=_path, metavar="FILE", help="prompts, rewards and sampling of a recipe")
    add("--output", type=_path, metavar="FOLDER", help="where the results go")
    add("--retest", type=partial(_whole, 1), metavar="N", help="ask the judges again about N answers: do they repeat?")
    add("--kl", action="store_true", help="how far runs and adapters are from what they were trained from")
    add("--judge-error", metavar="E", help="correct win rates for a judge wrong in this share, or an audit's folder")
    add("--labels", metavar="FILE", help="agreement with people: rows of id, preferred (answer, reference, tie)")

    compare = "Compare methods or settings: same model, prompts, rewards and budget, several seeds."
    ablate = "Take GRAO apart: a study with a term, the group or the sign policy left out in turn."
    sweep = "Move a study along one or two axes: lines or a map, and who leads where."
    for name, what, epilog in (
        ("compare", compare, f"{_STUDY}\n{format_fields(Study)}"),
        ("ablate", ablate, f"{_ABLATION}\n{_SEE_COMPARE}"),
        ("sweep", sweep, f"{_SWEEP}\n{_SEE_COMPARE}"),
    ):
        add = command(name, _study, Study, "--config FILE [--quick] [--retry] [--KEY VALUE ...]", what, epilog)
        add("--config", type=_path, metavar="FILE", help="the study, a YAML file")
        add("--quick", action="store_true", help="two arms, one seed, a few steps: see it work")
        add("--retry", action="store_true", help="try runs again that failed")

    what = "Train a reward model on pairs of a better and a worse answer."
    fields = f"{_REWARD_RECIPE}\n{format_fields(RewardModelRecipe)}"
    add = command("reward train", _recipe, RewardModelRecipe, _CONFIG, what, fields)
    add("--config", type=_path, metavar="FILE", help="the recipe of a reward model, a YAML file")
    add("--print_config", action="store_true", help="print the complete recipe and stop")

    what = "See what a recipe's rewards are worth, and what its run will take, before you spend."
    add = command("reward audit", _recipe, Recipe, _CONFIG, what, f"{_AUDIT}\n{_SEE_TRAIN}")
    add("--config", type=_path, metavar="FILE", help="the recipe of the run, a YAML file")

    what = "Talk to a model, or to the one before and the one after training side by side."
    add = command("chat", _chat, None, "MODEL [--against MODEL] [options]", what, "/new begins anew, /quit ends.")
    add("model", metavar="MODEL", help="a run, a model or adapter folder, or a hub id")
    add("--against", metavar="MODEL", help="a second model; before: the one that the run began with")
    add("--temperature", type=_temperature, default=0.7, metavar="T", help="of sampling, 0 is greedy; default 0.7")
    add("--max_tokens", type=partial(_whole, 1), default=256, metavar="N", help="of an answer; default 256")
    add("--seed", type=partial(_whole, 0), default=0, metavar="N", help="of the draws; default 0")

    add = command("runs", _runs, None, "[FOLDER]", "List the runs and studies in a folder, one line each.")
    add("folder", type=_path, nargs="?", default=Path("runs"), metavar="FOLDER", help="default runs")

    add = command("report", _report, None, "RUN", "Write the page of a run: curves, tables, answers.")
    add("run", type=_path, metavar="RUN", help="the folder of a run")

    what = "Make of a run's model a folder that other tools load, with a model card."
    add = command("export", _export, None, "RUN [--merge] [--to FOLDER] [--push NAME/REPO] [options]", what)
    add("run", type=_path, metavar="RUN", help="the folder of a run")
    add("--merge", action="store_true", help="put the adapter into the weights of its (unquantised) base")
    add("--dtype", choices=get_args(Dtype), help="number format of merged weights; default the base's own")
    add("--checkpoint", type=partial(_whole, 1), metavar="N", help="take the checkpoint of step N, not the result")
    add("--to", type=_path, metavar="FOLDER", help="where it goes; default RUN/export")
    add("--push", metavar="NAME/REPO", help="upload it to the hub, private; the key is taken from HF_TOKEN")
    add("--public", action="store_true", help="let all see what is pushed")


def _subparsers(parser: ArgumentParser) -> Any:
    return parser.add_subparsers(prog=parser.prog, dest="command", required=True, metavar="COMMAND", help=SUPPRESS)


class _Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")


def _ability(text: str) -> Ability:
    if text in ("weak", "able"):
        return text
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise ArgumentTypeError(f"must be weak, able or a number from 0 to 1, got {text!r}")
    return share


def _temperature(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= _HOTTEST:
        raise ArgumentTypeError(f"must be a number from 0 to {_HOTTEST:g}, got {text!r}")
    return number


def _path(text: str) -> Path:
    try:
        return Path(usable_path(text))
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from error


def _bytes(text: str) -> int:
    number, unit = text.removesuffix("B").removesuffix("Gi"), 1 << 30
    if not number.replace(".", "", 1).isdecimal() or not 1 <= float(number) < _LARGEST_CARD:
        raise ArgumentTypeError(f"must be a number of GiB, such as 24GiB, got {text!r}")
    return round(float(number) * unit)


def _whole(minimum: int, text: str) -> int:
    if not (text.isdecimal() and len(text) < _DIGITS) or int(text) < minimum:
        raise ArgumentTypeError(f"must be a whole number, at least {minimum}, got {text!r}")
    return int(text)
