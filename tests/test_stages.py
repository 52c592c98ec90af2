"""Stages: a staged run equals several by hand, goes on across a hand-over, and ends a stage when it is time to."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file

from forked import together
from grao import DataConfig, GRAOConfig, GRAOTrainer, InputError, RolloutConfig, TrainingConfig
from grao.config.load import load_recipe
from grao.config.stages import StageConfig, stages_of
from grao.engine.packed import PackedEngine
from grao.methods.auto import Auto, Imitation
from grao.methods.base import Method
from grao.methods.dpo import DPO
from grao.methods.grao import GRAO
from grao.methods.grpo import GRPO
from grao.methods.ppo import PPO
from grao.methods.sft import SFT
from grao.methods.stage import Peak, Until
from grao.records.run import read_metrics
from grao.training.stages import StageLook, peak_passed
from test_trainer import vowels, weights_of
from tiny import letter_tokenizer, relative_gap, saved_model, tiny_model

pytestmark = pytest.mark.filterwarnings("ignore:.*learning_rate.*hardly move")
PAIRS = [
    {"prompt": f"say {word}", "reference": f"{word} it is", "rejected": f"no, {word}"}
    for word in ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
]
LORA = LoraConfig(r=2, target_modules="all-linear")
RECIPE = {"model.path": "m", "data.path": "d", "rewards.0.function": "a.py:b", "output": "o"}
SECOND = {"grpo": GRPO(), "ppo": PPO(updates=2, kl_target=0.5), "dpo": DPO(), "grao": GRAO()}


def make(folder: Path, model=None, stages=(), reward=vowels, lora=None, method: Method | None = None, **training):
    settings = {"steps": 3, "prompts_per_step": 2, "learning_rate": 3e-3, "trainer": {"use_cpu": True}} | training
    config = GRAOConfig(
        output_dir=folder,
        data=DataConfig(path="here", rejected="rejected"),
        rollout=RolloutConfig(group_size=4, temperature=1.0, max_new_tokens=6),
        training=TrainingConfig(**settings),
        stages=list(stages),
        method=method or GRAO(),
    )
    policy = tiny_model() if model is None else str(model)
    return GRAOTrainer(policy, reward, config, PAIRS, PAIRS[:2], letter_tokenizer(), peft_config=lora)


def staged(method: Method, steps: int = 2, **settings) -> list[StageConfig]:
    return [StageConfig(method=SFT(), until=Until(steps=steps), learning_rate=1e-2), StageConfig(method, **settings)]


def by_hand(folder: Path, method: Method, lora=None, **training) -> GRAOTrainer:
    """Two runs, the second of the model that the first one leaves."""
    first = make(folder / "1", method=SFT(), steps=2, lora=lora, **{**training, "learning_rate": 1e-2})
    first.train()
    first.save_model(str(folder / "between"))
    letter_tokenizer().save_pretrained(folder / "between")
    second = make(folder / "2", folder / "between", method=method, **training)
    second.train()
    return second


def equal(one, other) -> bool:
    return all(torch.equal(weight, weights_of(other)[name]) for name, weight in weights_of(one).items())


@pytest.mark.parametrize("name", SECOND)
def test_a_staged_run_equals_two_by_hand(tmp_path: Path, name: str):
    whole = make(tmp_path / "staged", stages=staged(SECOND[name]), schedule="linear", warmup_steps=1)
    whole.train()
    second = by_hand(tmp_path, SECOND[name], schedule="linear", warmup_steps=1)
    assert equal(whole.model, second.model)
    mine, theirs = read_metrics(tmp_path / "staged"), read_metrics(tmp_path / "2")
    rows = [line for line in mine if "learning_rate" in line]
    assert [line["step"] for line in rows] == [1, 2, 3, 4, 5]
    for own, other in zip(rows[2:], theirs, strict=True):
        shared = own.keys() & other.keys() - {"step", "epoch", "seconds"}
        assert {k: own[k] for k in shared if "seconds" not in k and "speed" not in k} == {
            k: other[k] for k in shared if "seconds" not in k and "speed" not in k
        }
    handed = load_file(tmp_path / "staged" / "stages" / "1-sft" / "model.safetensors")
    between = load_file(tmp_path / "between" / "model.safetensors")
    assert all(torch.equal(weight, between[key]) for key, weight in handed.items())


def test_loss_scale_and_bad_steps_begin_anew_with_each_stage(tmp_path: Path):
    trainer, seen = make(tmp_path, stages=staged(GRPO())), []
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=1)  # doubles every step

    def gradient(*arguments):
        seen.append((trainer.step, trainer.accelerator.scaler.get_scale(), trainer._bad_steps))
        trainer._bad_steps = (1, trainer.step)
        return real(*arguments)

    real, trainer.learner.gradient = trainer.learner.gradient, gradient
    trainer.train()
    assert seen == [(1, 4, (0, 0)), (2, 8, (1, 1)), (3, 4, (0, 0)), (4, 8, (1, 3)), (5, 16, (1, 4))]


@pytest.mark.filterwarnings("ignore:.*it is trained further")
def test_an_adapter_goes_on_and_is_measured_from_the_hand_over(tmp_path: Path):
    model = saved_model(tmp_path / "model")
    whole = make(tmp_path / "staged", model, staged(GRPO(kl=1.0)), lora=LORA)
    whole.train()
    first = make(tmp_path / "1", model, method=SFT(), steps=2, lora=LORA, learning_rate=1e-2)
    first.train()
    first.save_model(str(tmp_path / "between"))
    letter_tokenizer().save_pretrained(tmp_path / "between")
    second = make(tmp_path / "2", tmp_path / "between", method=GRPO(kl=1.0))
    second.train()
    assert equal(whole.model, second.model)


@pytest.mark.parametrize(("name", "step"), [("grpo", 1), ("ppo", 2), ("ppo", 3)])
def test_it_resumes_before_at_and_behind_the_hand_over(tmp_path: Path, name: str, step: int):
    stages = staged(SECOND[name])
    whole = make(tmp_path / "whole", stages=stages, save_every=1)
    whole.train()
    shutil.copytree(tmp_path / "whole", tmp_path / "part")
    for later in range(step + 1, 6):
        shutil.rmtree(tmp_path / "part" / "checkpoints" / f"checkpoint-{later}")
    again = make(tmp_path / "part", stages=stages, save_every=1)
    again.train(resume_from_checkpoint=True)
    assert equal(whole.model, again.model)
    lines = [
        [{k: v for k, v in line.items() if "seconds" not in k and "speed" not in k} for line in read_metrics(folder)]
        for folder in (tmp_path / "whole", tmp_path / "part")
    ]
    assert lines[0] == lines[1]


def test_only_passes_that_are_made_are_counted_and_a_resume_counts_none_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def run(engine, model, batch, loss=None):
        tokens = sum(
            len(group.item.prompt_ids) + sum(len(answer.ids) for answer in group.answers) for group in batch.groups
        )
        passed[torch.is_grad_enabled()] += tokens
        return real(engine, model, batch, loss)

    real, passed = PackedEngine.run, [0, 0]
    settings = {"method": DPO(), "steps": 5, "prompts_per_step": 6, "save_every": 1}  # 2.5 epochs
    whole = make(tmp_path / "whole", **settings)
    monkeypatch.setattr(PackedEngine, "run", run)  # from here on: the engine was tried when it was chosen
    whole.train()
    lines = read_metrics(tmp_path / "whole")
    assert [bool(line["tokens/forwarded"]) for line in lines] == [True, True, False, False, False]
    spent = whole.conductor.reached.spent
    assert passed == [spent.forwarded, spent.backwarded]
    for kept in (1, 3):
        part = tmp_path / str(kept)
        shutil.copytree(tmp_path / "whole", part)
        for later in range(kept + 1, 6):
            shutil.rmtree(part / "checkpoints" / f"checkpoint-{later}")
        again = make(part, **settings)
        again.train(resume_from_checkpoint=True)
        assert again.conductor.reached.spent == spent
        assert equal(whole.model, again.model)


def test_the_hand_over_is_evaluated(tmp_path: Path):
    make(tmp_path, stages=staged(GRPO())).train()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "eval/win" in line] == [2]


def test_only_the_final_model_is_pushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    trainer, pushed = make(tmp_path, stages=staged(GRPO())), []
    monkeypatch.setattr(trainer, "push_to_hub", lambda **named: pushed.append(trainer.state.global_step))
    trainer.args.push_to_hub = True
    trainer.train()
    assert (tmp_path / "stages" / "1-sft" / "model.safetensors").exists()
    assert not (tmp_path / "stages" / "1-sft" / "grao_state.json").exists()
    assert pushed == []
    trainer.save_policy(tmp_path / "model")
    assert pushed == [5]


def test_tokens_end_a_stage(tmp_path: Path):
    trainer = make(tmp_path, stages=[StageConfig(SFT(), Until(tokens=60)), StageConfig(GRAO())])
    trainer.train()
    lines = [line for line in read_metrics(tmp_path) if "learning_rate" in line]
    imitated = [line["tokens/backwarded"] for line in lines if not line["tokens/sampled"]]
    assert sum(imitated) >= 60 > sum(imitated[:-1])
    assert len(lines) == len(imitated) + 3
    spent = trainer.conductor.reached.spent
    assert (spent.steps, spent.sampled, spent.backwarded) == (
        len(lines),
        sum(line["tokens/sampled"] for line in lines),
        sum(line["tokens/backwarded"] for line in lines),
    )


def test_a_run_that_its_last_stage_has_ended_takes_no_more_steps(tmp_path: Path):
    settings = {"stages": staged(SFT(), until=Until(tokens=60)), "steps": 50, "save_every": 1}
    whole, again = make(tmp_path, **settings), make(tmp_path, **settings)
    whole.train()
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == again.state.max_steps == whole.state.global_step < 50
    assert equal(whole.model, again.model)


@pytest.mark.parametrize(
    ("scores", "patience", "over"),
    [
        ([0.1], 1, False),
        ([0.1, 0.2], 1, False),
        ([0.1, 0.1], 1, True),
        ([0.1, 0.2, 0.15], 1, True),
        ([0.1, 0.2, 0.15], 2, False),
        ([0.1, 0.2, 0.15, 0.2], 2, True),
        ([0.1, 0.2, 0.15, 0.21], 2, False),
    ],
)
def test_a_stage_is_over_once_looks_are_no_better_than_the_best_before(scores, patience, over):
    assert (
        peak_passed([StageLook(step, score, 0.5) for step, score in enumerate(scores)], Peak(patience=patience)) is over
    )


def test_a_stage_is_over_once_enough_prompts_have_a_winner():
    assert peak_passed([StageLook(0, 0.1, 0.4)], Peak(enough=0.4))
    assert not peak_passed([StageLook(0, 0.1, 0.39)], Peak(enough=0.4))


def test_where_there_is_enough_at_the_start_nothing_is_imitated(tmp_path: Path):
    look = Imitation(every=1, prompts=3, samples=4, enough=0.0)
    trainer = make(tmp_path, method=Auto(imitation=look))
    trainer.train()
    assert [line["stage"] for line in read_metrics(tmp_path)] == [2, 2, 2]
    alone = make(tmp_path / "alone", method=GRPO())
    alone.source.items = trainer.train_items.items
    alone.train()
    assert equal(trainer.model, alone.model)


PLANNED = [0.2, 0.5, 0.4]


def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks that show what they are told to."""
    from grao.training import stages

    told = iter(PLANNED)
    real = stages.reward_groups

    def judged(groups, rewards):
        mixed = real(groups, rewards)
        share = next(told)
        won = torch.arange(mixed.total.numel()).reshape(mixed.total.shape) < share * mixed.total.numel()
        return replace(mixed, total=torch.where(won, 1.0, -1.0).double())

    monkeypatch.setattr(stages, "reward_groups", judged)


def test_a_peak_hands_over_the_best_weights_and_its_prompts_are_not_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    scripted(monkeypatch)
    look = Peak(every=2, prompts=3, samples=10)
    trainer = make(tmp_path, stages=[StageConfig(SFT(), Until(peak=look)), StageConfig(GRAO())])
    assert len(trainer.train_items.items) == len(PAIRS) - 3
    kept = {item.example.id for item in trainer.conductor.look_items}
    assert len(kept) == 3
    assert kept.isdisjoint(item.example.id for item in trainer.train_items.items)
    trainer.train()
    lines = [line for line in read_metrics(tmp_path) if "learning_rate" in line]
    assert [bool(line["tokens/sampled"]) for line in lines] == [False] * 4 + [True] * 3  # looks at 0, 2 and 4
    alone = make(tmp_path / "alone", method=SFT(), steps=2)
    alone.source.items = trainer.train_items.items
    alone.train()
    best = load_file(tmp_path / "stages" / "1-sft" / "model.safetensors")
    assert all(torch.equal(weight, best[name]) for name, weight in weights_of(alone.model).items() if name in best)
    assert trainer.conductor.reached.spent.sampled > sum(line["tokens/sampled"] for line in lines)


def test_looks_are_the_same_after_a_resume(tmp_path: Path):
    plan = Auto(imitation=Imitation(every=1, prompts=3, samples=4, patience=2, enough=None))
    whole = make(tmp_path / "whole", method=plan, save_every=1, steps=2, learning_rate=2e-2)
    whole.train()
    shutil.copytree(tmp_path / "whole", tmp_path / "part")
    kept = sorted((tmp_path / "part" / "checkpoints").iterdir(), key=lambda path: int(path.name.split("-")[1]))
    state = json.loads((kept[0] / "grao_state.json").read_text())["reached"]
    assert [look["step"] for look in state["looks"]] == [0, 1]
    for later in kept[1:]:
        shutil.rmtree(later)
    again = make(tmp_path / "part", method=plan, save_every=1, steps=2, learning_rate=2e-2)
    again.train(resume_from_checkpoint=True)
    assert again.conductor.reached == whole.conductor.reached
    assert equal(whole.model, again.model)


def test_two_processes_are_one(tmp_path: Path):
    def train() -> None:
        trainer = make(tmp_path / "two", stages=staged(GRPO(kl=1.0)))
        trainer.train()
        trainer.save_model(str(tmp_path / "model"))
        torch.distributed.barrier()  # a process that leaves early takes the others' connections with it

    together(2, train)
    alone = make(tmp_path / "one", stages=staged(GRPO(kl=1.0)))
    alone.train()
    trained = load_file(tmp_path / "model" / "model.safetensors")
    mine = {name: weight for name, weight in weights_of(alone.model).items() if name in trained}
    assert relative_gap(mine, trained) < 1e-5


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (
            [StageConfig(SFT()), StageConfig(GRAO())],
            "stages.0.until is missing; give a condition that ends the stage, such as {steps: 200}",
        ),
        ([StageConfig(PPO(), Until(steps=1)), StageConfig()], "stages.0.method: ppo has a critic"),
        ([StageConfig(Auto(), Until(steps=1)), StageConfig()], "stages.0.method: auto has stages of its own"),
        ([StageConfig(SFT(), Until(peak=Peak()))], "stages.0.until.peak does not apply to the last stage"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(tmp_path: Path, stages, message):
    with pytest.raises(InputError, match=message.replace("{", r"\{")):
        make(tmp_path, stages=stages)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"stages": [StageConfig(SFT(), Until(tokens=9)), StageConfig()]}, r"stage 1 \(sft\).*stages.0.until.steps$"),
        ({"method": Auto()}, r"stage 1 \(sft\), which is not known; set the schedule to constant$"),
    ],
)
def test_a_schedule_needs_the_steps_of_every_stage(tmp_path: Path, plan, message):
    with pytest.raises(InputError, match=f"training.schedule: cosine needs the number of steps of {message}"):
        make(tmp_path, schedule="cosine", **plan)
    stages_of(GRAO(), [StageConfig(SFT(), Until(steps=9, tokens=9)), StageConfig(until=Until(tokens=9))], "cosine")


def test_stages_and_a_method_are_not_both_taken(tmp_path: Path):
    with pytest.raises(InputError, match="method: grpo and stages are both given; leave one out"):
        make(tmp_path, method=GRPO(), stages=staged(GRAO()))


def test_what_is_not_said_of_auto_is_as_it_was_tested():
    assert load_recipe(
        None, values=[*RECIPE.items(), ("method.name", "auto"), ("method.imitation.every", 10)]
    ).method == (Auto(imitation=Imitation(every=10)))


def test_too_few_prompts_to_keep_any_away_are_refused(tmp_path: Path):
    training, rollout = TrainingConfig(trainer={"use_cpu": True}), RolloutConfig(max_new_tokens=6)
    config = GRAOConfig(output_dir=tmp_path, method=Auto(), training=training, rollout=rollout)
    with pytest.raises(InputError, match="3 training prompts are too few to keep some for looks"):
        GRAOTrainer(tiny_model(), vowels, config, PAIRS[:3], processing_class=letter_tokenizer())


def test_a_stage_that_nothing_ends_is_refused():
    with pytest.raises(InputError, match="is empty; give steps, tokens, share or peak"):
        Until()


def test_what_a_stage_handed_over_must_still_be_there(tmp_path: Path):
    make(tmp_path, stages=staged(GRPO()), save_every=1).train()
    shutil.rmtree(tmp_path / "stages")
    again = make(tmp_path, stages=staged(GRPO()), save_every=1)
    with pytest.raises(InputError, match="stages/1-sft is missing, but the run resumes from it"):
        again.train(resume_from_checkpoint=True)
