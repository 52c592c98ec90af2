"""What transformers or a tracker refuses, and TRL's habits: it works, or one line names our option before any work."""

import json
import sys
import types
from pathlib import Path

import pytest
import torch
from transformers import TrainingArguments

from grao import GRAOConfig, GRAOTrainer, InputError, RolloutConfig, TrainingConfig
from grao.cli.main import main
from grao.cli.parser import parse_arguments
from grao.config.load import load_recipe
from grao.records.run import read_evaluation, read_metrics
from tiny import letter_tokenizer, saved_model, tiny_model

pytestmark = pytest.mark.filterwarnings("ignore:.*learning_rate.*hardly move")
ROWS = [{"prompt": f"say {word}", "reference": f"{word} it is"} for word in ("one", "two", "three", "four")]


def zeros(completions, **_):
    return [float(len(text)) for text in completions]


def config(folder: Path, save_every: int | None = None, **trainer) -> GRAOConfig:
    training = TrainingConfig(steps=2, prompts_per_step=2, save_every=save_every, trainer={"use_cpu": True, **trainer})
    return GRAOConfig(output_dir=folder, rollout=RolloutConfig(group_size=2, max_new_tokens=4), training=training)


def make(folder: Path, save_every: int | None = None, **trainer) -> GRAOTrainer:
    arguments = config(folder, save_every, **trainer)
    return GRAOTrainer(tiny_model(), zeros, arguments, ROWS, ROWS[:2], letter_tokenizer())


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("bf16", "banana", "must be a valid boolean.*'banana'"),
        ("logging_steps", -1, "must be above 0, got -1"),
        ("eval_steps", 0, "must be above 0, got 0"),
        ("save_total_limit", "many", "must be a valid integer"),
        ("adam_beta1", 1.5, "beta"),
        ("adam_epsilon", float("nan"), "must be at least 0, got nan"),
        ("optim", "adamw_bnb_8bit", "bitsandbytes"),
        ("optim", "adam_of_mine", "adam_of_mine"),
        ("optim_args", "no_equals_sign", "not enough values"),
        ("lr_scheduler_kwargs", {"bends": 3}, "no effect with training.schedule: constant"),
        ("report_to", "abacus", "abacus is not supported"),
        ("report_to", ["trackio", "swanlab"], "trackio"),
        ("metric_for_best_model", "accuracy", "must be reward or win or tie or lose, got accuracy"),
        ("load_best_model_at_end", True, "needs training.trainer.eval_strategy: steps and training.save_every"),
        ("eval_strategy", "sometimes", "sometimes"),
        ("torch_compile", True, "is not supported"),
        ("dataloader_num_workers", 4, r"training.prompts_per_step"),
        ("auto_find_batch_size", True, "training.token_budget"),
        ("deepspeed", {"zero_optimization": {"stage": 2}}, "accelerate's configuration"),
        ("accelerator_config", {"split": True}, "split"),
        ("num_generations", 4, r"is unknown; use rollout.group_size"),
        ("push_to_hub", True, "offline mode is enabled"),
        ("skip_memory_metrics", None, "valid boolean"),
    ],
)
def test_an_option_that_cannot_work_is_one_line_with_its_name(name: str, value, message: str, tmp_path: Path):
    with pytest.raises(InputError, match=rf"^training\.trainer.*{name}\b.*{message}") as caught:
        make(tmp_path / "run", **{name: value})
    assert "\n" not in str(caught.value)


def test_a_model_that_cannot_be_checkpointed_is_told(tmp_path: Path):
    model = tiny_model()
    type(model).supports_gradient_checkpointing, before = False, type(model).supports_gradient_checkpointing
    try:
        with pytest.raises(
            InputError, match=r"training.trainer.gradient_checkpointing: LlamaForCausalLM does not support"
        ):
            GRAOTrainer(model, zeros, config(tmp_path, activation_checkpointing=True), ROWS, None, letter_tokenizer())
    finally:
        type(model).supports_gradient_checkpointing = before


@pytest.mark.parametrize(
    "trainer",
    [
        {"bf16": "no", "logging_steps": "1"},
        {"remove_unused_columns": False, "dataloader_num_workers": 0, "eval_on_start": True},
        {"lr_scheduler_kwargs": {}, "optim": "adafactor"},
        {"neftune_noise_alpha": 5, "logging_strategy": "epoch"},
        {"save_total_limit": 1, "full_determinism": False, "eval_strategy": "epoch"},
    ],
)
def test_an_option_that_can_work_does(trainer: dict, tmp_path: Path):
    trainer = make(tmp_path, **trainer)
    assert trainer.train().global_step == 2


def test_a_constant_rate_is_warmed_up(tmp_path: Path):
    training = TrainingConfig(steps=2, prompts_per_step=2, warmup_steps=2, trainer={"use_cpu": True})
    arguments = GRAOConfig(
        output_dir=tmp_path, rollout=RolloutConfig(group_size=2, max_new_tokens=4), training=training
    )
    GRAOTrainer(tiny_model(), zeros, arguments, ROWS, None, letter_tokenizer()).train()
    assert [line["learning_rate"] for line in read_metrics(tmp_path)] == [0, 5e-7]


def test_the_best_model_is_the_one_with_most_reward(tmp_path: Path):
    trainer = make(tmp_path, 1, load_best_model_at_end=True, eval_strategy="steps", eval_steps=1)
    trainer.train()
    assert trainer.args.greater_is_better
    assert trainer.state.best_metric == max(
        line["eval_reward"] for line in trainer.state.log_history if "eval_win" in line
    )


@pytest.mark.parametrize(
    ("name", "here"),
    [
        ("max_prompt_length", "data.max_prompt_tokens"),
        ("beta", "method.kl"),
        ("num_train_epochs", "training.steps"),
        ("lr_scheduler_type", "training.schedule"),
        ("run_name", "training.trainer.run_name"),
        ("temperature", "rollout.temperature"),
        ("mask_truncated_completions", "training.drop_truncated"),
    ],
)
def test_the_names_of_other_trainers_are_translated(name: str, here: str, tmp_path: Path):
    with pytest.raises(ValueError, match=f"{name} is {here}"):
        GRAOConfig(output_dir=tmp_path, **{name: 1})
    with pytest.raises(InputError, match=f"^--{name} is unknown; use --{here}"):
        parse_arguments(["train", f"--{name}", "1"])
    told = tmp_path / "told.yaml"
    told.write_text(f"model: {{path: m}}\ndata: {{path: d}}\nrewards: [{{function: 'r:r'}}]\noutput: o\n{name}: 1\n")
    with pytest.raises(InputError, match=f"line 5: {name} is unknown; .*{here}"):
        load_recipe(told)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((zeros,), "args must be a GRAOConfig, got nothing; such as"),
        ((zeros, {}, ROWS), "args must be a GRAOConfig, got dict"),
        ((zeros, TrainingArguments("x"), ROWS), "args must be a GRAOConfig, got TrainingArguments"),
        ((zeros, ROWS), "args must be a GRAOConfig, got list"),
        ((zeros, GRAOConfig(output_dir="x")), "train_dataset is missing"),
    ],
)
def test_arguments_that_are_missing_or_of_another_library_are_told(arguments: tuple, message: str):
    with pytest.raises(InputError, match=f"^{message}"):
        GRAOTrainer("nowhere", *arguments)


def test_trackers_are_an_option_of_their_own(tmp_path: Path):
    told = tmp_path / "told.yaml"
    told.write_text("model: {path: m}\ndata: {path: d}\nrewards: [{function: 'r:r'}]\noutput: o\n")
    _, (recipe, _) = parse_arguments(["train", "--config", str(told), "--report-to", "wandb,tensorboard"])
    assert recipe.training.trainer["report_to"] == ["wandb", "tensorboard"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Words that train a tiny model in the working directory."""
    monkeypatch.chdir(tmp_path)
    saved_model(tmp_path / "model")
    data = [{"prompt": f"say {i}", "reference": f"{i} it is"} for i in range(12)]
    Path("data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in data))
    told = {"model.path": "model", "data.path": "data.jsonl", "data.held_out": 4, "output": "run", "training.steps": 4}
    told |= {"training.prompts_per_step": 2, "training.learning_rate": 0.001, "rollout.max_new_tokens": 4}
    told |= {"rewards.0.rule.length.target": 3, "rollout.group_size": 2, "training.trainer.use_cpu": True}
    return ["train", *(word for name, value in told.items() for word in (f"--{name}", json.dumps(value).strip('"')))]


def test_a_tracker_that_refuses_is_one_line_before_any_work(
    place: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    from transformers.integrations import integration_utils

    service = types.ModuleType("trackio")
    service.__getattr__ = lambda name: (_ for _ in ()).throw(RuntimeError("no key\nlog in to trackio first"))
    monkeypatch.setitem(sys.modules, "trackio", service)
    monkeypatch.setattr(integration_utils, "is_trackio_available", lambda: True)
    assert main([*place, "--training.trainer.report_to", "trackio"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: training.trainer.report_to: no key log in to trackio first")
    assert not Path("run/items.jsonl").exists()


def test_trackers_get_scores_and_completions(place: list[str], monkeypatch: pytest.MonkeyPatch):
    from transformers.integrations import integration_utils

    sent: list[dict] = []
    service = types.ModuleType("trackio")
    service.log, service.init, service.finish = sent.append, lambda **_: None, lambda: None
    service.Table = lambda dataframe: dataframe
    service.context_vars = types.SimpleNamespace(current_space_id=types.SimpleNamespace(get=lambda: None))
    monkeypatch.setitem(sys.modules, "trackio", service)
    monkeypatch.setattr(integration_utils, "is_trackio_available", lambda: True)
    service.config = type("Config", (dict,), {"update": lambda self, *_, **__: None})()
    assert main([*place, "--report-to", "trackio", "--training.sample_every", "2"]) == 0
    tables = [logs["samples"] for logs in sent if "samples" in logs]
    assert [list(table["step"]) for table in tables] == [[1, 1], [3, 3]]
    assert list(tables[0].columns) == ["step", "prompt", "completion", "reward", "weight", "reference"]
    scores = [logs for logs in sent if "eval/ras" in logs]
    assert [logs["train/global_step"] for logs in scores] == [0, 4]
    evaluation = read_evaluation(Path("run"))
    assert [logs["eval/ras"] for logs in scores] == [scores.ras.value for scores in evaluation.models.values()]
    assert scores[1]["eval/nag"] == evaluation.gains[0].nag.value
    assert "eval/nag" not in scores[0]
    assert not [line for line in Path("run/metrics.jsonl").read_text().splitlines() if "ras" in line]


def test_what_is_measured_while_training_is_kept_and_shown(place: list[str], capsys: pytest.CaptureFixture[str]):
    told = [
        "--training.trainer.eval_strategy",
        "steps",
        "--training.trainer.eval_steps",
        "2",
        "--training.trainer.eval_on_start",
        "true",
    ]
    assert main([*place, *told]) == 0
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    measured = [line for line in lines if "eval/reward" in line]
    assert [line["step"] for line in measured] == [0, 2, 4]
    assert all(line["eval/win"] + line["eval/tie"] + line["eval/lose"] == pytest.approx(1) for line in measured)
    assert [line["step"] for line in read_metrics(Path("run"))] == [1, 2, 3, 4]
    assert "step 2, held-out prompts: wins" in capsys.readouterr().out
    assert "Held-out prompts during training" in Path("run/report.html").read_text()


def test_faults_of_ours_stay_faults(tmp_path: Path):
    from grao.training.arguments import library_errors

    def broken() -> None:
        raise KeyError("ours")

    with pytest.raises(KeyError, match="ours"), library_errors({}):
        broken()
    trainer = make(tmp_path)
    trainer.source.update = lambda step: torch.zeros(2) @ torch.zeros(3)
    with pytest.raises(RuntimeError), library_errors({"bf16": True}):
        trainer.train()
    with (
        pytest.raises(InputError, match=r"^training.trainer.optim: .*sgdd"),
        library_errors({"optim": "sgdd", "tf32": None}),
    ):
        type(trainer.args)(output_dir="x", optim="sgdd")
