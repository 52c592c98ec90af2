"""A whole run from a recipe: what it leaves behind, what it refuses, and how it goes on."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from forked import Forked
from grao.cli.main import main
from grao.cli.screen import TerminalScreen
from grao.config.load import dump_recipe, load_recipe
from grao.engine.loading import load_model
from grao.errors import InputError, RewardUnavailableError
from grao.evaluation.doubts import doubts
from grao.evaluation.metrics import evaluation_from_items
from grao.records.run import Evaluation, read_evaluation, read_items, read_metrics
from grao.records.samples import read_groups
from grao.studies.evaluate import evaluate_recipe, evaluate_run
from grao.studies.train import StoppedError, resume_run, start_run
from grao.training.trainer import GRAOTrainer
from tiny import saved_model

pytestmark = pytest.mark.filterwarnings("ignore:.*learning_rate.*hardly move")

SEEN_IN_ITEMS = ("reward-follows-length", "narrow-margin", "not-text", "underpowered")
REWARD = """
import os, pathlib, signal, time
def vowels(completions):
    return [sum(letter in "ae" for letter in text) / (1 + len(text)) for text in completions]
def short(completion_ids):
    return [-len(ids) for ids in completion_ids]
def nothing(completions):
    return [None] * len(completions)
def too_few(completions):
    return [1.0]
def broken(completions):
    raise RuntimeError("no such luck")
def fails_later(completions):
    if os.path.exists("run/metrics.jsonl") and not os.path.exists("failed"):
        open("failed", "w").close()
        return nothing(completions)
    return vowels(completions)
def first_time_when(path):
    first = os.path.exists(path) and not os.path.exists("failed")
    if first:
        open("failed", "w").close()
    return first
def fails_after(completions):
    if first_time_when("run/checkpoints/checkpoint-4/trainer_state.json"):
        raise RuntimeError("no such luck")
    return vowels(completions)
def interrupts_after(completions):
    if first_time_when("run/checkpoints/checkpoint-4/trainer_state.json"):
        os.kill(os.getpid(), signal.SIGINT)
    return vowels(completions)
def interrupts_last(completions):
    metrics = pathlib.Path("run/metrics.jsonl")
    if metrics.exists() and metrics.read_text().count("\\n") == 3:
        os.kill(os.getpid(), signal.SIGINT)
    return vowels(completions)
def interrupts_before(completions):
    if first_time_when("run/manifest.json"):
        os.kill(os.getpid(), signal.SIGINT)
    return vowels(completions)
calls = 0
def interrupts(completions):
    global calls
    calls += 1
    if calls == 5:
        os.kill(os.getpid(), signal.SIGINT)
    return vowels(completions)
def slow(completions):
    time.sleep(0.2)
    return vowels(completions)
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with model, data and rewards, as working directory."""
    saved_model(tmp_path / "model")
    words = [f"{one} {two}" for one in ("red", "blue", "green", "grey") for two in ("cat", "dog", "hen", "cow", "bee")]
    rows = [json.dumps({"prompt": f"say {word}", "reference": f"a {word} it is."}) for word in words]
    (tmp_path / "data.jsonl").write_text("\n".join(rows) + "\n")
    (tmp_path / "rewards.py").write_text(REWARD)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def recipe(**changes):
    settings = {
        "model.path": "model",
        "data.path": "data.jsonl",
        "data.held_out": "8",
        "rewards.0.function": "rewards.py:vowels",
        "rollout.group_size": "4",
        "rollout.temperature": "1.0",
        "rollout.max_new_tokens": "8",
        "training.steps": "4",
        "training.prompts_per_step": "3",
        "training.learning_rate": "1e-2",
        "training.trainer.use_cpu": "true",
        "audit.before_training": "skip",
        "output": "run",
    }
    return load_recipe(None, list({**settings, **changes}.items()))


def phases(screen) -> tuple[int, int]:
    """How many were announced last, and how many came after that."""
    at = max(number for number, line in enumerate(screen.lines) if line.endswith(" phases"))
    begun = ("judging", "training", "saving", "writing", "checking")
    titles = [line for line in screen.lines[at:] if line.startswith(begun) and "/" not in line]
    return int(screen.lines[at].split()[0]), len(titles)


def numbers(evaluation: Evaluation) -> Evaluation:
    """Whoever judged: functions under two names say the same here."""
    return replace(evaluation, judges=[])


def test_what_a_run_leaves_behind(place: Path, screen):
    finished = start_run(recipe(), screen)
    run = place / "run"
    assert {path.name for path in run.iterdir()} >= {
        "manifest.json", "recipe.yaml", "metrics.jsonl", "items.jsonl", "evaluation.json", "model", "report.html",
    }  # fmt: skip
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["status"] == "finished"
    assert manifest["data"]["prompts"] == 12
    assert manifest["data"]["held_out"] == 8
    assert manifest["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    assert [step["step"] for step in read_metrics(run)] == [1, 2, 3, 4]
    items = read_items(run)
    assert len(items) == 8
    assert read_evaluation(run) == finished.evaluation
    found = evaluation_from_items(items)
    assert replace(found, judges=finished.evaluation.judges, doubts=finished.evaluation.doubts) == finished.evaluation
    assert finished.evaluation.judges == ["function rewards.py:vowels"]
    assert "training-reward-only" in [doubt.kind for doubt in finished.evaluation.doubts]
    assert doubts(items, found) == [each for each in finished.evaluation.doubts if each.kind in SEEN_IN_ITEMS]
    assert load_recipe(run / "recipe.yaml").training.steps == 4
    model = AutoModelForCausalLM.from_pretrained(run / "model")
    assert AutoTokenizer.from_pretrained(run / "model")("say").input_ids
    assert model.generation_config.eos_token_id is not None
    assert not list((run / "model").glob("*.bin"))


def test_before_and_after_are_the_models_before_and_after(place: Path, screen):
    start_run(recipe(), screen)
    alone = evaluate_recipe(recipe(output="base"), screen)
    assert alone.models["model"] == read_evaluation(place / "run").models["before"]
    other = evaluate_recipe(recipe(**{"output": "aligned", "model.path": "run/model"}), screen)
    assert other.models["model"] == read_evaluation(place / "run").models["after"]


def test_evaluating_a_run_again_gives_the_same_numbers(place: Path, screen):
    first = start_run(recipe(), screen).evaluation
    assert evaluate_run(place / "run", place / "again", screen) == first
    assert (place / "again" / "items.jsonl").read_text() == (place / "run" / "items.jsonl").read_text()
    with pytest.raises(InputError, match="already holds an evaluation"):
        evaluate_run(place / "run", place / "again", screen)


def test_an_adapter_run(place: Path, screen):
    finished = start_run(recipe(**{"model.lora.rank": "4"}), screen)
    assert any("12 prompts, 8 held out" in line for line in screen.lines)
    assert (place / "run" / "model" / "adapter_model.safetensors").exists()
    again = evaluate_run(place / "run", place / "again", screen)
    assert again.models["after"].ras == finished.evaluation.models["after"].ras


def test_without_held_out_prompts_there_is_no_evaluation_but_a_report(place: Path, screen):
    finished = start_run(recipe(**{"data.held_out": "0"}), screen)
    assert finished.evaluation is None
    assert finished.report.exists()


def test_ctrl_c_saves_and_the_run_goes_on_as_if_nothing_had_been(place: Path, screen):
    every = {"training.sample_every": "1"}
    whole = start_run(recipe(output="whole", **every), screen).evaluation
    with pytest.raises(StoppedError, match="grao train --resume run"):
        start_run(recipe(**every, **{"rewards.0.function": "rewards.py:interrupts"}), screen)
    assert json.loads((place / "run" / "manifest.json").read_text())["status"] == "interrupted"
    with (place / "run" / "samples.jsonl").open("a") as samples:  # behind the checkpoint, and torn
        samples.write((place / "whole" / "samples.jsonl").read_text().splitlines()[-1] + '\n{"id": "c')
    steps = len(read_metrics(place / "run"))
    assert 0 < steps < 4
    finished = resume_run(Path("run"), screen)
    assert any(f"checkpoint-{steps}" in line for line in screen.lines)
    assert numbers(finished.evaluation) == numbers(whole)
    timeless = [
        [
            {
                name: value
                for name, value in step.items()
                if not any(word in name for word in ("seconds", "speed", "interrupts", "vowels"))
            }
            for step in read_metrics(place / run)
        ]
        for run in ("whole", "run")
    ]
    assert timeless[0] == timeless[1]
    kept = read_groups(place / "run")
    assert kept == read_groups(place / "whole")
    assert [group.step for group in kept] == [1, 2, 3, 4]
    assert all(len(group.samples) == 4 and group.reference.endswith("it is.") for group in kept)
    weights = [sample.weight for sample in kept[0].samples]
    best = max(kept[0].samples, key=lambda sample: sample.reward)
    assert best.weight == max(weights) > min(weights)
    with pytest.raises(InputError, match="is finished"):
        resume_run(Path("run"), screen)


def test_a_reward_that_fails_later_costs_nothing(place: Path, screen):
    with pytest.raises(InputError, match=r"None or NaN .*step \d is saved, continue with: grao train --resume run"):
        start_run(recipe(**{"rewards.0.function": "rewards.py:fails_later"}), screen)
    assert list((place / "run" / "checkpoints").glob("checkpoint-*"))
    assert json.loads((place / "run" / "manifest.json").read_text())["status"] == "failed"
    assert resume_run(Path("run"), screen).evaluation is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data.path": "nowhere.jsonl"}, "nowhere.jsonl"),
        ({"data.prompt": "question"}, "question.*prompt"),
        ({"data.path": "bad.jsonl"}, "bad.jsonl.*line 2"),
        ({"data.path": "empty.jsonl"}, "empty.jsonl.*(row|line) 1.*reference"),
        ({"model.path": "nowhere/at/all"}, "model.path: there is no folder"),
        ({"model.path": "."}, "no config.json"),
        ({"model.path": "data.jsonl"}, "is a file"),
        ({"rewards.0.function": "rewards.py:nowhere"}, "no function 'nowhere'"),
        ({"model.end_token": "<nowhere>"}, "model.end_token"),
        ({"data.max_prompt_tokens": "2"}, "every prompt is longer than 2"),
        ({"training.trainer.bf17": "true"}, "did you mean bf16"),
        ({"model.lora.target_modules": "nowhere"}, "model.lora.target_modules"),
    ],
)
def test_a_mistake_before_training_leaves_nothing_behind(place: Path, screen, change: dict, message: str):
    (place / "bad.jsonl").write_text('{"prompt": "a", "reference": "b"}\n{"prompt": \n')
    (place / "empty.jsonl").write_text('{"prompt": "a", "reference": " "}\n')
    with pytest.raises(InputError, match=message) as caught:
        start_run(recipe(**change), screen)
    assert "\n" not in str(caught.value)
    assert not (place / "run").exists()


def test_a_reward_may_count_tokens_everywhere(place: Path, screen):
    start_run(recipe(**{"rewards.0.function": "rewards.py:short"}), screen)
    for item in read_items(place / "run"):
        before, after = item.answers["before"], item.answers["after"]
        assert item.comparisons["after|before"] == before.tokens - after.tokens


@pytest.mark.parametrize("function", ["nothing", "broken", "too_few"])
def test_a_reward_that_never_works_leaves_nothing_behind(place: Path, screen, function: str):
    with pytest.raises(InputError, match=f"reward {function}"):
        start_run(recipe(**{"rewards.0.function": f"rewards.py:{function}"}), screen)
    assert not (place / "run").exists()


def test_a_folder_that_holds_a_run_is_not_touched(place: Path, screen):
    start_run(recipe(), screen)
    before = {path: path.read_bytes() for path in (place / "run").rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="already holds a run"):
        start_run(recipe(), screen)
    assert {path: path.read_bytes() for path in (place / "run").rglob("*") if path.is_file()} == before


@pytest.fixture
def interruptible():
    """Ctrl-C as on a terminal; what was started in the background ignores it."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(("function", "error"), [("fails_after", InputError), ("interrupts_after", StoppedError)])
def test_training_is_not_repeated_for_an_evaluation(place: Path, screen, function: str, error: type[BaseException]):
    whole = start_run(recipe(output="whole"), screen).evaluation
    with pytest.raises(error, match="continue with: grao train --resume run"):
        start_run(recipe(**{"rewards.0.function": f"rewards.py:{function}"}), screen)
    steps = read_metrics(place / "run")
    assert len(steps) == 4
    assert numbers(resume_run(Path("run"), screen).evaluation) == numbers(whole)
    assert any("resuming from checkpoint-4" in line for line in screen.lines)
    assert read_metrics(place / "run") == steps
    assert phases(screen) == (3, 3)


def test_ctrl_c_in_the_last_step_stops_before_the_evaluation(place: Path, screen):
    with pytest.raises(StoppedError, match="step 4 of 4 is saved; continue with"):
        start_run(recipe(**{"rewards.0.function": "rewards.py:interrupts_last"}), screen)
    assert not any("trained model" in line for line in screen.lines)
    assert resume_run(Path("run"), screen).evaluation is not None
    assert phases(screen) == (3, 3)


def test_half_written_files_are_passed_over(place: Path, screen):
    whole = start_run(recipe(output="whole"), screen).evaluation
    with pytest.raises(InputError, match=r"step 1 is saved"):
        start_run(recipe(**{"rewards.0.function": "rewards.py:fails_later"}), screen)
    (place / "run" / "checkpoints" / "checkpoint-2").mkdir()
    (place / "run" / "checkpoints" / "checkpoint-3").mkdir()
    (place / "run" / "checkpoints" / "checkpoint-3" / "trainer_state.json").write_text('{\n  "epoch": {\n  }\n')
    items = place / "run" / "items.jsonl"
    items.write_bytes(items.read_bytes()[:-20] + b"\xff")
    assert numbers(resume_run(Path("run"), screen).evaluation) == numbers(whole)
    assert any("resuming from checkpoint-1" in line for line in screen.lines)
    assert not list((place / "run").glob("*.part"))


def test_a_run_goes_on_from_another_working_directory(place: Path, screen, monkeypatch: pytest.MonkeyPatch):
    (place / "test.jsonl").write_text('{"prompt": "say mouse", "reference": "a mouse it is."}\n')
    changes = {"rewards.0.function": "rewards.py:fails_after", "data.test_path": "test.jsonl"}
    with pytest.raises(InputError, match="no such luck"):
        start_run(recipe(**changes), screen)
    (place / "elsewhere").mkdir()
    monkeypatch.chdir(place / "elsewhere")
    assert resume_run(place / "run", screen).evaluation.prompts == 1
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    "error",
    [
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),
    ],
)
def test_a_full_disk_is_one_line(place: Path, capsys, monkeypatch: pytest.MonkeyPatch, error: Exception):
    def full(*_, **__):
        raise error

    monkeypatch.setattr(GRAOTrainer, "save_model", full)
    assert main(["train", "--config", written(place)]) == 2
    said, go_on = capsys.readouterr().err.splitlines()[-1], "continue with: grao train --resume run"
    assert said == f"error: the disk is full or its quota is used up: {error}; {go_on}"
    assert json.loads((place / "run" / "manifest.json").read_text())["status"] == "failed"


def test_only_the_main_process_writes_records(place: Path, screen, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(GRAOTrainer, "is_world_process_zero", lambda self: False)
    finished = start_run(recipe(), screen)
    assert finished.evaluation is not None
    assert {path.name for path in (place / "run").iterdir()} <= {"checkpoints", "model"}
    evaluate_recipe(recipe(output="base"), screen)
    assert not (place / "base").exists()


def test_an_evaluation_is_refused_before_any_answer(place: Path, screen):
    start_run(recipe(**{"data.held_out": "0"}), screen)
    (place / "file").write_text("a file")
    for output, message in (("new", "no prompts are held out"), ("file/sub", "file is a file"), ("run", "no prompts")):
        with pytest.raises(InputError, match=message):
            evaluate_run(place / "run", place / output, screen)
        with pytest.raises(InputError, match=message if output != "run" else "already holds a run"):
            evaluate_recipe(recipe(output=output, **{"data.held_out": "0"}), screen)
    assert not (place / "new").exists()
    assert not [line for line in screen.lines if line.startswith(("before", "after", "model"))]


def test_evaluating_a_run_in_place_holds_one_model_at_a_time(place: Path, screen, monkeypatch: pytest.MonkeyPatch):
    first = start_run(recipe(**{"training.measure_kl": "true"}), screen).evaluation
    loaded = []

    def load(path, **options):
        assert not [model for model in loaded if model() is not None]
        model = load_model(path, **options)
        loaded.append(weakref.ref(model))
        return model

    monkeypatch.setattr("grao.engine.policy.load_model", load)
    assert evaluate_run(place / "run", place / "model" / ".." / "run", screen) == first
    assert len(loaded) == 2
    assert "evaluated" in json.loads((place / "run" / "manifest.json").read_text())
    evaluate_run(place / "run", place / "again", screen)
    assert {path.name for path in (place / "again").iterdir()} == {
        "manifest.json", "items.jsonl", "evaluation.json", "recipe.yaml", "report.html",
    }  # fmt: skip


def test_the_terminal_is_given_back_when_training_fails(place: Path):
    handler, shown = signal.getsignal(signal.SIGINT), io.StringIO()
    screen = TerminalScreen(Console(file=shown, force_terminal=True))
    with pytest.raises(InputError, match="None or NaN"):
        start_run(recipe(**{"rewards.0.function": "rewards.py:fails_later"}), screen)
    assert signal.getsignal(signal.SIGINT) is handler
    hidden, visible = (shown.getvalue().rfind(f"\x1b[?25{code}") for code in "lh")
    assert 0 < hidden < visible


def test_plain_output_is_short(place: Path):
    shown = io.StringIO()
    start_run(recipe(), TerminalScreen(Console(file=shown)))
    titles = [line.split(":")[0].split(";")[0] for line in shown.getvalue().splitlines() if line[0] != " "]
    assert titles == [
        "loading data, model and rewards",
        "12 prompts, 8 held out",
        "answers begin after 'say red cat' and end with '<end>'",
        "20 of 20 references are longer than rollout.max_new_tokens (8), where completions are cut",
        "in a browser, while it runs",
        "1/4 judging 8 prompts with the start model",
        "2/4 training",
        "3/4 judging 8 prompts with the trained model",
        "4/4 writing the report",
    ]
    assert "training: 4 steps" in shown.getvalue()


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_while_the_start_model_is_judged(place: Path, screen, capsys):
    name = written(place, **{"rewards.0.function": "rewards.py:interrupts_before", "audit.before_training": "warn"})
    assert main(["train", "--config", name]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "stopped; continue with: grao train --resume run"
    resume_run(Path("run"), screen)
    assert phases(screen) == (4, 4)


def test_phases_of_whole_runs(place: Path, screen):
    start_run(recipe(**{"audit.before_training": "warn"}), screen)
    assert phases(screen) == (5, 5)
    resume_run(Path("run"), screen, [("training.steps", "5")])
    assert phases(screen) == (3, 3)
    start_run(recipe(**{"evaluation.enabled": "false", "output": "other"}), screen)
    assert phases(screen) == (3, 3)


def test_ctrl_c_before_and_behind_the_run(place: Path, capsys, monkeypatch: pytest.MonkeyPatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    name = written(place)
    with monkeypatch.context() as patched:
        patched.setattr("grao.studies.prepare.load_policy", stop)
        assert main(["train", "--config", name]) == 130
    assert capsys.readouterr().err == "stopped; run the same command to start over\n"
    assert not Path("run").exists()
    with monkeypatch.context() as patched:
        patched.setattr("grao.studies.train.write_report", stop)
        assert main(["train", "--config", name]) == 130
    *_, said = capsys.readouterr().err.splitlines()
    assert said == "stopped; all is done but the report, write it with: grao report run"
    assert main(["report", "run"]) == 0


def test_what_lies_in_the_run_is_found_wherever_it_is_copied(place: Path, screen, monkeypatch: pytest.MonkeyPatch):
    (place / "run" / "world").mkdir(parents=True)
    for name in ("model", "data.jsonl", "rewards.py"):
        shutil.move(place / name, place / "run" / "world" / name)
    own = {"model.path": "run/world/model", "data.path": "run/world/data.jsonl"}
    function = "run/world/rewards.py:fails_after"
    with pytest.raises(InputError, match="no such luck"):
        start_run(recipe(**own, **{"rewards.0.function": function}), screen)
    assert str(place) not in (place / "run" / "recipe.yaml").read_text()
    shutil.move(place / "run", place / "elsewhere" / "moved")
    decoy = place / "elsewhere" / "world"
    decoy.mkdir()
    (decoy / "data.jsonl").write_text('{"prompt": "other", "reference": "data"}\n')
    monkeypatch.chdir(place / "elsewhere")
    assert resume_run(Path("moved"), screen).evaluation.prompts == 8
    again = load_recipe(Path("moved/recipe.yaml"), [("output", "again")])
    assert start_run(again, screen).evaluation.prompts == 8
    assert evaluate_run(Path("again"), Path("judged"), screen).prompts == 8


def test_half_of_a_small_file_is_held_out_and_said(place: Path, screen):
    start_run(recipe(**{"data.held_out": "300", "training.steps": "1"}), screen)
    assert any("10 prompts, 10 held out" in line for line in screen.lines)
    assert any("at most half can be; data.held_out asks for" in line for line in screen.lines)


def test_changed_data_are_noticed(place: Path, screen):
    with pytest.raises(StoppedError):
        start_run(recipe(**{"rewards.0.function": "rewards.py:interrupts"}), screen)
    with (place / "data.jsonl").open("a") as lines:
        lines.write('{"prompt": "say more", "reference": "more it is."}\n')
    with pytest.raises(InputError, match="has changed"):
        resume_run(Path("run"), screen)


def test_unavailable_rewards_keep_their_kind(place: Path, screen, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(place))
    (place / "judge.py").write_text(
        "from grao import RewardUnavailableError\n\ncalls = 0\n"
        "def judge(completions):\n    global calls\n    calls += 1\n"
        "    if calls == 5: raise RewardUnavailableError('the judge is down')\n"
        "    return [len(text) for text in completions]\n"
    )
    with pytest.raises(RewardUnavailableError, match=r"the judge is down; step \d is saved"):
        start_run(recipe(**{"rewards.0.function": "judge.py:judge"}), screen)


def said(*words: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command in a process of its own."""
    process = Forked(lambda: main(words))
    return process.wait(), process.out, process.err


def written(place: Path, **changes) -> str:
    (place / "recipe.yaml").write_text(dump_recipe(recipe(**changes)))
    return "recipe.yaml"


def test_the_commands_end_to_end(place: Path):
    code, out, err = said("train", "--config", written(place))
    assert code == 0, err
    assert "RAS" in out
    assert "report" in out
    assert "Traceback" not in err
    code, _, err = said("train", "--config", "recipe.yaml")
    assert code == 2
    assert err.count("\n") == 1
    assert "already holds a run" in err
    code, _, err = said("report", "run")
    assert code == 0, err


def test_ctrl_c_at_the_terminal(place: Path):
    name = written(place, **{"training.steps": "200", "rewards.0.function": "rewards.py:slow"})
    running = subprocess.Popen(
        [sys.executable, "-m", "grao", "train", "--config", name],
        stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    deadline = time.monotonic() + 90
    while not (place / "run" / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 130, err
    assert "Traceback" not in err
    assert "grao train --resume run" in err
    assert list((place / "run" / "checkpoints").glob("checkpoint-*"))


def test_an_output_that_cannot_be_written(place: Path):
    (place / "run").write_text("a file")
    code, _, err = said("train", "--config", written(place))
    assert code == 2, err
    assert "Traceback" not in err
    assert err.strip().count("\n") == 0
