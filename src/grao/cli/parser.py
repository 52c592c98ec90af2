"""The command line: options and help of each command."""

from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, get_args

from grao import __version__
from grao.cli.arguments import (
    Ability,
    Architecture,
    check_names,
    overrides_of,
    read_chat,
    read_data_check,
    read_evaluate,
    read_export,
    read_quickstart,
    read_recipe,
    read_report,
    read_runs,
    read_study,
    read_train,
    read_watch,
)
from grao.cli.entrants import MODELS, divided
from grao.config.recipe import Recipe, RewardModelRecipe
from grao.config.schema import format_fields
from grao.config.study import Study
from grao.errors import InputError
from grao.files import usable_path
from grao.settings import Dtype

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
_LARGEST_CARD = 10_000
"""GiB."""
_DIGITS = 19
"""Of a number that no longer fits into 64 bits."""
_Help = partial(RawDescriptionHelpFormatter, max_help_position=30, width=100)
_CONFIG = "--config FILE [--SECTION.KEY VALUE ...]"
_SEE_COMPARE = "--KEY VALUE changes one field of the study; grao compare --help lists them."
_SEE_TRAIN = "--SECTION.KEY VALUE changes one field of the recipe; grao train --help lists them."


def parse_arguments(argv: Sequence[str]) -> tuple[str, Any]:
    """The command's name, and the one argument of the function that carries it out.

    That is a recipe (`train`, `reward train`, `reward audit`), the folder of a run (`report`), or a tuple from above.

    Raises:
        InputError: for anything wrong on the command line or in the recipe.
        SystemExit: after `--help`, `--version` and `--print_config`.
    """
    namespace, words = _command_parser().parse_known_args(argv)
    if namespace.read is read_evaluate:
        namespace.models, words = divided(words)
    overrides = tuple(overrides_of(words))
    if namespace.read in (read_chat, read_export, read_report, read_runs, read_watch):
        for name, _ in overrides:
            raise InputError(f"--{name} is unknown; see grao {namespace.command} --help")
    else:
        check_names(namespace, overrides)
    return namespace.command, namespace.read(namespace, overrides)


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
    add = command("quickstart", read_quickstart, None, "[options] [--SECTION.KEY VALUE ...]", what, _SEE_TRAIN)
    add("--ability", type=_ability, default="weak", help="of the first model: weak, able or 0 to 1; default weak")
    add("--architecture", choices=get_args(Architecture), default="dense", help="of the model; default dense")
    add("--seed", type=partial(_whole, 0), default=0, metavar="N", help="of everything random; default 0")
    add("--steps", type=partial(_whole, 1), metavar="N", help="optimiser steps")
    folder = Path("runs/quickstart")
    add("--output", type=_path, default=folder, metavar="FOLDER", help=f"the run folder; default {folder}")

    what = "See what a file holds, how it will be read, and a recipe to begin with."
    usage = "(FILE | --config FILE) [--data.KEY VALUE ...] [--model.path MODEL]"
    add = command("data check", read_data_check, Recipe, usage, what, _SEE_TRAIN)
    add("file", type=_path, nargs="?", metavar="FILE", help="a data file, a folder of them, a pattern, or a hub id")
    add("--config", type=_path, metavar="FILE", help="check the data of a recipe")

    what = "Train a model as a recipe says, or go on with an interrupted run."
    fields = f"{_RECIPE}\n{format_fields()}"
    add = command("train", read_train, Recipe, f"{_CONFIG} | grao train --resume RUN", what, fields)
    add("--config", type=_path, metavar="FILE", help="the recipe, a YAML file")
    add(
        "--resume",
        type=_path,
        metavar="RUN",
        help="continue the run in this folder; with --training.steps past its end",
    )
    add("--report-to", metavar="NAME", help="send metrics to tensorboard, wandb, trackio, ...; several with commas")
    add("--print_config", action="store_true", help="print the complete recipe and stop")
    add("--dry-run", action="store_true", help="read the data, plan memory and cost, and stop; needs no weights")
    add("--card", type=_bytes, metavar="SIZE", help="plan for a GPU of this memory, such as 24GiB")
    add("--gpus", type=partial(_whole, 1), metavar="N", help="plan for N of them, over which the model is split")

    what = "Judge models and ready answers on held-out prompts, against the references and each other."
    usage = "[[NAME=]MODEL ...] [--run RUN | --config FILE] [--SECTION.KEY VALUE ...]"
    add = command("evaluate", read_evaluate, Recipe, usage, what, f"{MODELS}\n{_SEE_TRAIN}")
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
        add = command(name, read_study, Study, "--config FILE [--quick] [--retry] [--KEY VALUE ...]", what, epilog)
        add("--config", type=_path, metavar="FILE", help="the study, a YAML file")
        add("--quick", action="store_true", help="two arms, one seed, a few steps: see it work")
        add("--retry", action="store_true", help="try runs again that failed")

    what = "Train a reward model on pairs of a better and a worse answer."
    fields = f"{_REWARD_RECIPE}\n{format_fields(RewardModelRecipe)}"
    add = command("reward train", read_recipe, RewardModelRecipe, _CONFIG, what, fields)
    add("--config", type=_path, metavar="FILE", help="the recipe of a reward model, a YAML file")
    add("--print_config", action="store_true", help="print the complete recipe and stop")

    what = "See what a recipe's rewards are worth, and what its run will take, before you spend."
    add = command("reward audit", read_recipe, Recipe, _CONFIG, what, f"{_AUDIT}\n{_SEE_TRAIN}")
    add("--config", type=_path, metavar="FILE", help="the recipe of the run, a YAML file")

    what = "Talk to a model, or to the one before and the one after training side by side."
    add = command("chat", read_chat, None, "MODEL [--against MODEL] [options]", what, "/new begins anew, /quit ends.")
    add("model", metavar="MODEL", help="a run, a model or adapter folder, or a hub id")
    add("--against", metavar="MODEL", help="a second model; before: the one that the run began with")
    add("--temperature", type=_temperature, default=0.7, metavar="T", help="of sampling, 0 is greedy; default 0.7")
    add("--max_tokens", type=partial(_whole, 1), default=256, metavar="N", help="of an answer; default 256")
    add("--seed", type=partial(_whole, 0), default=0, metavar="N", help="of the draws; default 0")

    what = "See the page of a run while it is written, in a browser on this machine."
    add = command("watch", read_watch, None, "RUN [--port N]", what)
    add("run", type=_path, metavar="RUN", help="the folder of a run")
    add("--port", type=partial(_whole, 0), default=8642, metavar="N", help="default 8642; 0 takes a free one")

    add = command("runs", read_runs, None, "[FOLDER]", "List the runs and studies in a folder, one line each.")
    add("folder", type=_path, nargs="?", default=Path("runs"), metavar="FOLDER", help="default runs")

    add = command("report", read_report, None, "RUN", "Write the page of a run: curves, tables, answers.")
    add("run", type=_path, metavar="RUN", help="the folder of a run")

    what = "Make of a run's model a folder that other tools load, with a model card."
    add = command("export", read_export, None, "RUN [--merge] [--to FOLDER] [--push NAME/REPO] [options]", what)
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
