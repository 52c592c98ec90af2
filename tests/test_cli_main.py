import errno
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from grao.cli.arguments import QuickstartArguments, ResumeArguments
from grao.cli.entrants import EvaluateArguments
from grao.cli.main import main
from grao.cli.parser import parse_arguments
from grao.command import command as pasted
from grao.config.load import load_recipe
from grao.config.recipe import Recipe
from grao.errors import InputError, RewardUnavailableError

RECIPE = """\
model: {path: m}
data: {path: d}
rewards: [{function: 'a:b'}]
output: o
rollout: {group_size: 4}
"""


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text(RECIPE)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """Puts a stand-in in the place of a command; it notes its argument, then returns or raises."""

    def put(name: str, outcome: int | BaseException = 0) -> list[Any]:
        seen: list[Any] = []

        def run(argument: Any) -> int:
            seen.append(argument)
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

        module = ModuleType("grao.cli.commands")
        setattr(module, name, run)
        monkeypatch.setitem(sys.modules, "grao.cli.commands", module)
        return seen

    return put


def refused(*argv: str) -> str:
    with pytest.raises(InputError) as caught:
        parse_arguments(argv)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_train_gets_a_checked_recipe(command: Callable[..., list[Any]]) -> None:
    seen = command("train", 0)
    argv = ["train", "--rollout.group_size", "8", "--config", "recipe.yaml", "--rewards.0.weight=-2", "--seed", "3"]
    assert main([*argv, "--show-samples", "2"]) == 0
    ((recipe, samples),) = seen
    assert samples == 2
    assert recipe == load_recipe(
        Path("recipe.yaml"), [("rollout.group_size", "8"), ("rewards.0.weight", "-2"), ("seed", "3")]
    )
    assert recipe.rewards[0].weight == -2.0


def test_a_value_may_begin_like_an_option() -> None:
    rule = ["--rewards.0.function", "null", "--rewards.0.rule.regex.pattern", "-seed"]
    _, (recipe, _) = parse_arguments(["train", "--config", "recipe.yaml", *rule])
    assert recipe.rewards[0].rule.regex.pattern == "-seed"


@pytest.mark.parametrize("value", ["-2", "-1e-3", "-.5"])
def test_negative_values_need_no_equals_sign(value: str) -> None:
    _, (recipe, _) = parse_arguments(["train", "--config", "recipe.yaml", "--rewards.0.weight", value])
    assert isinstance(recipe, Recipe)
    assert recipe.rewards[0].weight == float(value)


def test_train_resumes_a_folder() -> None:
    Path("run").mkdir()
    assert parse_arguments(["train", "--resume", "run"]) == ("train", ResumeArguments(Path("run"), ()))
    _, longer = parse_arguments(["train", "--resume", "run", "--training.steps", "9"])
    assert longer == ResumeArguments(Path("run"), (("training.steps", "9"),))


def test_evaluate() -> None:
    Path("run").mkdir()
    assert parse_arguments(["evaluate", "--run", "run"])[1] == EvaluateArguments(Path("run"), Path("run"))
    into = parse_arguments(["evaluate", "--run", "run", "--output", "e"])[1]
    assert into == EvaluateArguments(Path("run"), Path("e"))
    fresh = parse_arguments(["evaluate", "--config", "recipe.yaml", "--model.path", "n", "--output", "e: 1"])[1]
    overrides = [("model.path", "n"), ("output", "'e: 1'")]
    assert fresh == EvaluateArguments(load_recipe(Path("recipe.yaml"), overrides), Path("e: 1"))


def test_quickstart_and_report() -> None:
    assert parse_arguments(["quickstart"])[1] == QuickstartArguments(
        "weak", "dense", seed=0, output=Path("runs/quickstart"), steps=None, show_samples=0, overrides=()
    )
    words = "quickstart --ability 0.5 --architecture moe --seed 2 --steps 9 --output q --method.beta 1"
    assert parse_arguments(words.split(" "))[1] == QuickstartArguments(
        0.5, "moe", seed=2, output=Path("q"), steps=9, show_samples=0, overrides=(("method.beta", "1"),)
    )
    assert parse_arguments(["report", "."])[1] == Path(".")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("", "the following arguments are required: COMMAND; see grao --help"),
        ("trian", "grao trian is unknown; did you mean grao train?"),
        ("train", "give --config FILE or --resume RUN"),
        (
            "train recipe.yaml",
            "unexpected argument 'recipe.yaml'; a recipe is given as grao train --config recipe.yaml",
        ),
        ("train -x", "unexpected argument '-x'; options begin with --"),
        ("train --confg recipe.yaml", "--confg is unknown; did you mean --config?"),
        ("train --conf recipe.yaml", "--conf is unknown; did you mean --config?"),
        ("train --config recipe.yaml --sede 3", "--sede is unknown; did you mean --seed?"),
        ("train --config recipe.yaml --qqq 3", "--qqq is unknown; see grao train --help"),
        ("train --config recipe.yaml --model.path", "--model.path needs a value"),
        ("train --config recipe.yaml --model.path --seed 3", "--model.path needs a value"),
        ("train --config recipe.yaml --rollout.group_sise 3", "--rollout.group_sise is unknown; did you mean"),
        ("train --config none.yaml", "none.yaml does not exist"),
        ("train --config recipe.yaml --resume .", "--resume takes no --config"),
        ("train --resume . --output there", "--resume takes no --config, --print_config, --dry-run or --output"),
        ("train --resume none", "--resume: none is not a folder"),
        ("evaluate", "give grao evaluate RUN, models with --run RUN, or --config FILE"),
        (
            "evaluate --run . --model.path x",
            "--model.path changes how answers are sampled, but --run RUN",
        ),
        ("evaluate --run . --config recipe.yaml", "--run takes no --config: the prompts are those of the run"),
        ("evaluate --run none", "--run: none is not a folder"),
        ("quickstart --ability strong", "argument --ability: must be weak, able or a number from 0 to 1, got 'strong'"),
        ("quickstart --ability nan", "argument --ability: must be weak, able or a number from 0 to 1, got 'nan'"),
        ("quickstart --steps 0", "argument --steps: must be a whole number, at least 1, got '0'"),
        ("quickstart --seed 4294967296", "--seed must be below 4294967296, got 4294967296"),
        ("quickstart --architecture sparse", "argument --architecture: invalid choice: 'sparse'"),
        ("quickstart --rollout.group_size 1", "--rollout.group_size must be at least 2, got 1"),
        ("quickstart --step 3", "--step is unknown; did you mean --steps?"),
        ("report", "the following arguments are required: RUN; see grao report --help"),
        ("report none", "RUN: none is not a folder"),
        ("report . --seed 3", "--seed is unknown; see grao report --help"),
    ],
)
def test_mistakes_on_the_command_line(argv: str, message: str) -> None:
    assert refused(*argv.split()).startswith(message)


@pytest.mark.parametrize(
    ("outcome", "code", "message"),
    [
        (0, 0, ""),
        (4, 4, ""),
        (InputError("data.jsonl, row 3:\nno prompt"), 2, "error: data.jsonl, row 3: no prompt\n"),
        (RewardUnavailableError("the judge is silent"), 3, "error: the judge is silent\n"),
        (KeyboardInterrupt(), 130, "stopped; run the same command to start over\n"),
        (KeyboardInterrupt("stopped at step 3"), 130, "stopped at step 3\n"),
        (OSError(errno.EACCES, "Permission denied", "o/x"), 2, "error: Permission denied: o/x\n"),
        (OSError(errno.EROFS, "Read-only file system", "o/x"), 2, "error: Read-only file system: o/x\n"),
        (OSError(errno.ENOSPC, "No space left on device", "o/x"), 2, "error: No space left on device: o/x\n"),
    ],
)
def test_exit_codes(
    command: Callable[..., list[Any]],
    capsys: pytest.CaptureFixture[str],
    outcome: int | BaseException,
    code: int,
    message: str,
) -> None:
    seen = command("train", outcome)
    assert main(["train", "--config", "recipe.yaml"]) == code
    assert len(seen) == 1
    assert capsys.readouterr() == ("", message)


@pytest.mark.parametrize("bug", [ZeroDivisionError("x"), ValueError("x"), OSError(errno.EIO, "Input/output error")])
def test_a_bug_stays_a_traceback(command: Callable[..., list[Any]], bug: Exception) -> None:
    command("train", bug)
    with pytest.raises(type(bug)):
        main(["train", "--config", "recipe.yaml"])


def test_mistakes_are_one_line_and_the_command_is_not_reached(
    command: Callable[..., list[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    seen = command("train")
    Path("recipe.yaml").write_text(RECIPE + "training:\n  stepps: 3\n")
    assert main(["train", "--config", "recipe.yaml"]) == 2
    assert capsys.readouterr().err == "error: recipe.yaml, line 7: training.stepps is unknown; did you mean steps?\n"
    assert seen == []


def test_print_config_is_read_back(command: Callable[..., list[Any]], capsys: pytest.CaptureFixture[str]) -> None:
    seen = command("train")
    assert main(["train", "--config", "recipe.yaml", "--print_config", "--method.lambda", "0.1"]) == 0
    Path("full.yaml").write_text(capsys.readouterr().out)
    assert load_recipe(Path("full.yaml")) == load_recipe(Path("recipe.yaml"), [("method.lambda", "0.1")])
    assert seen == []


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("grao 0.")


HEAVY = ("torch", "transformers", "datasets", "accelerate", "peft", "numpy", "scipy", "matplotlib", "trl")
PROBE = f"""
import sys
from grao.cli.main import main
from grao.cli.parser import parse_arguments
code = main(sys.argv[1:])
print(code, sorted({set(HEAVY)!r} & set(sys.modules)))
"""


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["train", "--help", "-s", "lora"], 0),
        (["train", "--config", "recipe.yaml", "--print_config"], 0),
        (["train", "--config", "recipe.yaml", "--rollout.group_size", "1"], 2),
        (["quickstart", "--rollout.group_size", "1"], 2),
        (["evaluate", "--run", "none"], 2),
    ],
)
def test_answers_without_heavy_imports(argv: list[str], code: int) -> None:
    done = subprocess.run([sys.executable, "-c", PROBE, *argv], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == f"{code} []"


def test_the_first_line_needs_no_heavy_import(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import sys, grao.cli.main; sys.exit(any(name in sys.modules for name in ('pydantic', 'yaml', 'torch')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_commands_can_be_pasted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/pytest"])
    assert pasted("train", "--resume", Path("my run")) == "grao train --resume 'my run'"
    program = tmp_path / "bin" / "grao"
    program.parent.mkdir()
    program.touch(mode=0o755)
    monkeypatch.setattr(sys, "argv", ["bin/grao"])
    assert pasted("runs") == "bin/grao runs"  # as it was started
    monkeypatch.setenv("PATH", str(program.parent))
    assert pasted("runs") == "grao runs"  # found there
    monkeypatch.setattr(sys, "argv", ["/lib/grao/__main__.py"])
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    assert pasted("runs") == "bin/python -m grao runs"


def test_module_is_the_command_and_passes_the_exit_code() -> None:
    done = subprocess.run([sys.executable, "-m", "grao", "report", "none"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "error: RUN: none is not a folder; give the folder of a run\n")


def test_a_closed_pipe_and_a_full_disk_make_no_noise() -> None:
    argv = [sys.executable, "-m", "grao", "train", "--config", "recipe.yaml", "--print_config"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    with full.open("w") as out:
        done = subprocess.run(argv, stdout=out, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: No space left on device: the file being written\n"
