"""The same run twice, and a run that was interrupted: killed, torn, changed, or started a second time beside itself."""

import errno
import fcntl
import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from kill_resume import SETTINGS, survives_kills
from peft import LoraConfig
from safetensors.torch import load_file
from transformers import TrainerControl, TrainerState

from conftest import SilentScreen
from grao import DataConfig, GRAOConfig, GRAOTrainer, InputError, RolloutConfig, TrainingConfig
from grao.cli.main import main
from grao.config.load import dump_recipe, load_config, load_recipe
from grao.config.recipe import BackboneConfig, PairsConfig, RewardModelRecipe, RewardTrainingConfig
from grao.config.recipe import LoraConfig as LoraSection
from grao.config.study import Study
from grao.records import checkpoints
from grao.records.lock import locked
from grao.records.run import MetricsLog, read_evaluation, read_manifest, read_metrics
from grao.signals import resend_lost_interrupts
from grao.studies.evaluate import evaluate_recipe
from grao.studies.reward_model import train_reward_model
from grao.studies.settings import deciding_settings, first_change
from grao.studies.study import run_study
from grao.studies.train import StoppedError, resume_run, start_run
from grao.training import saving
from grao.training.callbacks import InterruptGuard
from test_broken_numbers import METHODS
from test_trainer import ROWS, vowels, weights_of
from tiny import letter_tokenizer, relative_gap, saved_model, tiny_model

pytestmark = pytest.mark.filterwarnings("ignore:.*learning_rate.*hardly move")
PAIRS = [{**row, "rejected": f"no, {row['prompt']}"} for row in ROWS]
REWARD = """
import os, pathlib, signal, time
lines = pathlib.Path("run/metrics.jsonl")
def vowels(completions):
    return [sum(letter in "ae" for letter in text) / (1 + len(text)) for text in completions]
def signals(completions):
    if lines.exists() and lines.read_text().count("\\n") == 2 and not os.path.exists("sent"):
        pathlib.Path("sent").touch()
        os.kill(os.getpid(), int(os.environ["SIGNAL"]))
    return vowels(completions)
def at_once(completions):
    if not os.path.exists("sent") and os.path.exists("run/manifest.json"):
        pathlib.Path("sent").touch()
        os.kill(os.getpid(), int(os.environ["SIGNAL"]))
    return vowels(completions)
"""


def furnished(folder: Path) -> Path:
    """The folder with model, data and rewards."""
    saved_model(folder / "model")
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    (folder / "rewards.py").write_text(REWARD)
    return folder


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with model, data and rewards, as working directory."""
    monkeypatch.chdir(furnished(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of `recipe`, undisturbed."""
    folder = furnished(tmp_path_factory.mktemp("undisturbed"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        start_run(recipe(output="whole"), SilentScreen())
    return folder / "whole"


def in_a_child(work) -> int:
    """How a process ended that was forked for it: its exit code, or minus the signal."""
    child = os.fork()
    if not child:
        try:
            work()
        finally:
            os._exit(9)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def recipe(**changes):
    settings = {
        "model.path": "model", "data.path": "data.jsonl", "data.held_out": "2",
        "rewards.0.function": "rewards.py:vowels", "rollout.group_size": "4", "rollout.temperature": "1.0",
        "rollout.max_new_tokens": "6", "training.steps": "4",
        "training.prompts_per_step": "2", "training.learning_rate": "1e-2", "training.save_every": "1",
        "training.trainer.use_cpu": "true", "output": "run", "audit.before_training": "skip",
    }  # fmt: skip
    return load_recipe(None, list({**settings, **changes}.items()))


def final(run: Path) -> dict[str, torch.Tensor]:
    (file,) = (run / "model").glob("*model.safetensors")
    return load_file(file)


def same(run: Path, other: Path) -> bool:
    one, two = final(run), final(other)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def trainer(folder: Path, method, **training) -> GRAOTrainer:
    training = {"steps": 2, "save_every": 1, "trainer": {"use_cpu": True}} | training
    config = GRAOConfig(
        output_dir=folder,
        seed=3,
        data=DataConfig(path="here", rejected="rejected"),
        rollout=RolloutConfig(group_size=4, temperature=1.0, max_new_tokens=6),
        training=TrainingConfig(prompts_per_step=2, learning_rate=3e-3, **training),
        method=method,
    )
    lora = LoraConfig(r=2, lora_dropout=0.2, target_modules="all-linear")
    return GRAOTrainer(tiny_model(), vowels, config, PAIRS, processing_class=letter_tokenizer(), peft_config=lora)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_the_same_twice_with_an_adapter(tmp_path: Path, name: str):
    runs = []
    for number in (1, 2):
        runs.append(trainer(tmp_path / f"{number}", METHODS[name], save_every=None))
        torch.manual_seed(number)  # whatever happens between making a trainer and training
        runs[-1].train()
        torch.rand(number)
    assert relative_gap(*(weights_of(run.model) for run in runs)) == 0


def test_a_recipe_with_an_adapter_is_the_same_twice(place: Path, screen):
    for run in ("one", "two"):
        torch.manual_seed(len(run) + sum(map(ord, run)))
        start_run(recipe(**{"output": run, "model.lora.rank": "2", "model.lora.dropout": "0.1"}), screen)
    assert same(Path("one"), Path("two"))


def test_a_reward_model_is_the_same_twice(place: Path, screen):
    weights = []
    for name in ("one", "two"):
        torch.manual_seed(sum(map(ord, name)))
        settings = RewardTrainingConfig(steps=2, pairs_per_step=2, learning_rate=1e-2)
        data = PairsConfig(path="data.jsonl", reference="reference", held_out=2)
        backbone = BackboneConfig(path="model", lora=LoraSection(rank=2))
        train_reward_model(RewardModelRecipe(backbone, data, place / name, training=settings), screen)
        weights.append(load_file(place / name / "model" / "model.safetensors"))
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


DAMAGE = {
    "torn": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "emptied": lambda path: path.write_bytes(b""),
    "removed": lambda path: path.unlink(),
    "a byte flipped": lambda path: path.write_bytes(
        (data := path.read_bytes())[:-9] + bytes([data[-9] ^ 4]) + data[-8:]
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_any_damage_to_any_file_of_a_checkpoint_is_seen(tmp_path: Path, damage: str):
    for step in (9, 10):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        for name in ("trainer_state.json", "optimizer.safetensors", "training_state.json", "model.safetensors"):
            (folder / name).write_bytes(name.encode() * 40)
        checkpoints.seal(folder)
    newest = tmp_path / "checkpoint-10"
    assert checkpoints.last_whole(tmp_path) == (newest, [])
    shutil.copytree(newest, tmp_path / "copy")
    for name in sorted(path.name for path in newest.iterdir()):
        DAMAGE[damage](newest / name)
        last, (line,) = checkpoints.last_whole(tmp_path)
        assert last == tmp_path / "checkpoint-9"
        assert line.startswith("checkpoint-10 is skipped and kept as broken-10: ")
        assert name in line
        shutil.copytree(tmp_path / "copy", newest)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PPO run with an adapter: every kind of file."""
    folder = tmp_path_factory.mktemp("whole")
    run = trainer(folder, METHODS["ppo"], steps=3)
    run.train()
    torch.save(weights_of(run.model), folder / "weights.pt")
    return folder


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("adapter_model.safetensors", "a byte flipped"),
        ("optimizer.safetensors", "removed"),
        ("training_state.json", "emptied"),
        ("trainer_state.json", "torn"),
        ("grao_state.json", "emptied"),
        ("value_head.safetensors", "removed"),
        ("checksums.json", "a byte flipped"),
    ],
)
def test_a_damaged_checkpoint_is_passed_over_and_the_end_is_the_same(
    tmp_path: Path, undisturbed: Path, file: str, damage: str
):
    shutil.copytree(undisturbed, tmp_path / "run")
    DAMAGE[damage](tmp_path / "run" / "checkpoints" / "checkpoint-3" / file)
    again = trainer(tmp_path / "run", METHODS["ppo"], steps=3)
    with pytest.warns(UserWarning, match=rf"checkpoint-3 is skipped and kept as broken-3: .*{file}"):
        again.train(resume_from_checkpoint=True)
    assert relative_gap(weights_of(again.model), torch.load(undisturbed / "weights.pt")) == 0
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == [
        "broken-3", "checkpoint-1", "checkpoint-2", "checkpoint-3",
    ]  # fmt: skip


def test_a_damaged_checkpoint_by_name_is_refused(tmp_path: Path, undisturbed: Path):
    shutil.copytree(undisturbed, tmp_path / "run")
    chosen = tmp_path / "run" / "checkpoints" / "checkpoint-2"
    (chosen / "training_state.json").unlink()
    with pytest.raises(InputError, match=r"cannot be resumed from: training_state\.json is missing, but listed"):
        trainer(tmp_path / "run", METHODS["ppo"], steps=3).train(resume_from_checkpoint=str(chosen))
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.raises(InputError, match="holds no complete checkpoint"):
        trainer(tmp_path / "run", METHODS["ppo"], steps=3).train(resume_from_checkpoint=True)


def test_without_a_whole_checkpoint_it_begins_anew_and_says_so(stopped: Path, whole: Path, screen):
    for checkpoint in Path("run/checkpoints").iterdir():
        (checkpoint / "optimizer.safetensors").unlink()
    resume_run(Path("run"), screen)
    assert "no complete checkpoint is left: starting at step 1" in screen.lines
    assert same(Path("run"), whole)


@pytest.mark.parametrize("limit", [1, 2])
def test_only_old_checkpoints_are_removed(tmp_path: Path, limit: int):
    trainer(tmp_path, METHODS["sft"], steps=4, trainer={"use_cpu": True, "save_total_limit": limit}).train()
    kept = [path.name for path in checkpoints.checkpoints(tmp_path / "checkpoints")]
    assert kept == [f"checkpoint-{step}" for step in range(5 - limit, 5)]
    assert checkpoints.fault(tmp_path / "checkpoints" / "checkpoint-4") is None


@pytest.mark.parametrize("save_async", [False, True])
@pytest.mark.parametrize("step", [2, 3])
def test_a_checkpoint_is_whole_or_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save_async: bool, step: int
):
    run = trainer(tmp_path, METHODS["sft"], steps=3, save_async=save_async)
    save = saving.save_file

    def full(tensors, path):
        if path.parent.name == f"checkpoint-{step}":
            raise OSError(errno.ENOSPC, "No space left on device")
        save(tensors, path)

    monkeypatch.setattr(saving, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        run.train()
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == [f"checkpoint-{number}" for number in range(1, step)]
    assert checkpoints.fault(tmp_path / "checkpoints" / "checkpoint-1") is None
    assert step <= run.state.global_step <= step + 1  # in the background the error comes with the next step, or the end


@pytest.mark.parametrize(
    ("number", "when"),
    [(signal.SIGTERM, "signals"), (signal.SIGHUP, "signals"), (signal.SIGTERM, "at_once"), (signal.SIGINT, "at_once")],
)
def test_a_signal_loses_nothing(
    place: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, capsys, number: int, when: str
):
    monkeypatch.setenv("SIGNAL", str(int(number)))
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    hangup = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup the suite starts with SIGHUP ignored
    handlers = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP)]
    changes = {"rewards.0.function": f"rewards.py:{when}", "training.save_every": "null"}
    Path("recipe.yaml").write_text(dump_recipe(recipe(**changes)))
    assert main(["train", "--config", "recipe.yaml"]) == 130
    assert "continue with: grao train --resume run" in capsys.readouterr().err
    assert Path("run/checkpoints/checkpoint-3").exists() == (when == "signals")
    assert main(["train", "--resume", "run"]) == 0
    assert same(Path("run"), whole)
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP)] == handlers
    signal.signal(signal.SIGHUP, hangup)
    signal.signal(signal.SIGINT, previous)


def test_a_study_stops_at_a_signal(place: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setenv("SIGNAL", str(int(signal.SIGTERM)))
    (place / "run").mkdir()
    (place / "run" / "manifest.json").touch()  # for the reward, at its first question
    Path("study.yaml").write_text(study("at_once"))
    assert main(["compare", "--config", "study.yaml"]) == 130
    assert "the same command resumes the study" in capsys.readouterr().err


def study(reward: str) -> str:
    return (
        f"base:\n  model: {{path: model}}\n  data: {{path: data.jsonl, held_out: 2}}\n"
        f"  rewards: [{{function: 'rewards.py:{reward}'}}]\n  rollout: {{group_size: 2, max_new_tokens: 4}}\n"
        "  training: {prompts_per_step: 2, learning_rate: 1e-2, trainer: {use_cpu: true}}\n"
        "arms: {sft: {method.name: sft}, grao: {}}\nbudget: {steps: 1}\nseeds: [0]\n"
        "learning_rates: [1e-2]\noutput: study\n"
    )


def test_ctrl_c_in_a_destructor_is_not_lost():
    class Cleared:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)  # where it arrives

        wait = staticmethod(time.sleep)

    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    begin = time.monotonic()
    with resend_lost_interrupts(), pytest.raises(KeyboardInterrupt):
        Cleared().wait(5)
    assert time.monotonic() - begin < 4  # the call under way is interrupted, not waited for
    signal.signal(signal.SIGINT, previous)


def test_outside_of_the_main_thread_nothing_is_caught_and_ignored_signals_stay_ignored():
    seen = []

    def work():
        with InterruptGuard(seen.append):
            seen.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with InterruptGuard() as guard:  # as `nohup` starts it
        os.kill(os.getpid(), signal.SIGHUP)
        assert not guard.interrupted
    signal.signal(signal.SIGHUP, previous)


def test_a_killed_run_goes_on_as_if_nothing_had_been(place: Path, whole: Path, screen, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SIGNAL", str(int(signal.SIGKILL)))
    killed = recipe(**{"rewards.0.function": "rewards.py:signals"})
    assert in_a_child(lambda: start_run(killed, screen)) == -signal.SIGKILL
    assert Path("run/.lock").exists()
    resume_run(Path("run"), screen)
    assert any("resuming from checkpoint-2" in line for line in screen.lines)
    assert same(Path("run"), whole)
    assert not Path("run/.lock").exists()


def test_two_processes_that_are_killed_end_where_they_would_have(place: Path):
    """The short form of `benchmarks/kill_resume.py`."""
    words = "--model.path model --data.path data.jsonl --data.held_out 2 --training.prompts_per_step 2"
    settings = (*SETTINGS, *words.split(), "--model.lora.rank", "2", "--training.save_async", "true")
    assert survives_kills(place, settings, processes=2, kills=1, seed=0, say=lambda line: None)


def more(run: str, *steps: str) -> None:
    """Goes on with a run, to so many steps in all."""
    resume_run(Path(run), SilentScreen(), [("training.steps", number) for number in steps])


def test_a_finished_run_goes_on_past_its_end(place: Path, whole: Path):
    start_run(recipe(**{"training.steps": "2"}), SilentScreen())
    began = read_manifest(Path("run"))
    for file in ("model/model.safetensors", "report.html"):
        Path("run", file).write_text("old")
    more("run", "4")
    assert same(Path("run"), whole)
    assert [line["step"] for line in read_metrics(Path("run"))] == [1, 2, 3, 4]
    assert read_evaluation(Path("run")) == read_evaluation(whole)
    assert Path("run/report.html").stat().st_size > 1000
    ended = read_manifest(Path("run"))
    assert (ended.status, ended.steps, ended.setting("training", "steps")) == ("finished", 4, 4)
    assert [(stretch.steps, stretch.finished) for stretch in ended.earlier] == [(2, began.finished)]
    assert load_recipe(Path("run/recipe.yaml")).training.steps == 4
    for steps in ("4", "3"):
        with pytest.raises(InputError, match=rf"training\.steps is {steps}, but run has done 4; give more"):
            more("run", steps)
    with pytest.raises(InputError, match=r"run is finished; see it .* or give it more steps with --training\.steps"):
        more("run")
    shutil.rmtree("run/checkpoints")
    with pytest.raises(InputError, match="run is finished and has no complete checkpoint to resume from"):
        more("run", "9")
    assert read_metrics(Path("run"))


STAGES = {"stages.0.method.name": "sft", "stages.0.until.steps": "1", "stages.1.method.name": "grao"}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"stages.0.until.steps": "null", "stages.0.until.tokens": "9", "training.schedule": "linear"}, "linear needs"),
        ({"stages.1.until.peak.every": "1"}, r"stages\.1\.until\.peak does not apply to the last stage"),
        ({"stages.0.method.name": "dpo"}, "method.name: dpo needs a rejected answer to every prompt"),
    ],
)
def test_an_impossible_plan_fails_before_the_model_is_loaded(place: Path, wrong: dict[str, str], said: str):
    with pytest.raises(InputError, match=said):
        start_run(recipe(**(STAGES | wrong), **{"model.path": "nowhere"}), SilentScreen())


@pytest.mark.parametrize(
    ("last", "said"),
    [
        ({"training.steps": "2"}, r"training\.steps is 2, but run has done 2 in its last stage; give more"),
        ({"stages.1.until.steps": "2"}, r"stages\.1\.until\.steps is 2, but run has done 2 in its last stage; start"),
        ({"stages.1.until.tokens": "9"}, r"run is finished: stages\.1\.until ended it; start a new run"),
    ],
)
def test_what_is_said_of_steps_is_about_the_last_stage(place: Path, last: dict[str, str], said: str):
    start_run(recipe(**STAGES, **last), SilentScreen())
    with pytest.raises(InputError, match=said):
        more("run", "2")


def test_the_end_by_a_condition_is_recorded_at_once(place: Path, screen, monkeypatch: pytest.MonkeyPatch):
    save = saving.SavingTrainer.save_policy

    def stop(trainer: saving.SavingTrainer, folder: Path, **named: bool) -> None:
        if Path(folder).name == "model":
            raise KeyboardInterrupt
        save(trainer, folder, **named)

    monkeypatch.setattr(saving.SavingTrainer, "save_policy", stop)
    with pytest.raises(StoppedError):
        start_run(recipe(**STAGES, **{"stages.1.until.tokens": "9"}), screen)
    ended = read_manifest(Path("run")).steps
    assert ended == len(read_metrics(Path("run"))) < 5
    monkeypatch.setattr(saving.SavingTrainer, "save_policy", save)
    resume_run(Path("run"), screen)
    manifest = read_manifest(Path("run"))
    assert (manifest.status, manifest.steps, manifest.earlier) == ("finished", ended, [])


def test_more_steps_follow_the_schedule_of_the_new_total(place: Path):
    schedule = {"training.schedule": "linear", "training.learning_rate": "1e-2"}
    start_run(recipe(**schedule, **{"training.steps": "2"}), SilentScreen())
    more("run", "4")
    rates = [line["learning_rate"] for line in read_metrics(Path("run"))]
    assert rates == pytest.approx([1e-2, 0.5e-2, 0.5e-2, 0.25e-2])  # 1 - step / 2, then 1 - step / 4


def test_an_interrupted_run_may_get_more_steps_or_fewer(stopped: Path, whole: Path, screen):
    with pytest.raises(InputError, match=r"training\.steps is 2, but run has done 3; give more"):
        more("run", "2")
    with pytest.raises(InputError, match=r"^--training\.learning_rate has changed from 0.01 to 0.02 .*; leave it"):
        resume_run(Path("run"), screen, [("training.steps", "5"), ("training.learning_rate", "0.02")])
    more("run", "5")
    assert not same(Path("run"), whole)
    assert [line["step"] for line in read_metrics(Path("run"))] == [1, 2, 3, 4, 5]


@pytest.fixture
def occupied(place: Path):
    """Another process that writes into `run`."""
    (place / "run").mkdir()
    with (place / "run" / ".lock").open("w") as file:
        file.write("process 1 on elsewhere\n")
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)
        yield place


@pytest.mark.parametrize(
    "write",
    [
        lambda screen: start_run(recipe(), screen),
        lambda screen: resume_run(Path("run"), screen),
        lambda screen: evaluate_recipe(recipe(), screen),
        lambda screen: trainer(Path("run"), METHODS["sft"]).train(),
        lambda screen: run_study(load_config(Study, Path("study.yaml")), screen),
    ],
)
def test_two_never_write_into_one_folder(occupied: Path, screen, write):
    Path("study.yaml").write_text(study("vowels").replace("output: study", "output: run"))
    before = sorted(path for path in Path("run").rglob("*") if path.name != "checkpoints")
    with pytest.raises(InputError, match="run is in use by process 1 on elsewhere; wait"):
        write(screen)
    assert sorted(path for path in Path("run").rglob("*") if path.name != "checkpoints") == before


def test_a_lock_leaves_nothing_and_one_run_may_hold_it_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "a" / "b"
    with locked(folder), locked(folder):
        assert f"process {os.getpid()} on " in (folder / ".lock").read_text()
    assert not (tmp_path / "a").exists()

    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with (
        pytest.warns(UserWarning, match="cannot be locked on .*No locks available.*do not start a second run"),
        locked(folder),
    ):
        (folder / "file").touch()
    assert (folder / "file").exists()


def test_checkpoints_of_another_run_are_not_ours(place: Path, screen):
    trainer(Path("run"), METHODS["sft"]).train()
    Path("run/metrics.jsonl").unlink()
    with pytest.raises(InputError, match="run already holds another run"):
        trainer(Path("run"), METHODS["sft"]).train()
    with pytest.raises(InputError, match="already holds a folder checkpoints; choose another"):
        start_run(recipe(), screen)


@pytest.fixture(scope="module")
def stopped_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped after its third step, and what it rests on."""
    folder = furnished(tmp_path_factory.mktemp("stopped"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("SIGNAL", str(int(signal.SIGTERM)))
        with pytest.raises(StoppedError):
            start_run(recipe(**{"rewards.0.function": "rewards.py:signals"}), SilentScreen())
    return folder


@pytest.fixture
def stopped(stopped_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, as working directory."""
    shutil.copytree(stopped_once, tmp_path, dirs_exist_ok=True)
    for file in ("run/recipe.yaml", "run/manifest.json"):
        edit(tmp_path / file, str(stopped_once), str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def edit(name: str | Path, before: str, after: str) -> None:
    text = Path(name).read_text()
    Path(name).write_text(text.replace(before, after))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda: edit("rewards.py", "(1 + len(", "(2 + len("),
            r"rewards\.0\.function: rewards\.py:signals has changed",
        ),
        (lambda: saved_model(Path("model"), seed=2), r"model\.path: the folder has changed"),
        (
            lambda: edit("run/recipe.yaml", "learning_rate: 0.01", "learning_rate: 0.02"),
            "rate has changed from 0.01 to",
        ),
        (lambda: edit("run/recipe.yaml", "group_size: 4", "group_size: 5"), "group_size has changed from 4 to 5"),
        (
            lambda: edit("run/recipe.yaml", "name: grao", "name: sft"),
            r"method\.name has changed from 'grao' to 'sft'|sft has",
        ),
        (
            lambda: edit("run/recipe.yaml", "use_cpu: true", "use_cpu: true\n    adam_beta1: 0.5"),
            "adam_beta1 has changed",
        ),
        (lambda: edit("data.jsonl", "six", "seven"), r"data\.path: .* has changed"),
    ],
)
def test_what_a_run_rests_on_must_not_change_before_it_goes_on(stopped: Path, screen, change, message: str):
    change()
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=message) as caught:
        resume_run(Path("run"), screen)
    assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()} == before


def test_every_file_that_a_recipe_names_counts_by_its_content(place: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(place))
    (place / "module_of_rewards.py").write_text("def zero(completions):\n    return [0.0] * len(completions)\n")
    __import__("module_of_rewards")
    (place / "words.txt").write_text("{context} {text_1} {text_2}")
    for folder in ("judge", "scorer", "encoder"):
        saved_model(place / folder)
    told = recipe(
        **{
            "rewards.1.function": "module_of_rewards:zero", "rewards.2.judge.local.path": "judge",
            "rewards.2.judge.criterion": "words.txt", "rewards.3.model.path": "scorer",
            "rewards.4.rule.embedding.model": "encoder", "watch.reward.function": "rewards.py:vowels",
        }
    )  # fmt: skip
    began = deciding_settings(told)
    assert first_change(began, json.loads(json.dumps(deciding_settings(told)))) is None
    for file, name in (
        ("module_of_rewards.py", "rewards.1.function"), ("words.txt", "rewards.2.judge.criterion"),
        ("judge/model.safetensors", "rewards.2.judge.local.path"), ("scorer/config.json", "rewards.3.model.path"),
        ("encoder/tokenizer.json", "rewards.4.rule.embedding.model"), ("rewards.py", "rewards.0.function"),
    ):  # fmt: skip
        content = Path(file).read_bytes()
        Path(file).write_bytes(content[:-1] + b" ")
        assert first_change(began, deciding_settings(told)).startswith(f"{name}: ")
        Path(file).write_bytes(content)


def test_what_changes_no_result_may_change(stopped: Path, screen):
    edit("run/recipe.yaml", "save_every: 1", "save_every: 2")
    edit("run/recipe.yaml", "token_budget: auto", "token_budget: 999")
    edit("run/recipe.yaml", "use_cpu: true", "use_cpu: true\n    save_total_limit: 1")
    assert resume_run(Path("run"), screen).report.exists()


def test_the_home_folder_is_one_folder(place: Path, screen, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(place / "home"))
    start_run(recipe(output="~/runs/first"), screen)
    written = {path.name for path in (place / "home" / "runs" / "first").iterdir()}
    assert written >= {"manifest.json", "metrics.jsonl", "checkpoints", "model", "report.html"}
    assert not (place / "~").exists()
    with pytest.raises(InputError, match=r"output: .*contains a variable, and variables are not expanded"):
        recipe(output="$HOME/runs")


BAD = ["", "{", "\xff\xfe", "[1, 2]", "7", '"text"', "null", '{"step": "two", "loss": 1}', '{"loss": 3}', "\x00\x00"]


@pytest.mark.filterwarnings("ignore:.*the line is skipped")
@pytest.mark.parametrize("bad", BAD)
def test_a_bad_line_in_the_log_costs_no_good_one(tmp_path: Path, bad: str):
    log = MetricsLog(tmp_path)
    for step in (1, 2, 3, 4):
        log.append({"step": step, "seconds": step / 2, "loss": 0.5})
    lines = log.path.read_bytes().split(b"\n")
    log.path.write_bytes(b"\n".join([lines[0], bad.encode("latin-1"), *lines[1:]]))
    assert log.keep_until(3) == 1.5
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3]


@pytest.mark.parametrize(
    "name", ["metrics.jsonl", "recipe.yaml.part", "checkpoints", "model", "report.html", "items.jsonl"]
)
def test_a_link_in_a_run_folder_is_not_followed(place: Path, screen, name: str):
    (place / "elsewhere").mkdir()
    (place / "run").mkdir()
    (place / "run" / name).symlink_to(place / "elsewhere" / name)
    with pytest.raises(InputError, match=rf"{name} is a symbolic link"):
        start_run(recipe(), screen)
    assert not any((place / "elsewhere").iterdir())


def test_a_link_that_appears_later_is_not_followed_either(tmp_path: Path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match="symbolic"):
        MetricsLog(tmp_path / "run").append({"step": 1})
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("kind", ["Errno 28", "Errno 27"])
def test_a_full_disk_ends_with_the_line_that_goes_on(place: Path, capsys, monkeypatch: pytest.MonkeyPatch, kind: str):
    number = int(kind.removeprefix("Errno "))

    def full(*_, **__):
        raise OSError(number, os.strerror(number), "run/checkpoints/x")

    monkeypatch.setattr("grao.training.saving.seal", full)
    Path("recipe.yaml").write_text(dump_recipe(recipe()))
    assert main(["train", "--config", "recipe.yaml"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == f"error: {os.strerror(number)}: run/checkpoints/x; continue with: grao train --resume run"


def test_an_evaluation_says_nothing_about_the_learning_rate(place: Path, screen, recwarn: pytest.WarningsRecorder):
    evaluate_recipe(recipe(**{"training.learning_rate": "1e-6"}), screen)
    assert not [warning for warning in recwarn if "learning_rate" in str(warning.message)]


def test_a_signal_to_one_of_two_processes_stops_both(tmp_path: Path):
    arguments = SimpleNamespace(world_size=2, device="cpu")

    def work(rank: int) -> None:
        torch.distributed.init_process_group("gloo", f"file://{tmp_path}/meeting", rank=rank, world_size=2)
        control = TrainerControl()
        with InterruptGuard(str) as guard:
            guard.on_step_end(arguments, TrainerState(), control)
            assert not control.should_training_stop
            if rank == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            guard.on_step_end(arguments, TrainerState(), control)
        os._exit(0 if control.should_save and control.should_training_stop else 1)

    other = threading.Thread(target=lambda: ended.append(in_a_child(lambda: work(0))))
    ended: list[int] = []
    other.start()
    ended.append(in_a_child(lambda: work(1)))
    other.join()
    assert ended == [0, 0]
