"""Help fits the terminal and finds every setting; the completion knows what the parser knows."""

import shutil
import subprocess
from pathlib import Path

import pytest

from grao.cli.completion import completion_script
from grao.cli.help import COMMON, search_text, section_text
from grao.cli.main import main
from grao.cli.parser import command_parser
from grao.config.recipe import Recipe
from grao.config.schema import field_facts, sections
from grao.errors import InputError

COMMANDS = [name for name in command_parser()[1] if name not in ("data", "reward")]


def printed(capsys: pytest.CaptureFixture[str], *argv: str) -> list[str]:
    assert main(argv) == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("columns", [80, 120, None])
def test_every_help_fits_the_terminal(
    columns: int | None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False) if columns is None else monkeypatch.setenv("COLUMNS", str(columns))
    for argv in ([], *(name.split() for name in COMMANDS), ["train", "rewards"], ["compare", "sandbox"]):
        command = argv[:1] if argv[-1:] in (["rewards"], ["sandbox"]) else argv
        lines = printed(capsys, *command, "--help", *argv[len(command) :])
        assert max(map(len, lines)) <= (columns or 100), argv
        assert not any(line.startswith("  --") and line.endswith(" ") for line in lines)
        assert command == argv[:-1] or lines[0].startswith(f"usage: grao {' '.join(argv)}".rstrip())


def test_settings_that_people_use_are_fields_in_one_group_each() -> None:
    named = [name for group in COMMON for name in group["settings"]]
    known = {".".join(path) for path in field_facts()} | {".".join(section.path) for section in sections()}
    assert set(named) <= known
    assert len(named) == len(set(named))
    in_train = [name for group in COMMON if "train" in group["commands"] for name in group["settings"]]
    assert 35 <= len(in_train) <= 45
    assert {"model.path", "data.path", "output", "training.steps", "rewards.0.function"} <= set(in_train)
    assert {command for group in COMMON for command in group["commands"]} <= set(COMMANDS)


def test_the_help_of_train(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    lines = printed(capsys, "train", "--help")
    assert len(lines) < 120
    assert "  --rollout.group_size           Completions per prompt, G. [default 8]" in lines
    assert "  --model.lora.rank              Train an adapter of this rank instead of all weights (LoRA)." in lines
    assert any(
        line.startswith("  --training.schedule            Learning-rate schedule. [constant |") for line in lines
    )
    own = printed(capsys, "quickstart", "--help")
    assert "  --training.learning_rate       Peak learning rate (Adam). [default 0.0005]" in own


def test_sections_show_all_that_is_in_them() -> None:
    for root in ("training", "rewards", "data", "audit"):
        text = section_text(root, Recipe)
        inside = [path for path in field_facts() if path[0] == root and path[:2] != ("audit", "second")]
        assert all(f"--{'.'.join(path)} " in f"{text} " or f"--{'.'.join(path)}\n" in text for path in inside)
    assert "audit.second: One reward: a function" in section_text("audit", Recipe)
    judge = section_text("judge", Recipe)
    assert judge.startswith("rewards.0.judge: A language model")
    assert "--rewards.0.judge.local.path" in judge
    assert section_text("rewards.0.judge", Recipe) == section_text("rewards.judge", Recipe)
    assert section_text("method", Recipe).count("--method.name ") == 1
    assert "Its settings are those of rewards.0." in section_text("watch", Recipe) or "watch.reward" in judge


def test_a_search_goes_by_name_by_text_and_by_what_it_is_called_elsewhere() -> None:
    assert "--model.lora.rank" in search_text("LORA", Recipe)
    assert search_text("nucleus", Recipe).startswith("  --rollout.top_p")
    assert search_text("lr", Recipe).startswith("  --training.learning_rate")
    assert section_text("nucleus", Recipe) == search_text("nucleus", Recipe)
    with pytest.raises(InputError, match="no setting mentions 'zebra'; sections are model, data"):
        section_text("zebra", Recipe)


@pytest.mark.parametrize(
    ("words", "same"),
    [
        ("help", "--help"),
        ("help train", "train --help"),
        ("help data check", "data check --help"),
        ("--help reward audit", "reward audit --help"),
        ("--help judge", "train --help judge"),
        ("train --help -s lora", "train --search lora"),
        ("-h --search lora", "train --search lora"),
        ("help train training", "train --help training"),
    ],
)
def test_ways_to_ask_for_help(words: str, same: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, *words.split()) == printed(capsys, *same.split())


@pytest.fixture(scope="module")
def script() -> str:
    pytest.importorskip("shtab")
    return completion_script("bash", *command_parser())


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash here")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("grao tr", ["train"]),
        ("grao reward ", ["audit", "train"]),
        ("grao train --training.learn", ["--training.learning_rate"]),
        ("grao train --training.schedule ", ["constant", "cosine", "linear"]),
        ("grao train --seed 1 --method.name gr", ["grao", "grpo"]),
        ("grao compare --budget.st", ["--budget.steps"]),
        ("grao train --config reci", ["recipe.yaml"]),
        ("grao train --conf", ["--config"]),
    ],
)
def test_bash_completes(script: str, words: str, expected: list[str], tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").touch()
    (tmp_path / "script").write_text(script)
    asked = words.split(" ")
    setup = f"COMP_WORDS=({' '.join(word or chr(39) * 2 for word in asked)}); COMP_CWORD={len(asked) - 1}"
    call = f'_shtab_grao grao "{asked[-1]}" "{asked[-2]}"'
    ask = f'source ./script; {setup}; COMPREPLY=(); {call}; printf "%s\\n" "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert sorted(done.stdout.split()) == expected


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_every_setting(shell: str) -> None:
    pytest.importorskip("shtab")
    text = completion_script(shell, *command_parser())
    assert all(".".join(path) in text for path in field_facts())


def test_completion_says_what_it_needs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(__import__("sys").modules, "shtab", None)
    assert main(["completion", "bash"]) == 2
    assert "pip install 'grao[completion]'" in capsys.readouterr().err
