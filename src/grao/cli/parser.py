"""The command line: options and help of each command."""

import sys
from argparse import SUPPRESS, Action, ArgumentParser, ArgumentTypeError, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from textwrap import wrap
from typing import Any, NoReturn, get_args

from grao import __version__
from grao.cli.arguments import (
    Ability,
    Architecture,
    Overrides,
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
from grao.cli.completion import SHELLS, completion_script
from grao.cli.entrants import split_arguments
from grao.cli.help import COLUMN, search_text, section_text, settings_of, table, width, wrapped
from grao.cli.hints import check_command, check_names, move_help_last
from grao.config.recipe import Recipe, RewardModelRecipe
from grao.config.study import Study
from grao.errors import InputError
from grao.files import read_packaged, usable_path
from grao.settings import Dtype

_TEXTS: dict[str, dict[str, str]] = read_packaged("grao.cli", "commands.yaml")
"""The help text of each command."""
_SAMPLES = "while training, show N answers of the last step with their rewards"
_HIGHEST_TEMPERATURE = 10.0
"""Highest temperature that `grao chat` accepts."""
_LARGEST_CARD = 10_000
"""Upper bound of `--card`, in GiB."""
_DIGITS = 19
"""An integer with this many digits may not fit into 64 bits."""
_FAMILIES = ("data", "reward")
"""First words of the two-word commands."""
_COLUMN = 16
"""Where descriptions begin in the list of commands."""


def parse_arguments(argv: Sequence[str]) -> tuple[str, Any]:
    """Return the command's name, and the argument of its function in `grao.cli.commands`.

    It is a recipe (`reward train`, `reward audit`), a folder (`report`, `runs`), or a tuple of `cli.arguments`.

    Raises:
        InputError: if the command line or the recipe is not valid.
        SystemExit: after `--help`, `--version` and `--print_config`.
    """
    parser, commands = command_parser()
    words = move_help_last(argv, commands)
    check_command(words, [name for name in commands if name not in _FAMILIES], _FAMILIES)
    namespace, words = parser.parse_known_args(words)
    if namespace.read is read_evaluate:
        namespace.models, words = split_arguments(words)
    overrides = tuple(overrides_of(namespace.command, words))
    check_names(namespace, [name for name, _ in overrides])
    return namespace.command, namespace.read(namespace, overrides)


def command_parser() -> tuple[ArgumentParser, dict[str, ArgumentParser]]:
    """Return the parser of `grao`, which raises `InputError`, and the parser of each command by name.

    In the parsed namespace `command` is the command's name, such as `reward train`; `read` turns the namespace into
    the command's argument; `root` is the recipe class whose fields are options too; `flags` are the other options.
    """
    parser = _Parser(prog="grao", usage="grao [-h] [--version] COMMAND ...")
    parser.add_argument("--version", action="version", version=f"grao {__version__}", help="show the version")
    top = _subparsers(parser)
    commands = {name: top.add_parser(name, usage=f"grao {name} [-h] COMMAND ...", help=name) for name in _FAMILIES}
    families = {"": top, **{name: _subparsers(family) for name, family in commands.items()}}

    def command(name: str, read: Any, root: type | None = None) -> Any:
        """Add a command and return the function that adds its options."""
        texts, flags = _TEXTS[name], ["--help"]
        family, _, last = name.rpartition(" ")
        lines = wrap(f"grao {name} {texts['usage']}", width() - 7, subsequent_indent=" " * 9, break_on_hyphens=False)
        epilog = "\n".join(filter(None, (texts.get("more"), _TEXTS["settings"][root.__name__] if root else None)))
        settings = {"usage": "\n".join(lines), "description": texts["what"], "help": texts["what"], "epilog": epilog}
        added = families[family].add_parser(last, root=root, **settings)
        added.set_defaults(command=name, read=read, flags=flags)
        commands[name] = added

        def add(*names: str, **settings: Any) -> None:
            flags.extend(name for name in names if name.startswith("--"))
            added.add_argument(*names, **settings)

        if root:
            text = "show the settings that mention a word"
            add("--search", action=_ShowHelp, default=SUPPRESS, metavar="WORD", help=text)
        return add

    _add_commands(command)
    for name, above in {"": parser, **{name: commands[name] for name in _FAMILIES}}.items():
        inside = (each for each in _TEXTS if each in commands and each.startswith(f"{name} " if name else ""))
        rows = ((each, _TEXTS[each]["what"]) for each in inside)
        about = "" if name else "Align a language model from prompts with reference answers.\n\n"
        above.description = f"{about}commands:\n{table(rows, _COLUMN)}"
        above.epilog = f"Run grao {f'{name} ' * bool(name)}COMMAND --help for details."
    return parser, commands


def _add_commands(command: Callable[..., Callable[..., Any]]) -> None:
    """Add all commands, in the order of the help."""
    add = command("quickstart", read_quickstart, Recipe)
    add(
        "--ability",
        type=_ability,
        default="weak",
        help="starting ability: weak, able or 0 to 1; default weak",
    )
    add("--architecture", choices=get_args(Architecture), default="dense", help="model architecture; default dense")
    add("--seed", type=partial(_whole, 0), default=0, metavar="N", help="random seed; default 0")
    add("--steps", type=partial(_whole, 1), metavar="N", help="optimiser steps")
    add("--show-samples", type=partial(_whole, 0), default=0, metavar="N", help=_SAMPLES)
    folder = Path("runs/quickstart")
    add("--output", type=_path, default=folder, metavar="FOLDER", help=f"the run folder; default {folder}")

    add = command("data check", read_data_check, Recipe)
    add("file", type=_path, nargs="?", metavar="FILE", help="a data file, a folder of them, a pattern, or a hub id")
    add("--config", type=_path, metavar="FILE", help="check the data of this recipe")

    add = command("train", read_train, Recipe)
    add("--config", type=_path, metavar="FILE", help="the recipe, a YAML file")
    add("--resume", type=_path, metavar="RUN", help="resume this run; raise --training.steps to extend it")
    add(
        "--report-to",
        metavar="NAME",
        help="send metrics to tensorboard, wandb, ..., comma-separated",
    )
    add("--show-samples", type=partial(_whole, 0), default=0, metavar="N", help=_SAMPLES)
    add("--print_config", action="store_true", help="print the complete recipe and stop")
    add("--dry-run", action="store_true", help="read the data, plan memory, time and cost, then stop; needs no weights")
    add("--ask-judges", action="store_true", help="with --dry-run: ask judges on servers a few questions to time them")
    add(
        "--card",
        type=_bytes,
        metavar="SIZE",
        help="with --dry-run: plan for a GPU of this memory, such as 24GiB",
    )
    add("--gpus", type=partial(_whole, 1), metavar="N", help="with --dry-run: plan for the model split over N GPUs")

    add = command("evaluate", read_evaluate, Recipe)
    add("--run", type=_path, metavar="RUN", help="take prompts, rewards and sampling from this run")
    add("--config", type=_path, metavar="FILE", help="take prompts, rewards and sampling from this recipe")
    add("--output", type=_path, metavar="FOLDER", help="where the results go")
    add(
        "--retest",
        type=partial(_whole, 1),
        metavar="N",
        help="ask the judges about N answers again to see if they agree",
    )
    add("--kl", action="store_true", help="measure the KL divergence of runs and adapters from their starting models")
    add(
        "--judge-error",
        metavar="E",
        help="correct win rates for this judge error rate, or an audit folder's",
    )
    add("--labels", metavar="FILE", help="agreement with people; rows of id, preferred (answer, reference, tie)")

    for name in ("compare", "ablate", "sweep"):
        add = command(name, read_study, Study)
        add("--config", type=_path, metavar="FILE", help="the study, a YAML file")
        add("--quick", action="store_true", help="two arms, one seed, a few steps: check that it works")
        add("--retry", action="store_true", help="retry failed runs")
        add(
            "--minutes",
            type=partial(_whole, 1),
            metavar="N",
            help="start no run that cannot finish within N minutes",
        )

    add = command("reward train", read_recipe, RewardModelRecipe)
    add("--config", type=_path, metavar="FILE", help="the recipe of a reward model, a YAML file")
    add("--print_config", action="store_true", help="print the complete recipe and stop")

    add = command("reward audit", read_recipe, Recipe)
    add("--config", type=_path, metavar="FILE", help="the recipe of the run, a YAML file")

    add = command("chat", read_chat)
    add("model", metavar="MODEL", help="a run, a model or adapter folder, or a hub id")
    add("--against", metavar="MODEL", help="a second model; before: the model that the run started from")
    add(
        "--temperature",
        type=partial(_number, _HIGHEST_TEMPERATURE, ""),
        default=0.7,
        metavar="T",
        help="sampling temperature, 0 is greedy; default 0.7",
    )
    add("--max_tokens", type=partial(_whole, 1), default=256, metavar="N", help="longest answer in tokens; default 256")
    add("--seed", type=partial(_whole, 0), default=0, metavar="N", help="random seed; default 0")

    add = command("watch", read_watch)
    add("run", type=_path, metavar="RUN", help="the folder of a run")
    add("--port", type=partial(_whole, 0), default=8642, metavar="N", help="default 8642; 0 picks a free port")

    add = command("runs", read_runs)
    add("folder", type=_path, nargs="?", default=Path("runs"), metavar="FOLDER", help="default runs")

    add = command("report", read_report)
    add("run", type=_path, metavar="RUN", help="the folder of a run or study")

    add = command("export", read_export)
    add("run", type=_path, metavar="RUN", help="the folder of a run")
    add("--merge", action="store_true", help="merge the adapter into the weights of its (unquantised) base")
    add("--dtype", choices=get_args(Dtype), help="data type of merged weights; default the base's own")
    add(
        "--checkpoint",
        type=partial(_whole, 1),
        metavar="N",
        help="export the checkpoint of step N, not the final model",
    )
    add("--to", type=_path, metavar="FOLDER", help="output folder; default RUN/export")
    add("--push", metavar="NAME/REPO", help="upload to the hub as a private repository; the key is read from HF_TOKEN")
    add("--public", action="store_true", help="make the pushed repository public")

    add = command("completion", _read_completion)
    add("shell", choices=SHELLS, metavar="SHELL", help=", ".join(SHELLS))


def _read_completion(namespace: Namespace, overrides: Overrides) -> NoReturn:
    sys.stdout.write(completion_script(namespace.shell, *command_parser()))
    raise SystemExit


class _ShowHelp(Action):
    """Option that prints the help of a command, a recipe section, or the settings that mention a word; then exits."""

    def __call__(self, parser: ArgumentParser, namespace: Any, values: Any, option_string: str | None = None) -> None:
        show = search_text if self.dest == "search" else section_text
        text = show(values, parser.get_default("root")) if values else parser.format_help()
        sys.stdout.write(f"{text.rstrip()}\n")
        parser.exit()


def _subparsers(parser: ArgumentParser) -> Any:
    return parser.add_subparsers(prog=parser.prog, dest="command", required=True, metavar="COMMAND", help=SUPPRESS)


class _Parser(ArgumentParser):
    """A parser that raises `InputError` and whose help fits the terminal."""

    def __init__(self, root: type | None = None, **settings: Any) -> None:
        style = partial(RawDescriptionHelpFormatter, max_help_position=COLUMN, width=width())
        super().__init__(allow_abbrev=False, add_help=False, formatter_class=style, **settings)
        self.set_defaults(root=root)
        text = "show this help, or all settings of a section" if root else "show this help"
        more: Any = {"nargs": "?" if root else 0, "metavar": "SECTION", "default": SUPPRESS}
        self.add_argument("-h", "--help", action=_ShowHelp, help=text, **more)

    def format_help(self) -> str:
        """Return the help, followed by the settings of the command's recipe."""
        root, command = self.get_default("root"), self.get_default("command")
        self.description = self.description and wrapped(self.description)
        text = super().format_help()
        return f"{text}\n{settings_of(command, root)}" if root else text

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")


def _ability(text: str) -> Ability:
    return text if text in ("weak", "able") else _number(1, "weak, able or ", text)


def _number(most: float, instead: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= most:
        raise ArgumentTypeError(f"must be {instead}a number from 0 to {most:g}, got {text!r}")
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
