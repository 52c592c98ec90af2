"""Bad input of every kind ends in one line: some by hand, and the short form of `benchmarks/bad_input.py`."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import bad_input
import pytest

from grao.cli.main import main
from grao.errors import InputError
from grao.files import read_bytes, read_text, usable_path
from grao.records.audit import read_audit
from grao.records.reward_model import read_reward_model
from grao.records.run import read_evaluation, read_items, read_manifest, read_metrics
from grao.records.study import read_cells, read_study
from grao.visible import visible
from tiny import saved_model

RECIPE = """\
model: {path: model}
data: {path: data.jsonl, held_out: 2}
rewards: [{function: 'rewards.py:score'}]
output: out
rollout: {group_size: 2, max_new_tokens: 3}
training: {steps: 1, prompts_per_step: 2}
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a recipe, its data and its reward, and no model."""
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text(RECIPE)
    Path("rewards.py").write_text("def score(completions, **columns):\n    return [0.0] * len(completions)\n")
    rows = [{"prompt": f"say {word}", "reference": f"{word}."} for word in ("one", "two", "three", "four", "five")]
    Path("data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_model(tmp_path_factory.mktemp("models") / "model")


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one line with which a command refuses its input."""
    code, said = main(argv), capsys.readouterr().err
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert code == 2, said
    assert len(errors) == 1, said
    assert not any(ord(sign) < 32 for sign in errors[0])
    return errors[0]


def pipe(path: str) -> None:
    os.mkfifo(path)


def huge(path: str) -> None:
    with Path(path).open("wb") as file:
        file.truncate(3 << 30)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (pipe, "bad.yaml is a pipe or a device; give a file"),
        (lambda path: Path(path).symlink_to("/dev/zero"), "bad.yaml is a pipe or a device"),
        (huge, "bad.yaml is larger than 1,048,576 bytes"),
        (lambda path: Path(path).write_text(RECIPE, encoding="utf-16"), "bad.yaml is not UTF-8 text (line 1)"),
        (lambda path: Path(path).write_text("a: " + "b" * 300_000), "bad.yaml, line 1: is longer than 262,144"),
        (lambda path: Path(path).write_text("seed: 9999999999999999999"), "line 1: an integer of 19 digits"),
    ],
)
def test_a_recipe_that_is_none(
    place: Path, capsys: pytest.CaptureFixture[str], make: Callable[[str], None], message: str
) -> None:
    make("bad.yaml")
    assert message in refused(capsys, "train", "--config", "bad.yaml")


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--output", "''", "--output: is empty; give a path"),
        ("--output", '"a\\0b"', "contains a character that a path cannot have: 'a\\x00b'"),
        ("--output", "x" * 256, "is longer than file systems allow"),
        ("--output", "x/" * 2500, "is longer than file systems allow"),
        ("--output", "/proc/x", "output: /proc is not writable"),
        ("--data.path", '"a\\nb"', "contains a character that a path cannot have"),
        ("--model.path", "x" * 4000, "is longer than file systems allow"),
        ("--rewards.0.function", '"\\x1b[2J.py:f"', "contains a character that a path cannot have: '\\x1b[2J.py:f'"),
        ("--rollout.max_new_tokens", "3000000000", "must be below 2147483648"),
        ("--rewards.0.weight", "1e31", "must be at most 1e+30"),
        ("--training.weight_decay", "1e300", "must be at most 1e+30"),
        ("--method", "{name: [grao]}", "method.name must be grao or"),
        ("--method", "[grao]", "--method must be a section"),
        ("--model.lora.rank", "99999999", "must be at most 16384"),
        ("--config", "", "argument --config: is empty; give a path"),
    ],
)
def test_an_option_that_cannot_be_meant(
    place: Path, capsys: pytest.CaptureFixture[str], option: str, value: str, message: str
) -> None:
    assert message in refused(capsys, "train", "--config", "recipe.yaml", f"{option}={value}")
    assert not Path("out").exists()


def change_config(folder: Path, **values: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


def cut_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def replace_by_pipe(folder: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (cut_weights, "model.safetensors is damaged or incomplete"),
        (lambda folder: replace_by_pipe(folder, "model.safetensors"), "model.safetensors is not a regular file"),
        (lambda folder: replace_by_pipe(folder, "tokenizer.json"), "tokenizer.json is not a regular file"),
        (lambda folder: change_config(folder, hidden_size=10**12), "config.json: hidden_size is 1000000000000"),
        (lambda folder: change_config(folder, num_hidden_layers=10**9), "config.json: num_hidden_layers is 1000000000"),
        (lambda folder: change_config(folder, num_attention_heads=0), "cannot load 'model'"),
        (lambda folder: change_config(folder, vocab_size="many"), "cannot load 'model'"),
        (lambda folder: (folder / "config.json").write_text("[1, 2]"), "config.json does not hold a JSON object"),
        (lambda folder: (folder / "config.json").write_text("[" * 5000), "config.json is not valid JSON"),
        (lambda folder: (folder / "generation_config.json").write_bytes(b"\xff"), "config.json is not valid JSON"),
        (lambda folder: change_config(folder, eos_token_id="</s>"), "config.json: eos_token_id is '</s>'"),
        (lambda folder: (folder / "tokenizer_config.json").mkdir(), "tokenizer_config.json is not a regular file"),
        (lambda folder: (folder / "tokenizer_config.json").write_text('{"model_max_length": "x"}'), "no tokenizer in"),
    ],
)
def test_a_model_folder_that_is_none(
    place: Path, model: Path, capsys: pytest.CaptureFixture[str], make: Callable[[Path], None], message: str
) -> None:
    shutil.copytree(model, "model")
    if "tokenizer_config.json is not a regular file" in message:
        Path("model/tokenizer_config.json").unlink()
    make(Path("model"))
    said = refused(capsys, "train", "--config", "recipe.yaml")
    assert said.startswith("error: model.path: ")
    assert message in said
    assert not Path("out").exists()


def test_code_of_a_model_folder_is_not_run(place: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(model, "model")
    Path("model/evil.py").write_text("from pathlib import Path\nPath('ran').touch()\n")
    change_config(Path("model"), model_type="evil", auto_map={"AutoConfig": "evil.A", "AutoModelForCausalLM": "evil.B"})
    rewards = "[{rule: {embedding: {model: ./model}}}]"
    for asked in (["--model.path", "./model"], ["--rewards", rewards]):
        refused(capsys, "train", "--config", "recipe.yaml", *asked)
    assert not Path("ran").exists()


DEEP = b'{"config": ' + b'{"a": ' * 90 + b"1" + b"}" * 91


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("manifest.json", None, "manifest.json is a pipe or a device"),
        ("manifest.json", DEEP, "manifest.json: not valid JSON: it is nested more than 40 levels deep"),
        ("manifest.json", b'{"config": {"seed": 1e999}}', "manifest.json: not valid JSON: the number inf is too large"),
        ("metrics.jsonl", None, "metrics.jsonl is a pipe or a device"),
        ("metrics.jsonl", b'{"step": 1}\n[1]\n{"step": 3}\n', "metrics.jsonl, line 2: unreadable metrics record"),
        ("metrics.jsonl", b'{"step": "one"}\n{"step": 3}\n', "metrics.jsonl, line 1: unreadable metrics record, step"),
        ("items.jsonl", b'\n{"id": 1}\n', "items.jsonl, line 2: unreadable items record"),
        ("evaluation.json", b"[" * 100_000, "evaluation.json: not valid JSON"),
        ("study.json", None, "study.json is a pipe or a device"),
        ("study.json", b"[]", "study.json: unreadable study record, all of it"),
    ],
)
def test_a_record_that_is_none(
    place: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes | None, message: str
) -> None:
    Path("run").mkdir()
    Path("run/manifest.json").write_text("{}")
    Path("run", name).unlink(missing_ok=True)
    os.mkfifo(f"run/{name}") if content is None else Path("run", name).write_bytes(content)
    assert message in refused(capsys, "report", "run")
    assert not Path("run/report.html").exists()


@pytest.mark.parametrize(
    "read",
    [read_manifest, read_metrics, read_items, read_evaluation, read_reward_model, read_study, read_audit, read_cells],
    ids=lambda read: read.__name__,
)
def test_every_record_names_its_file(tmp_path: Path, read: Callable[[Path], object]) -> None:
    lines, values = ("metrics", "items", "cells"), ("manifest", "evaluation", "reward", "study", "audit")
    names = [*(f"{name}.jsonl" for name in lines), *(f"{name}.json" for name in values)]
    for name in names:
        (tmp_path / name).mkdir()
    with pytest.raises(InputError, match=rf"{tmp_path}/[a-z]+\.jsonl? is a folder"):
        read(tmp_path)
    for name in names:
        (tmp_path / name).rmdir()
        (tmp_path / name).write_bytes(b"\xff[[[\n{}\n")
    if read is not read_cells:  # a run whose record is lost is done again
        with pytest.raises(InputError, match=rf"{tmp_path}/[a-z]+\.jsonl?(, line 1)?: not valid JSON"):
            read(tmp_path)


def test_a_torn_last_line_is_left_out_and_a_number_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": null}\n{"step": 2, "loss": NaN}\n{"step": 3, "lo')
    assert read_metrics(tmp_path) == [{"step": 1.0}, {"step": 2.0}]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b]0;title\x07", "␛[31mred␛]0;title␇"),
        ("\x9b2J", "\ufffd2J"),
        ("a\r\b\x7f", "a␍␈␡"),
        ("\u202egpj.exe\u2069", "[U+202E]gpj.exe[U+2069]"),
        ("line\n\ttab, ü, שלום, 👍🏽", "line\n\ttab, ü, שלום, 👍🏽"),
    ],
)
def test_nothing_shown_can_steer_a_terminal_or_turn_a_line(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_names_in_a_run_folder_reach_neither_terminal_nor_page_unseen(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    estimate = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 10}
    shares = dict.fromkeys(("ras", "ras_win_or_tie", "ras_half_tie"), estimate)
    scores = {**shares, "missing": 0, "mean_reward": 0.0, "mean_tokens": 3.0, "truncated": 0.0}
    evaluation = {"confidence": 0.95, "prompts": 10, "models": {"\x1b[31m\u202eafter": scores}, "gains": []}
    Path("run").mkdir()
    Path("run/evaluation.json").write_text(json.dumps(evaluation))
    Path("run/metrics.jsonl").write_text('{"step": 1, "reward_\\u001b[2J$x/mean": 1.0, "reward_b/mean": 2}\n')
    assert main(["report", "run"]) == 0
    for text in (capsys.readouterr().out, Path("run/report.html").read_text()):
        assert "␛[31m[U+202E]after" in text
        assert not {"\x1b", "\u202e"} & set(text)


@pytest.mark.parametrize("text", ["", "a\0", "a\nb", "\ud800", "\u2028", "x" * 256, "ä" * 128, "a/" * 2001])
def test_what_no_file_can_be_called(text: str) -> None:
    with pytest.raises(ValueError, match=r"is empty|contains a character|is longer"):
        usable_path(text)


def test_a_path_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    assert usable_path("~/runs/a") == "/somewhere/runs/a"
    assert usable_path("runs/~a") == "runs/~a"


def test_what_is_read_whole(tmp_path: Path) -> None:
    file = tmp_path / "file"
    assert read_bytes(file) is None
    assert read_bytes(file / "below") is None
    file.write_bytes(b"\xef\xbb\xbfa\n\xc3")
    assert read_bytes(file, largest=6) == b"\xef\xbb\xbfa\n\xc3"
    with pytest.raises(InputError, match="is larger than 5 bytes"):
        read_bytes(file, largest=5)
    with pytest.raises(InputError, match=r"is not UTF-8 text \(line 2\)"):
        read_text(file)
    file.write_bytes(b"\xef\xbb\xbfa")
    assert read_text(file) == "a"


def test_a_pipe_in_place_of_the_page_is_replaced(place: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--config", "recipe.yaml", "--model.path", str(model)]) == 0
    Path("out/report.html").unlink()
    pipe("out/report.html")
    assert main(["report", "out"]) == 0
    assert Path("out/report.html").read_text().startswith("<!doctype html>")


def test_a_reward_file_of_gigabytes_is_not_read(place: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open("rewards.py", "ab") as file:
        file.truncate(3 << 30)
    said = refused(capsys, "train", "--config", "recipe.yaml", "--model.path", str(model))
    assert "'rewards.py' has 3,221,225,472 bytes" in said


def test_the_short_form_of_the_benchmark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GRAO_CACHE", "/dev/null/none")
    monkeypatch.chdir(tmp_path)
    code = bad_input.run(tmp_path, every=bad_input.QUICK)
    assert code == 0, capsys.readouterr().out
