"""Whole trainings with each method: they learn, resume, take an adapter, and are the same on two processes."""

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file

from forked import together
from grao import DataConfig, GRAOConfig, GRAOTrainer, InputError, RolloutConfig, TrainingConfig
from grao.methods.dapo import DAPO
from grao.methods.dpo import DPO
from grao.methods.gac import GAC
from grao.methods.grpo import GRPO
from grao.methods.ppo import PPO
from grao.methods.sft import SFT
from grao.records.run import read_metrics
from grao.training.watch import Watch
from test_trainer import ROWS, vowels, weights_of
from tiny import letter_tokenizer, relative_gap, tiny_model

PAIRS = [{**row, "rejected": f"no, {row['prompt']}"} for row in ROWS]
METHODS = {
    "sft": SFT(),
    "dpo": DPO(),
    "grpo": GRPO(updates=2),
    "ppo": PPO(updates=2, kl_target=0.5),
}
RESUMED = METHODS | {"gac": GAC(every=2)}
pytestmark = pytest.mark.filterwarnings("ignore:.*learning_rate.*hardly move")


def quiet(prompts, completions, **_):
    """Nothing to learn from the prompts that the second of two processes has in the first step."""
    values = zip(prompts, vowels(completions), strict=True)
    return [0.0 if prompt in ("say one", "say three") else value for prompt, value in values]


SHARED = [
    *((name, method, vowels) for name, method in METHODS.items()),
    ("silent", GRPO(kl=0.0), quiet),
    ("resampled", DAPO(), quiet),
]
"""Name, method and reward of what is run on two processes."""


def make(folder: Path, method, rows=PAIRS, peft_config=None, watch=None, reward=vowels, **training) -> GRAOTrainer:
    settings = {"steps": 4, "prompts_per_step": 3, "learning_rate": 3e-3, "trainer": {"use_cpu": True}} | training
    config = GRAOConfig(
        output_dir=folder,
        data=DataConfig(path="here", rejected="rejected" if "rejected" in rows[0] else None),
        rollout=RolloutConfig(group_size=4, temperature=1.0, max_new_tokens=8),
        training=TrainingConfig(**settings),
        method=method,
    )
    return GRAOTrainer(
        tiny_model(), reward, config, rows, processing_class=letter_tokenizer(), peft_config=peft_config, watch=watch
    )


@pytest.mark.parametrize("name", ["grpo", "ppo"])
def test_methods_that_sample_raise_the_reward(tmp_path: Path, name: str):
    make(tmp_path, METHODS[name], steps=12, prompts_per_step=6, learning_rate=1e-2).train()
    rewards = [step["reward/mean"] for step in read_metrics(tmp_path)]
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.2


@pytest.mark.parametrize(("name", "sign"), [("sft", "reference/loglik"), ("dpo", "dpo/margin")])
def test_methods_that_do_not_sample_learn_from_the_answers(tmp_path: Path, name: str, sign: str):
    make(tmp_path, METHODS[name], steps=20, prompts_per_step=6).train()
    seen = [step[sign] for step in read_metrics(tmp_path)]
    assert seen[-1] > seen[0] + 0.5
    assert all("reward/mean" not in step and step["tokens/sampled"] == 0 for step in read_metrics(tmp_path))


@pytest.mark.parametrize("name", RESUMED)
def test_resuming_is_as_if_it_had_never_stopped(tmp_path: Path, name: str):
    whole = make(tmp_path / "whole", RESUMED[name], save_every=2)
    whole.train()
    make(tmp_path / "half", RESUMED[name], save_every=2).train()
    again = make(tmp_path / "half", RESUMED[name], save_every=2)
    again.train(resume_from_checkpoint=str(tmp_path / "half" / "checkpoints" / "checkpoint-2"))
    assert relative_gap(weights_of(again.model), weights_of(whole.model)) == 0
    one, other = (read_metrics(tmp_path / run) for run in ("whole", "half"))
    for line, same in zip(one, other, strict=True):
        timeless = [key for key in line if not key.startswith(("seconds", "speed"))]
        assert {key: line[key] for key in timeless} == {key: same[key] for key in timeless}


def test_a_steered_penalty_survives_a_resume_between_two_lines_of_the_log(tmp_path: Path):
    settings = {"steps": 6, "save_every": 2, "trainer": {"use_cpu": True, "logging_steps": 5}}
    whole = make(tmp_path / "whole", METHODS["ppo"], **settings)
    whole.train()
    make(tmp_path / "half", METHODS["ppo"], **settings).train()
    again = make(tmp_path / "half", METHODS["ppo"], **settings)
    again.train(resume_from_checkpoint=str(tmp_path / "half" / "checkpoints" / "checkpoint-4"))
    assert relative_gap(weights_of(again.model), weights_of(whole.model)) == 0
    lines, same = (read_metrics(tmp_path / run) for run in ("whole", "half"))
    assert [line["step"] for line in lines] == [line["step"] for line in same] == [1, 5]
    for name in ("kl_penalty/next", "kl_penalty/coefficient", "reward/mean", "tokens/sampled"):
        assert lines[-1][name] == same[-1][name], name


def test_the_critic_is_kept_beside_a_plain_language_model(tmp_path: Path):
    trainer = make(tmp_path, METHODS["ppo"], save_every=4)
    trainer.train()
    checkpoint = tmp_path / "checkpoints" / "checkpoint-4"
    assert not any("value_head" in name for name in load_file(checkpoint / "model.safetensors"))
    head = load_file(checkpoint / "value_head.safetensors")
    assert head["linear.weight"].shape == (1, 32)
    assert head["linear.weight"].abs().sum() > 0


@pytest.mark.parametrize("name", ["dpo", "grpo", "ppo"])
def test_with_an_adapter_the_frozen_policy_is_the_model_without_it(tmp_path: Path, name: str):
    lora = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    make(tmp_path, METHODS[name], peft_config=lora, steps=1).train()
    (line,) = read_metrics(tmp_path)
    assert line["kl"] > 1e-4  # this adapter is not zero, so the policy is not where it would have begun


def test_two_updates_go_further_than_one(tmp_path: Path):
    one, two = (make(tmp_path / f"{n}", GRPO(kl=0.0, updates=n), steps=1) for n in (1, 2))
    start = weights_of(one.model)
    one.train(), two.train()
    moved = [sum((value - start[name]).norm() for name, value in weights_of(t.model).items()) for t in (one, two)]
    assert moved[1] > 1.5 * moved[0]


def test_dpo_says_which_row_has_no_rejected_answer(tmp_path: Path):
    with pytest.raises(InputError, match=r"dpo needs a rejected answer to every prompt; the data set, row 1 has none"):
        make(tmp_path, DPO(), rows=ROWS)
    with pytest.raises(InputError, match="row 2 has none"):
        make(tmp_path, DPO(), rows=[PAIRS[0], {**PAIRS[1], "rejected": None}])


def test_nothing_can_be_watched_where_nothing_is_sampled(tmp_path: Path):
    with pytest.raises(InputError, match="watch: sft does not sample during training"):
        make(tmp_path, SFT(), watch=Watch(vowels))


def test_two_processes_are_one(tmp_path: Path):
    def train_all() -> None:
        for name, method, reward in SHARED:
            trainer = make(tmp_path / "2" / name, method, reward=reward, prompts_per_step=5, token_budget=40, steps=2)
            trainer.train()
            if trainer.is_world_process_zero():
                torch.save(weights_of(trainer.model), tmp_path / "2" / f"{name}.pt")
        torch.distributed.barrier()  # a process that leaves early takes the others' connections with it

    together(2, train_all)
    for name, method, reward in SHARED:
        trainer = make(tmp_path / "1" / name, method, reward=reward, prompts_per_step=5, token_budget=40, steps=2)
        trainer.train()
        one, two = weights_of(trainer.model), torch.load(tmp_path / "2" / f"{name}.pt")
        assert relative_gap(one, two) < 1e-4, name
        logs = [
            [json.loads(line) for line in (tmp_path / f"{n}" / name / "metrics.jsonl").read_text().splitlines()]
            for n in (1, 2)
        ]
        for alone, shared in zip(*logs, strict=True):
            for key in set(alone) - {"loss"}:
                if key in ("tokens/forwarded", "flops/update"):  # each process asks the frozen model by itself
                    assert shared[key] >= 0.998 * alone[key], (name, key)
                elif not key.startswith(("seconds", "speed")):
                    assert shared[key] == pytest.approx(alone[key], rel=2e-3, abs=1e-4), (name, key)
