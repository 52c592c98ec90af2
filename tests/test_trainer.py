import json
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from peft import LoraConfig
from transformers import AutoModelForCausalLM, GenerationConfig, TrainerCallback

from forked import together
from grao import GRAOConfig, GRAOTrainer, InputError, RolloutConfig, TrainingConfig
from grao.core import group_advantages, sequence_weights, weighted_likelihood_loss
from grao.engine.packed import PackedEngine
from grao.engine.padded import completion_likelihood
from grao.methods.base import StepGroups
from grao.methods.grao import GRAO
from grao.records.run import read_items, read_metrics
from grao.records.samples import Sample, SampledGroup, append_group, keep_groups_until, read_groups
from grao.training.accumulate import accumulate_gradient
from grao.types import PerAnswer
from tiny import END, LETTERS, gradients, letter_tokenizer, relative_gap, saved_model, tiny_model

ROWS = [
    {"prompt": f"say {word}", "reference": f"{word} it is"} for word in ("one", "two", "three", "four", "five", "six")
]
pytestmark = pytest.mark.filterwarnings("ignore:.*learning_rate.*hardly move")


def vowels(completions, **_):
    """More of the letters a and e, and not only them."""
    return [sum(letter in "ae" for letter in text) / (1 + len(text)) for text in completions]


def config(folder: Path, **training) -> GRAOConfig:
    training = {"steps": 4, "prompts_per_step": 3, "learning_rate": 1e-2, "trainer": {"use_cpu": True}} | training
    return GRAOConfig(
        output_dir=folder,
        rollout=RolloutConfig(group_size=4, temperature=1.0, max_new_tokens=8),
        training=TrainingConfig(**training),
    )


def make(folder: Path, model=None, reward=vowels, rows=ROWS, **training) -> GRAOTrainer:
    model = tiny_model() if model is None else model
    return GRAOTrainer(model, reward, config(folder, **training), rows, processing_class=letter_tokenizer())


def weights_of(model) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def test_training_raises_the_reward(tmp_path: Path):
    trainer = make(tmp_path, steps=30, prompts_per_step=6)
    with pytest.warns(UserWarning, match="entropy has fallen|repeat themselves"):  # vowels and nothing else
        trainer.train()
    rewards = [step["reward/mean"] for step in read_metrics(tmp_path)]
    assert len(rewards) == 30
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.1


@pytest.mark.parametrize("budget", [1, 25, 64, 10_000])
@pytest.mark.parametrize("kind", ["llama", "moe"])
def test_the_token_budget_changes_no_gradient(tmp_path: Path, budget: int, kind: str):
    trainer = make(tmp_path, tiny_model(kind))
    update = trainer.source.update(0)
    experience, model = update.experience, trainer.model
    rewards = experience.rewards.total
    weights = sequence_weights(group_advantages(rewards, torch.zeros(3).double()))
    plain = torch.zeros(())
    for row, group in enumerate(experience.groups):
        answers = [answer.ids for answer in group.answers]
        flat = torch.cat([weights.completions[row], weights.reference[row : row + 1]]).float()
        mean = completion_likelihood(model, [group.item.prompt_ids] * 5, answers).mean
        plain = plain + weighted_likelihood_loss(flat, mean, 3)
    model.zero_grad()
    plain.backward()
    expected = gradients(model)
    model.zero_grad()
    seen = accumulate_gradient(model, update, Accelerator(cpu=True), trainer.engine, budget)
    assert seen.loss.item() == pytest.approx(plain.item(), abs=1e-6)
    assert relative_gap(gradients(model), expected) < 1e-5


@pytest.mark.filterwarnings("ignore:the reward .* scores every answer")
def test_a_step_without_signal_leaves_the_model_alone(tmp_path: Path):
    trainer = make(tmp_path, reward=lambda completions: [1.0] * len(completions), steps=2)
    before = weights_of(trainer.model)
    trainer.train()
    assert all(torch.equal(before[name], value) for name, value in weights_of(trainer.model).items())
    steps = read_metrics(tmp_path)
    assert [step["groups/no_signal"] for step in steps] == [1.0, 1.0]
    assert [step["tokens/trained"] for step in steps] == [0.0, 0.0]
    assert "entropy" not in steps[0]


def test_the_metrics_are_those_of_the_samples(tmp_path: Path):
    trainer = make(tmp_path, steps=1)
    update = trainer.source.update(0)
    trainer.train()
    (step,) = read_metrics(tmp_path)
    total = update.experience.rewards.total
    assert step["reward/mean"] == pytest.approx(total.mean().item())
    assert step["verdict/win"] == pytest.approx((total > 0).double().mean().item())
    assert step["verdict/win"] + step["verdict/tie"] + step["verdict/loss"] == pytest.approx(1)
    assert step["reward/std"] == pytest.approx(total.std(dim=1, correction=0).mean().item())
    completions = [sample for group in update.experience.groups for sample in group.samples]
    assert step["completion/tokens"] == pytest.approx(sum(len(c.ids) for c in completions) / 12)
    assert step["completion/truncated"] == pytest.approx(sum(c.truncated for c in completions) / 12)
    assert step["terms_share/exploration"] + step["terms_share/imitation"] + step[
        "terms_share/regulariser"
    ] == pytest.approx(1)
    assert step["terms/exploration"] + step["terms/imitation"] + step["terms/regulariser"] == pytest.approx(
        -step["loss"], abs=1e-5
    )
    weights = update.experience.weighted.weights.reference
    assert step["reference_weight/mean"] == pytest.approx(weights.mean().item())
    assert step["reference_weight/negative"] == pytest.approx((weights < 0).double().mean().item())
    assert step["tokens/sampled"] == sum(len(c.ids) for c in completions)


def test_the_gap_between_sampler_and_trainer_is_logged(tmp_path: Path):
    make(tmp_path, steps=2).train()
    assert all(0 <= line["sampler/gap"] < 1e-5 for line in read_metrics(tmp_path))  # one model, so rounding alone


def test_samples_follow_from_seed_and_step_alone(tmp_path: Path):
    one, other = make(tmp_path / "a"), make(tmp_path / "b")
    assert one.source.update(3).batch == other.source.update(3).batch
    assert one.source.update(2).batch != one.source.update(3).batch
    texts = [group.texts for group in one.source.update(3).experience.groups]
    one.source.seed = 1
    assert [group.texts for group in one.source.update(3).experience.groups] != texts


def test_every_epoch_takes_every_prompt_once(tmp_path: Path):
    source = make(tmp_path, rows=[*ROWS, {"prompt": "say seven", "reference": "seven it is"}]).source
    drawn = [draw for step in range(7) for draw in source.draws(step)]  # 21 draws, 3 epochs of 7
    for epoch in range(3):
        assert sorted(index for e, index in drawn if e == epoch) == list(range(7))
    assert [i for e, i in drawn if e == 0] != [i for e, i in drawn if e == 1]


def test_processes_share_the_prompts_of_a_step(tmp_path: Path):
    source = make(tmp_path).source
    whole = source.update(1)
    parts = []
    for process in range(2):
        source.process, source.processes = process, 2
        parts.append(source.update(1))
    texts = {group.item.example.prompt: group.texts for part in parts for group in part.experience.groups}
    assert texts == {group.item.example.prompt: group.texts for group in whole.experience.groups}


def test_resuming_is_as_if_it_had_never_stopped(tmp_path: Path):
    whole = make(tmp_path / "whole", steps=4, save_every=2)
    whole.train()
    half = make(tmp_path / "half", steps=4, save_every=2)
    half.train()
    again = make(tmp_path / "half", steps=4, save_every=2)
    again.train(resume_from_checkpoint=str(tmp_path / "half" / "checkpoints" / "checkpoint-2"))
    for name, value in weights_of(whole.model).items():
        assert torch.equal(value, weights_of(again.model)[name]), name
    timeless = [
        [
            {k: v for k, v in step.items() if not k.startswith(("seconds", "speed"))}
            for step in read_metrics(tmp_path / run)
        ]
        for run in ("whole", "half")
    ]
    assert timeless[0] == timeless[1]
    assert [step["step"] for step in timeless[1]] == [1, 2, 3, 4]


def test_another_run_in_the_folder_is_not_touched(tmp_path: Path):
    make(tmp_path, steps=1).train()
    before = (tmp_path / "metrics.jsonl").read_text()
    with pytest.raises(InputError, match="already holds another run"):
        make(tmp_path, steps=1).train()
    assert (tmp_path / "metrics.jsonl").read_text() == before


def test_an_adapter_is_all_that_changes_and_loads_again(tmp_path: Path):
    base = saved_model(tmp_path / "base")
    adapter = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    training = config(tmp_path / "run", measure_kl=True)
    trainer = GRAOTrainer(str(base), vowels, training, ROWS, peft_config=adapter)
    frozen = {name: value for name, value in weights_of(trainer.model).items() if "lora" not in name}
    trainer.train()
    now = weights_of(trainer.model)
    assert all(torch.equal(value, now[name]) for name, value in frozen.items())
    kl = [step["kl"] for step in read_metrics(tmp_path / "run")]
    assert kl[0] == pytest.approx(0, abs=1e-6)
    assert kl[-1] > 1e-4
    trainer.save_model(str(tmp_path / "saved"))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "saved").eval()
    ids = torch.tensor([[5, 6, 7]])
    trainer.model.eval()
    torch.testing.assert_close(loaded(input_ids=ids).logits, trainer.model(input_ids=ids).logits)


def test_the_kl_to_the_starting_model(tmp_path: Path):
    trainer = make(tmp_path, measure_kl=True, steps=5)
    trainer.train()
    kl = [step["kl"] for step in read_metrics(tmp_path)]
    assert kl[0] == pytest.approx(0, abs=1e-6)
    assert kl[-1] > kl[0]


def test_the_saved_model_keeps_its_stop_tokens(tmp_path: Path):
    model = tiny_model()
    model.generation_config = GenerationConfig(eos_token_id=[7, END], pad_token_id=0)
    trainer = make(tmp_path, model, steps=1)
    assert set(trainer.stop_ids) == {7, END}
    trainer.train()
    trainer.save_model(str(tmp_path / "model"))
    assert set(GenerationConfig.from_pretrained(tmp_path / "model").eos_token_id) >= {7, END}
    assert (tmp_path / "model" / "model.safetensors").exists()


def test_truncated_samples_can_be_left_out_of_the_update(tmp_path: Path):
    trainer = make(tmp_path / "a")
    with_all, without = trainer.source.update(0), make(tmp_path / "b", drop_truncated=True).source.update(0)
    cut = {
        (row, member)
        for row, group in enumerate(with_all.experience.groups)
        for member, sample in enumerate(group.samples)
        if sample.truncated
    }
    assert cut & set(with_all.positions)
    assert set(without.positions) == set(with_all.positions) - cut


def test_missing_rewards_leave_their_group(tmp_path: Path):
    def sometimes(completions):
        return [None if place % 5 == 1 else value for place, value in enumerate(vowels(completions))]

    trainer = make(tmp_path, reward=sometimes, steps=1)
    update = trainer.source.update(0)
    assert not {(row, 1) for row in range(3)} & set(update.positions)
    trainer.train()
    assert read_metrics(tmp_path)[0]["reward/missing"] == pytest.approx(0.25)


def test_evaluate_gives_shares_over_the_reference(tmp_path: Path):
    trainer = GRAOTrainer(
        tiny_model(), vowels, config(tmp_path), ROWS, eval_dataset=ROWS[:4], processing_class=letter_tokenizer()
    )
    metrics = trainer.evaluate()
    assert metrics["eval_win"] + metrics["eval_tie"] + metrics["eval_lose"] == pytest.approx(1)
    assert metrics == trainer.evaluate()
    with pytest.raises(InputError, match="eval_dataset is missing"):
        make(tmp_path).evaluate()


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"max_step": 3}, "training.trainer.max_step is unknown; did you mean max_steps"),
        ({"learning_rate": 3}, "set by training.learning_rate"),
        ({"utter_nonsense": 3}, "transformers.TrainingArguments has no such field"),
        ({"optim": "sgdd"}, "training.trainer.optim: .*sgdd"),
    ],
)
def test_wrong_trainer_fields_are_named(tmp_path: Path, extra: dict, message: str):
    with pytest.raises(InputError, match=message) as caught:
        make(tmp_path, trainer={"use_cpu": True, **extra})
    assert not str(caught.value).startswith("training.trainer: training.trainer")


@pytest.mark.filterwarnings("default:.*learning_rate.*hardly move")
def test_a_rate_for_large_models_is_warned_of(tmp_path: Path):
    with pytest.warns(UserWarning, match=r"learning_rate 1e-06 .* 0.001 is usual"):
        make(tmp_path, learning_rate=1e-6)


def test_rows_without_what_is_needed_are_named(tmp_path: Path):
    with pytest.raises(InputError, match="reference"):
        make(tmp_path, rows=[{"prompt": "x"}])
    with pytest.raises(InputError, match="row 2"):
        make(tmp_path, rows=[{"prompt": "x", "reference": "y"}, {"prompt": "x", "reference": ""}])


def test_two_processes_are_one(tmp_path: Path):
    def train() -> None:
        trainer = make(tmp_path / "2", prompts_per_step=5, token_budget=40)
        trainer.train()
        if trainer.is_world_process_zero():
            torch.save(weights_of(trainer.model), tmp_path / "2" / "weights.pt")
        torch.distributed.barrier()  # a process that leaves early takes the others' connections with it

    together(2, train)
    trainer = make(tmp_path / "1", prompts_per_step=5, token_budget=40)
    trainer.train()
    one, two = weights_of(trainer.model), torch.load(tmp_path / "2" / "weights.pt")
    assert relative_gap(one, two) < 1e-5
    logs = [
        [json.loads(line) for line in (tmp_path / f"{n}" / "metrics.jsonl").read_text().splitlines()] for n in (1, 2)
    ]
    for alone, shared in zip(*logs, strict=True):
        for name in alone:
            if not name.startswith(("seconds", "speed")):
                assert shared[name] == pytest.approx(alone[name], rel=1e-3, abs=1e-5), name


def test_when_memory_runs_out_the_token_budget_is_halved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    expected = make(tmp_path / "plenty")
    expected.train()
    run = PackedEngine.run

    def no_room(engine, model, batch, loss=None):
        if len(batch.answers) > 8:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return run(engine, model, batch, loss)

    short = make(tmp_path / "short", token_budget=120)
    monkeypatch.setattr(PackedEngine, "run", no_room)
    with pytest.warns(UserWarning, match=r"out of memory: training\.token_budget is halved to 60 from here on"):
        short.train()
    assert relative_gap(weights_of(short.model), weights_of(expected.model)) < 1e-5
    hopeless = make(tmp_path / "hopeless", token_budget=2)

    def never(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(PackedEngine, "run", never)
    with (
        pytest.warns(UserWarning, match="is halved to 1 "),
        pytest.raises(InputError, match=r"training\.token_budget 1;"),
    ):
        hopeless.train()


def test_speed_and_operations_are_logged(tmp_path: Path):
    trainer = make(tmp_path, steps=2)
    trainer.train()
    for step in read_metrics(tmp_path):
        assert step["speed/rollout"] == pytest.approx(step["tokens/sampled"] / step["seconds/rollout"])
        assert step["speed/update"] == pytest.approx(step["tokens/trained"] / step["seconds/update"])
        assert 0 < step["speed/utilisation"] < 1
        assert step["flops/rollout"] > 2 * step["tokens/sampled"] * 32 * len(LETTERS)


def test_what_does_not_fit_into_the_model_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match=r"max_new_tokens is 250 and the longest prompt has 9 tokens.* 256 positions"):
        GRAOTrainer(
            tiny_model(),
            vowels,
            GRAOConfig(output_dir=tmp_path, rollout=RolloutConfig(max_new_tokens=250)),
            ROWS,
            processing_class=letter_tokenizer(),
        )
    long = {"prompt": "say much", "reference": "much " * 60}
    trainer = make(tmp_path, rows=[*ROWS, long])
    assert len(trainer.train_items.items) == len(ROWS)
    assert trainer.train_items.dropped == 1
    with pytest.raises(InputError, match="every prompt with its reference is longer than the model's 256 positions"):
        make(tmp_path, rows=[long])


def test_steps_that_half_precision_would_round_away_are_warned_of(tmp_path: Path):
    with pytest.warns(UserWarning, match="lost to rounding in"):
        make(tmp_path, tiny_model().to(torch.bfloat16), learning_rate=1e-5)


def test_evaluations_during_training_leave_the_training_lines_alone(tmp_path: Path):
    settings = config(
        tmp_path, trainer={"use_cpu": True, "logging_steps": 2, "eval_strategy": "steps", "eval_steps": 1}
    )
    trainer = GRAOTrainer(
        tiny_model(), vowels, settings, ROWS, eval_dataset=ROWS[:2], processing_class=letter_tokenizer()
    )
    every = [trainer.source.update(step).experience.rewards.total.mean().item() for step in range(1)]
    trainer.train()
    lines = read_metrics(tmp_path)
    assert [line["step"] for line in lines] == [1, 2, 4]
    assert lines[0]["reward/mean"] == pytest.approx(every[0])
    assert all("eval_win" not in line and "entropy" in line for line in lines)
    with pytest.raises(InputError, match="eval_strategy"):
        make(tmp_path / "other", trainer={"use_cpu": True, "eval_strategy": "steps", "eval_steps": 1})


ONES = PerAnswer(torch.ones(1, 4), torch.ones(1), torch.ones(1))


def test_a_reference_that_is_kept_out_has_no_share_of_the_weights():
    method = GRAO(sign="positive")
    weighted = method.weigh(StepGroups(torch.ones(1, 4).double(), ONES, 1.0, 0, 4.0, 1))  # all win: A_y is -2
    report = method.report(weighted, PerAnswer.of(torch.zeros(1, 4).double()))
    assert report["weight_size/imitation"].item() == 0
    assert report["weight_size/regulariser"].item() == pytest.approx(0.6 * 0.5)
    assert report["weight_size/exploration"].item() == pytest.approx(0.5)


def test_the_token_that_ends_an_answer_is_not_part_of_its_text(tmp_path: Path):
    model = tiny_model()
    model.generation_config.eos_token_id = [END, 3]  # 3 is the letter a, no special token
    trainer = make(tmp_path, model)
    groups = trainer.source.update(0).experience.groups
    ended = [sample for group in groups for sample in group.samples if not sample.truncated]
    assert ended
    assert all(len(sample.text) == len(sample.ids) - 1 for sample in ended)


def test_an_evaluation_of_a_script_is_kept_and_overwrites_no_other(tmp_path: Path):
    def whole(completions, **_):
        return [None if silent else len(set(text)) for text in completions]

    def script(folder: Path) -> GRAOTrainer:
        every = {"drop_truncated": True, "sample_every": 1, "trainer": {"use_cpu": True, "eval_strategy": "steps"}}
        settings = config(folder, steps=2, **every)
        return GRAOTrainer(tiny_model(), whole, settings, ROWS, ROWS[:3], processing_class=letter_tokenizer())

    silent, trainer = False, script(tmp_path / "run")
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    assert "eval_nag" in after.keys() - before.keys()
    assert [list(item.answers) for item in read_items(tmp_path / "run")] == [["before", "after"]] * 3
    for group in read_groups(tmp_path / "run"):
        assert all(sample.weight == 0 for sample in group.samples if sample.truncated)
    with pytest.raises(InputError, match="already holds another run or evaluation"):
        script(tmp_path / "run").evaluate()

    stopped = script(tmp_path / "stopped")
    stopped.add_callback(type("Stop", (TrainerCallback,), {"on_step_end": lambda *_, **__: 1 / 0})())
    with pytest.raises(ZeroDivisionError):
        stopped.train()
    assert "eval_ras" in stopped.evaluate()  # not as within a training
    silent = True
    with pytest.raises(InputError, match="for all 3 answers"):
        script(tmp_path / "silent").evaluate()


def test_a_torn_first_sample_does_no_harm(tmp_path: Path):
    (tmp_path / "samples.jsonl").write_text('{"id": "p')
    keep_groups_until(tmp_path, 0)
    append_group(tmp_path, SampledGroup("p", "say", "it is", 1, [Sample("a", 1, False, float("nan"), 0.5)], 0.1))
    assert [group.samples[0].reward for group in read_groups(tmp_path)] == [None]
