"""The words that each command knows itself, for argparse; what is left over is for the recipe."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args

from grao import __version__
from grao.config.help import format_fields
from grao.config.reward_model import RewardModelRecipe
from grao.config.study import Study
from grao.errors import InputError

Ability = float | Literal["weak", "able"]
Architecture = Literal["dense", "moe"]

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
_AUDIT = """\
Nothing is trained. The results go to audit.output, by default the run folder's name with -audit.
"""
_ABLATION = """\
FILE is a study. Its arms are replaced by the ablation's, axes are left out; its output's name gets -ablation behind it.
The result shows what each arm weighs samples and reference with, and which arms differ in nothing but scale.
"""
_SWEEP = """\
FILE is a study with a section over, one or two axes:
  over: {method.beta: [0, 0.25, 0.5]}
  over: {noise: {none: {}, half: {noise.rewards: 0.5}}}
"""
_SEE_COMPARE = "--KEY VALUE changes one field of the study; grao compare --help lists them."
_SEE_TRAIN = "--SECTION.KEY VALUE changes one field of the recipe; grao train --help lists them."


def command_parser() -> argparse.ArgumentParser:
    """The parser of `grao`; its errors are `InputError`. `command` in its result names the command: `reward train`."""
    usage, more = "grao [-h] [--version] COMMAND ...", "grao COMMAND --help says more."
    parser = _Parser(prog="grao", usage=usage, epilog=more, formatter_class=_Help)
    parser.add_argument("--version", action="version", version=f"grao {__version__}")
    commands = parser.add_subparsers(
        prog="grao", dest="command", required=True, metavar="COMMAND", help=argparse.SUPPRESS
    )
    parser.description = f"Align a language model from prompts with reference answers.\n\n{_summaries('')}"
    families = {name: _family(commands, name) for name in dict.fromkeys(_family_of(name) for name in _COMMANDS) if name}
    for name, (summary, usage, epilog, add_arguments) in _COMMANDS.items():
        command = families.get(_family_of(name), commands).add_parser(
            name.rpartition(" ")[2],
            description=summary,
            usage=usage,
            epilog=epilog(),
            allow_abbrev=False,
            formatter_class=_Help,
        )
        command.set_defaults(command=name)
        add_arguments(command)
    return parser


def _family_of(name: str) -> str:
    """`reward` of `reward train`; empty for a command of one word."""
    return name.rpartition(" ")[0]


def _family(commands: Any, name: str) -> Any:
    """Where the commands `name ...` are added."""
    usage, more = f"grao {name} [-h] COMMAND ...", f"grao {name} COMMAND --help says more."
    parser = commands.add_parser(
        name, description=_summaries(name), usage=usage, epilog=more, allow_abbrev=False, formatter_class=_Help
    )
    return parser.add_subparsers(
        prog=f"grao {name}", dest="command", required=True, metavar="COMMAND", help=argparse.SUPPRESS
    )


def _summaries(family: str) -> str:
    """What each command of a family does, or each command of all."""
    lines = (f"\n  {name:14}{summary}" for name, (summary, *_) in _COMMANDS.items() if name.startswith(family))
    return "commands:" + "".join(lines)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")


class _Help(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=100)


def _quickstart(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--ability", type=_ability, default="weak", help="of the first model: weak, able or 0 to 1; default weak")
    add("--architecture", choices=get_args(Architecture), default="dense", help="of the model; default dense")
    add("--seed", type=_whole(0), default=0, metavar="N", help="of everything random; default 0")
    add("--steps", type=_whole(1), metavar="N", help="optimiser steps")
    folder = Path("runs/quickstart")
    add("--output", type=Path, default=folder, metavar="FOLDER", help=f"the run folder; default {folder}")


def _train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, metavar="FILE", help="the recipe, a YAML file")
    parser.add_argument("--resume", type=Path, metavar="RUN", help="continue the run in this folder")
    parser.add_argument("--print_config", action="store_true", help="print the complete recipe and stop")


def _evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run", type=Path, metavar="RUN", help="evaluate the model of this run")
    parser.add_argument("--config", type=Path, metavar="FILE", help="evaluate the model of a recipe")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="where the results go")


def _reward_train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, metavar="FILE", help="the recipe of a reward model, a YAML file")
    parser.add_argument("--print_config", action="store_true", help="print the complete recipe and stop")


def _study(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, metavar="FILE", help="the study, a YAML file")
    parser.add_argument("--quick", action="store_true", help="two arms, one seed, a few steps: see it work")
    parser.add_argument("--retry", action="store_true", help="try runs again that failed")


def _reward_audit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, metavar="FILE", help="the recipe of the run, a YAML file")


def _report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a run")


_COMMANDS: dict[str, tuple[str, str, Callable[[], str], Callable[[argparse.ArgumentParser], None]]] = {
    "quickstart": (
        "See the whole method work on embedded tasks with a tiny model; no download.",
        "grao quickstart [options] [--SECTION.KEY VALUE ...]",
        lambda: _SEE_TRAIN,
        _quickstart,
    ),
    "train": (
        "Train a model as a recipe says, or go on with an interrupted run.",
        "grao train --config FILE [--SECTION.KEY VALUE ...] | grao train --resume RUN",
        lambda: f"{_RECIPE}\n{format_fields()}",
        _train,
    ),
    "evaluate": (
        "Sample answers to the held-out prompts and score them against the references.",
        "grao evaluate (--run RUN | --config FILE [--SECTION.KEY VALUE ...]) [--output FOLDER]",
        lambda: _SEE_TRAIN,
        _evaluate,
    ),
    "compare": (
        "Compare methods or settings: same model, prompts, rewards and budget, several seeds.",
        "grao compare --config FILE [--quick] [--retry] [--KEY VALUE ...]",
        lambda: f"{_STUDY}\n{format_fields(Study)}",
        _study,
    ),
    "ablate": (
        "Take GRAO apart: a study with a term, the group or the sign policy left out in turn.",
        "grao ablate --config FILE [--quick] [--retry] [--KEY VALUE ...]",
        lambda: f"{_ABLATION}\n{_SEE_COMPARE}",
        _study,
    ),
    "sweep": (
        "Move a study along one or two axes: lines or a map, and who leads where.",
        "grao sweep --config FILE [--quick] [--retry] [--KEY VALUE ...]",
        lambda: f"{_SWEEP}\n{_SEE_COMPARE}",
        _study,
    ),
    "reward train": (
        "Train a reward model on pairs of a better and a worse answer.",
        "grao reward train --config FILE [--SECTION.KEY VALUE ...]",
        lambda: f"{_REWARD_RECIPE}\n{format_fields(RewardModelRecipe)}",
        _reward_train,
    ),
    "reward audit": (
        "See what a recipe's rewards are worth, and what its run will take, before you spend.",
        "grao reward audit --config FILE [--SECTION.KEY VALUE ...]",
        lambda: f"{_AUDIT}\n{_SEE_TRAIN}",
        _reward_audit,
    ),
    "report": (
        "Write the page of a run: curves, tables, answers.",
        "grao report RUN",
        lambda: "",
        _report,
    ),
}
"""Name -> what it does, usage, what stands below its help, what adds its arguments."""


_LEVELS: dict[str, Ability] = {"weak": "weak", "able": "able"}


def _ability(text: str) -> Ability:
    if text in _LEVELS:
        return _LEVELS[text]
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"must be weak, able or a number from 0 to 1, got {text!r}")
    return share


def _whole(minimum: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < minimum:
            raise argparse.ArgumentTypeError(f"must be a whole number, at least {minimum}, got {text!r}")
        return int(text)

    return parse
