"""NaN and infinity in weights, gradients, losses and logits: said in one line, and nothing of it is saved."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaForSequenceClassification, LlamaModel, TrainerCallback

from forked import together
from grao import DataConfig, GRAOConfig, GRAOTrainer, InputError, RolloutConfig, TrainingConfig
from grao.cli.main import main
from grao.config.recipe import BackboneConfig, PairsConfig, RewardModelRecipe, RewardTrainingConfig
from grao.engine.loading import load_encoder, load_model, load_reward_model, new_reward_model
from grao.errors import BrokenNumbersError
from grao.methods.auto import Auto, Imitation
from grao.methods.chord import CHORDMu, CHORDPhi
from grao.methods.dpo import DPO
from grao.methods.grao import GRAO
from grao.methods.grpo import GRPO
from grao.methods.hpt import HPT
from grao.methods.luffy import LUFFY
from grao.methods.ppo import PPO
from grao.methods.sft import SFT
from grao.methods.srft import SRFT
from grao.rewards.judge.local import LocalJudge
from grao.rewards.judge.wording import Template
from grao.rewards.model import EmbeddingSimilarity, RewardModel
from grao.rollouts.base import Sampling
from grao.rollouts.sampling import draw_tokens
from grao.rollouts.transformers import TransformersGenerator
from grao.studies.reward_model import train_reward_model
from test_trainer import ROWS, vowels, weights_of
from tiny import letter_tokenizer, relative_gap, saved_model, tiny_model

PAIRS = [{**row, "rejected": f"no, {row['prompt']}"} for row in ROWS]
METHODS = {
    "sft": SFT(), "dpo": DPO(), "grao": GRAO(), "grpo": GRPO(updates=2), "ppo": PPO(updates=2), "luffy": LUFFY(),
    "chord-mu": CHORDMu(), "chord-phi": CHORDPhi(), "hpt": HPT(), "srft": SRFT(),
    "auto": Auto(imitation=Imitation(every=4, prompts=2)),
}  # fmt: skip
pytestmark = pytest.mark.filterwarnings("ignore:.*learning_rate.*hardly move")


def make(folder: Path, method, model=None, callback=None, peft_config=None, **training) -> GRAOTrainer:
    training = {"max_grad_norm": 0, "save_every": 1, "learning_rate": 3e-3, "trainer": {"use_cpu": True}} | training
    config = GRAOConfig(
        output_dir=folder,
        data=DataConfig(path="here", rejected="rejected"),
        rollout=RolloutConfig(group_size=4, temperature=1.0, max_new_tokens=6),
        training=TrainingConfig(steps=4, prompts_per_step=2, **training),
        method=method,
    )
    return GRAOTrainer(
        model or tiny_model(), vowels, config, PAIRS, processing_class=letter_tokenizer(), peft_config=peft_config,
        callbacks=[callback] if callback else None,
    )  # fmt: skip


class Breaks(TrainerCallback):
    """Puts a number into a weight, or into its gradient, at one moment of one step."""

    def __init__(self, step: int, moment: str, number: float = torch.nan, weight: str = "") -> None:
        self.step, self.moment, self.number, self.weight = step, moment, number, weight

    def _parameter(self, model):
        return [p for name, p in model.named_parameters() if p.requires_grad and self.weight in name][-1]

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step + 1 == self.step and self.moment == "gradient":
            self._parameter(model).register_hook(lambda gradient: torch.full_like(gradient, self.number))
        if state.global_step + 1 == self.step and self.moment == "weight":
            with torch.no_grad():
                self._parameter(model).view(-1)[0] = self.number

    def on_step_end(self, args, state, control, model=None, optimizer=None, **kwargs):
        if state.global_step == self.step and self.moment == "after":
            with torch.no_grad():
                self._parameter(model).view(-1)[0] = self.number
        if state.global_step == self.step and self.moment == "optimiser":
            next(iter(optimizer.state.values()))["exp_avg_sq"].view(-1)[0] = self.number


@pytest.mark.parametrize("name", METHODS)
def test_with_every_method_a_broken_step_is_not_applied(tmp_path: Path, name: str):
    trainer = make(tmp_path, METHODS[name], callback=Breaks(3, "weight"))
    with pytest.raises(
        BrokenNumbersError, match=r"^step 3: .* not finite.*last good checkpoint is .*checkpoint-2; if it "
    ) as e:
        trainer.train()
    assert "\n" not in str(e.value)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["checkpoint-1", "checkpoint-2"]
    saved = load_file(tmp_path / "checkpoints" / "checkpoint-2" / "model.safetensors")
    assert all(value.isfinite().all() for value in saved.values())


@pytest.mark.parametrize(
    ("name", "breaks", "message"),
    [
        ("sft", Breaks(2, "gradient"), "step 2: the gradient is not finite; this step"),
        ("grao", Breaks(2, "gradient", torch.inf), "step 2: the gradient is not finite; this step"),
        ("grpo", Breaks(1, "gradient", -torch.inf), "step 1: the gradient is not finite; .* there is no checkpoint"),
        ("ppo", Breaks(2, "weight", weight="value_head"), "step 2: the .* not finite"),
        ("dpo", Breaks(2, "after", torch.inf), r"step 2: the values to save are not finite: .*checkpoint-1"),
        ("grao", Breaks(4, "after"), r"step 4: the values to save are not finite: .*checkpoint-3"),
        ("sft", Breaks(3, "optimiser", torch.inf), r"step 3: the values .*optimizer's exp_avg_sq.*checkpoint-2"),
    ],
)
def test_each_number_is_looked_at_where_it_arises(tmp_path: Path, name: str, breaks: Breaks, message: str):
    trainer = make(tmp_path, METHODS[name], callback=breaks, max_bad_steps=1)
    with pytest.raises(BrokenNumbersError, match=message):
        trainer.train()


def spoil(trainer: GRAOTrainer, what: str, steps: set[int], rank: int | None = None) -> GRAOTrainer:
    """Makes the loss, or the gradient, of some steps no number, on one process or on all."""
    weight = next(weight for weight in trainer.model.parameters() if weight.requires_grad)
    gradient = trainer.learner.gradient

    def now() -> bool:
        return trainer.step in steps and rank in (None, trainer.args.process_index)

    def learned(*arguments):
        seen = gradient(*arguments)
        return replace(seen, loss=seen.loss * torch.nan) if now() else seen

    if what == "loss":
        trainer.learner.gradient = learned
    else:
        weight.register_hook(lambda gradient: gradient * torch.nan if now() else gradient)
    return trainer


def saved(folder: Path, step: int) -> dict[str, torch.Tensor]:
    """Weights and optimiser of a checkpoint."""
    files = sorted((folder / "checkpoints" / f"checkpoint-{step}").glob("*.safetensors"))
    return {f"{file.name} {name}": value for file in files for name, value in load_file(file).items()}


@pytest.mark.parametrize("what", ["loss", "gradient"])
@pytest.mark.parametrize("name", ["sft", "grao", "ppo"])
def test_a_broken_step_is_left_out(tmp_path: Path, name: str, what: str):
    trainer = spoil(make(tmp_path, METHODS[name], schedule="linear", max_grad_norm=1.0), what, {2})
    with pytest.warns(UserWarning, match=rf"^step 2: the {what} is not finite; the step is skipped$"):
        trainer.train()
    assert trainer.state.global_step == 4
    one, two, three = (saved(tmp_path, step) for step in (1, 2, 3))
    assert relative_gap(one, two) == 0
    assert relative_gap(two, three) > 0
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line.get("bad_steps") for line in lines] == [None, 1, None, None]
    assert [line["learning_rate"] for line in lines] == pytest.approx([3e-3 * left for left in (1, 0.75, 0.75, 0.5)])
    assert "grad_norm" not in lines[1]
    assert ("loss" in lines[1]) == (what == "gradient")
    assert None not in lines[1].values()
    assert all(torch.isfinite(torch.tensor(list(line.values()))).all() for line in trainer.state.log_history)


def test_several_in_a_row_end_the_training(tmp_path: Path):
    trainer = spoil(make(tmp_path / "row", METHODS["grao"]), "gradient", {2, 3, 4})
    with (
        pytest.warns(UserWarning, match=r"step [23]: .* the step is skipped"),
        pytest.raises(BrokenNumbersError, match=r"^step 4: the gradient is not finite, 3 steps in a row; .*-3;"),
    ):
        trainer.train()
    assert relative_gap(saved(tmp_path / "row", 1), saved(tmp_path / "row", 3)) == 0
    trainer = spoil(make(tmp_path / "no-row", METHODS["grao"], max_bad_steps=2), "loss", {1, 3})
    with pytest.warns(UserWarning, match="the step is skipped"):
        trainer.train()


def test_a_row_goes_on_after_an_interruption(tmp_path: Path):
    with pytest.warns(UserWarning, match="the step is skipped"):
        spoil(make(tmp_path, METHODS["sft"]), "gradient", {3, 4}).train()
    again = spoil(make(tmp_path, METHODS["sft"]), "gradient", {4})
    chosen = str(tmp_path / "checkpoints" / "checkpoint-3")
    again.max_bad_steps = 2
    with pytest.raises(BrokenNumbersError, match="step 4: the gradient is not finite, 2 steps in a row"):
        again.train(resume_from_checkpoint=chosen)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_of_two_processes_both_leave_it_out(tmp_path: Path, what: str):
    def train() -> None:
        trainer = spoil(make(tmp_path, METHODS["ppo"]), what, {2}, rank=1)
        trainer.train()
        weights = torch.cat([weight.flatten() for weight in trainer.model.parameters()])
        everywhere = [torch.empty_like(weights) for _ in range(2)]
        torch.distributed.all_gather(everywhere, weights.detach())
        assert torch.equal(*everywhere)

    together(2, train)
    assert relative_gap(saved(tmp_path, 1), saved(tmp_path, 2)) == 0
    assert relative_gap(saved(tmp_path, 2), saved(tmp_path, 3)) > 0


@pytest.mark.parametrize("what", ["loss", "gradient"])
@pytest.mark.parametrize("name", ["sft", "ppo"])
def test_with_a_loss_scale_too(tmp_path: Path, name: str, what: str):
    trainer = spoil(make(tmp_path, METHODS[name], schedule="linear"), what, {2})
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=0.5)
    with pytest.warns(UserWarning, match="step 2: .* the step is skipped"):
        trainer.train()
    assert relative_gap(saved(tmp_path, 1), saved(tmp_path, 2)) == 0
    assert relative_gap(saved(tmp_path, 2), saved(tmp_path, 3)) > 0
    assert trainer.accelerator.scaler.get_scale() < 0.5
    assert trainer.lr_scheduler.last_epoch == 3


def test_a_loss_scale_may_overflow_until_it_is_used_up(tmp_path: Path):
    trainer = make(tmp_path, METHODS["sft"], max_bad_steps=1)
    scale = [65536.0]
    trainer.accelerator.scaler = SimpleNamespace(get_scale=lambda: scale[0])
    assert trainer._get_grad_norm(trainer.model, torch.tensor(torch.inf)) == torch.inf
    scale[0] = 0.5
    with pytest.raises(BrokenNumbersError, match="the gradient is not finite"):
        trainer._get_grad_norm(trainer.model, torch.tensor(torch.inf))


@pytest.mark.parametrize("name", ["grpo", "ppo"])
def test_after_it_the_run_goes_on_as_if_nothing_had_been(tmp_path: Path, name: str):
    lora = LoraConfig(r=2, target_modules="all-linear") if name == "grpo" else None
    whole = make(tmp_path / "whole", METHODS[name], peft_config=lora)
    whole.train()
    with pytest.raises(BrokenNumbersError):
        make(tmp_path / "run", METHODS[name], callback=Breaks(3, "gradient"), peft_config=lora, max_bad_steps=1).train()
    again = make(tmp_path / "run", METHODS[name], peft_config=lora)
    again.train(resume_from_checkpoint=True)
    assert relative_gap(weights_of(again.model), weights_of(whole.model)) == 0


def poisoned(folder: Path, weight: str, number: float) -> str:
    """The folder of a model, one number of which is another one now."""
    file = folder / "model.safetensors"
    tensors = {name: value.clone() for name, value in load_file(file).items()}
    tensors[next(name for name in tensors if weight in name)].view(-1)[-1] = number
    save_file(tensors, file, metadata={"format": "pt"})
    return str(folder)


def classifier(folder: Path) -> Path:
    config = tiny_model().config
    config.num_labels = 1
    LlamaForSequenceClassification(config).save_pretrained(folder)
    letter_tokenizer().save_pretrained(folder)
    return folder


def encoder(folder: Path) -> Path:
    LlamaModel(tiny_model().config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("kind", "load", "weight", "number"),
    [
        (saved_model, load_model, "embed_tokens", torch.nan),
        (saved_model, load_model, "norm", torch.inf),
        (saved_model, lambda path: load_model(path, dtype="bfloat16"), "down_proj", -torch.inf),
        (saved_model, new_reward_model, "q_proj", torch.nan),
        (classifier, load_reward_model, "score", torch.nan),
        (classifier, RewardModel.load, "k_proj", torch.inf),
        (encoder, load_encoder, "layernorm", torch.nan),
    ],
)
def test_a_model_with_a_broken_weight_is_refused(tmp_path: Path, kind, load, weight: str, number: float):
    path = poisoned(kind(tmp_path / "model"), weight, number)
    with pytest.raises(InputError, match=rf"model.path: .*{weight}.* holds NaN or infinity"):
        load(path)


def test_an_object_with_a_broken_weight_is_refused(tmp_path: Path):
    model = tiny_model()
    policy = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear"))
    with torch.no_grad():
        next(p for name, p in policy.named_parameters() if "lora_B" in name)[0, 0] = torch.nan
    with pytest.raises(InputError, match=r"model: the weight .*lora_B.* holds NaN"):
        make(tmp_path, GRAO(), policy)
    with pytest.raises(InputError, match=r"judge .*: the weight .*lora_B.* holds NaN"):
        LocalJudge(policy, letter_tokenizer(), Template("short", "{context} {text_1} {text_2}"))
    with pytest.raises(InputError, match=r"reward embedding: the weight .*lora_B.* holds NaN"):
        EmbeddingSimilarity(policy, letter_tokenizer())


@pytest.mark.parametrize("load", [load_model, new_reward_model, load_encoder])
@pytest.mark.parametrize("weight", ["up_proj", "layers.1.input_layernorm"])
def test_a_model_that_lacks_a_weight_is_refused(tmp_path: Path, load, weight: str):
    folder = saved_model(tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    del tensors[next(name for name in tensors if weight in name)]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=rf"model\.path: .* lacks the weight .*{weight}"):
        load(str(folder))


def test_a_language_model_is_not_made_from_another_kind(tmp_path: Path):
    with pytest.raises(InputError, match=r"lacks the weight lm_head\.weight, which would be random"):
        load_model(str(classifier(tmp_path / "model")))
    tied = tiny_model("gpt2")
    tied.save_pretrained(tmp_path / "tied")
    assert load_model(str(tmp_path / "tied")).lm_head.weight is not None


LOGITS = torch.tensor([0.0, 1.0, 2.0, -1.0])


@pytest.mark.parametrize("top_p", [0.9, 1.0])
@pytest.mark.parametrize("number", [torch.nan, torch.inf, -torch.inf])
def test_a_drawn_token_is_always_one_of_the_vocabulary(number: float, top_p: float):
    logits = torch.stack([LOGITS, LOGITS.index_fill(0, torch.tensor([1]), number), torch.full((4,), number)])
    tokens = draw_tokens(logits, torch.tensor([0.99, 0.99, 0.99], dtype=torch.float64), 0.7, top_p)
    assert ((tokens >= 0) & (tokens < 4)).all()


def test_impossible_tokens_are_no_broken_logits():
    model = tiny_model()
    with torch.no_grad():
        model.lm_head.bias = torch.nn.Parameter(torch.zeros(model.config.vocab_size))
        model.lm_head.bias[5] = -torch.inf
    generator, sampling = TransformersGenerator(model, [1]), Sampling(2, 1.0, 1.0, 5)
    answers = [answer for _, group in generator.generate([(3, 4)], [0], sampling) for answer in group]
    assert all(5 not in answer.ids for answer in answers)
    with torch.no_grad():
        model.lm_head.bias[5] = torch.inf
    with pytest.raises(BrokenNumbersError, match="logits are not finite"):
        list(generator.generate([(3, 4)], [0], sampling))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    saved_model(tmp_path / "model")
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("method", ["grao", "sft", "ppo"])
def test_the_command_says_it_in_one_line(place: Path, capsys, method: str):
    words = "train --model.path model --data.path data.jsonl --data.held_out 2 --rewards.0.rule.length.target 9 "
    words += "--rollout.max_new_tokens 6 --rollout.group_size 2 --training.steps 5 --training.prompts_per_step 2 "
    words += "--training.max_grad_norm 0 --training.learning_rate 1e30 --training.trainer.use_cpu true --output run "
    assert main([*words.split(), "--method.name", method]) == 4
    err = capsys.readouterr().err.strip().splitlines()[-1]
    assert err.startswith("error: step ")
    assert "not finite" in err
    assert err.endswith("continue with: grao train --resume run")
    assert not (place / "run" / "model").exists()
    assert json.loads((place / "run" / "manifest.json").read_text())["status"] == "failed"


def test_a_reward_model_that_breaks_in_training_is_not_written(place: Path, screen):
    recipe = RewardModelRecipe(
        model=BackboneConfig(path="model"),
        data=PairsConfig(path="data.jsonl", reference="reference", held_out=2),
        output=place / "reward",
        training=RewardTrainingConfig(steps=3, pairs_per_step=2, learning_rate=1e30, trainer={"logging_steps": 1}),
    )
    with pytest.raises(InputError, match=r"step \d: the gradient is not finite; lower training.learning_rate"):
        train_reward_model(recipe, screen)
    assert not (place / "reward").exists()
