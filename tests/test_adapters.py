"""Adapters as input: they go on, or are merged, or are refused; a bare base is never trained in their place."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, LlamaForSequenceClassification

from grao import DataConfig, GRAOTrainer, InputError
from grao.config.load import load_config, load_recipe
from grao.config.recipe import RewardModelRecipe
from grao.engine.loading import load_encoder, load_model, load_reward_model, load_tokenizer
from grao.methods.dpo import DPO
from grao.methods.grpo import GRPO
from grao.methods.ppo import PPO
from grao.records.run import read_metrics, update_manifest
from grao.studies.evaluate import evaluate_recipe, evaluate_run
from grao.studies.prepare import prepare
from grao.studies.reward_model import train_reward_model
from grao.studies.train import resume_run, start_run
from grao.training.state import load_weights
from test_method_runs import PAIRS
from test_trainer import ROWS, config, vowels, weights_of
from tiny import letter_tokenizer, saved_model, tiny_model

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*learning_rate.*hardly move", "ignore:.*it is trained further", "ignore:.*merged"
)

LORA = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
IDS = torch.tensor([[5, 6, 7, 8]])


def saved_adapter(folder: Path, base: Path, peft=None, tokenizer: bool = True, auto=AutoModelForCausalLM) -> Path:
    """An adapter that changes what its base says."""
    torch.manual_seed(1)
    model = get_peft_model(auto.from_pretrained(base), peft or LoraConfig(**LORA))
    for name, weight in model.named_parameters():
        if weight.requires_grad and "lora_A" not in name:
            torch.nn.init.normal_(weight, std=0.3)
    model.save_pretrained(folder)
    if tokenizer:
        letter_tokenizer().save_pretrained(folder)
    return folder


def logits_of(model) -> torch.Tensor:
    return model.eval()(input_ids=IDS).logits.detach()


def plainly(folder: Path) -> torch.Tensor:
    """What peft itself makes of an adapter folder."""
    base = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    return logits_of(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with base, adapter, data and reward, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    saved_adapter(tmp_path / "adapter", saved_model(tmp_path / "base"))
    (tmp_path / "data.jsonl").write_text("".join(json.dumps({**row, "worse": "no"}) + "\n" for row in ROWS * 4))
    (tmp_path / "rewards.py").write_text(
        "def vowels(completions):\n    return [sum(letter in 'ae' for letter in text) for text in completions]\n"
    )
    return tmp_path


def recipe(**values: str):
    settings = {
        "data.path": "data.jsonl", "data.held_out": "2", "rewards.0.function": "rewards.py:vowels", "output": "run",
        "rollout.group_size": "3", "rollout.max_new_tokens": "6", "training.steps": "2",
        "training.prompts_per_step": "2", "training.learning_rate": "0.01", "model.path": "adapter",
    }  # fmt: skip
    return load_recipe(None, [*(settings | values).items()])


def trainer(folder: Path, model, peft_config=None, **training) -> GRAOTrainer:
    settings = config(folder, **training)
    return GRAOTrainer(model, vowels, settings, ROWS, processing_class=letter_tokenizer(), peft_config=peft_config)


def test_an_adapter_goes_on_training(place: Path, screen):
    start_run(recipe(), screen)
    assert any("is a LORA adapter (rank 4) for" in line and "it is trained further" in line for line in screen.lines)
    assert all(line["grad_norm"] > 0 for line in read_metrics(place / "run"))
    assert not torch.allclose(plainly(place / "run" / "model"), plainly(place / "adapter"))
    for source in ("run", "run/model", "run/checkpoints/checkpoint-2"):
        ready = prepare(recipe(**{"model.path": source, "output": "next"}))
        torch.testing.assert_close(logits_of(ready.trainer.model), plainly(place / "run" / "model"))
        assert 0 < ready.manifest.weights.trained < ready.manifest.weights.all


def test_an_adapter_is_merged_and_all_weights_are_trained(place: Path, screen):
    ready = prepare(recipe(**{"model.adapter": "merge"}))
    torch.testing.assert_close(logits_of(ready.trainer.model), plainly(place / "adapter"), atol=1e-4, rtol=1e-4)
    assert ready.manifest.weights.trained == ready.manifest.weights.all
    start_run(recipe(**{"model.adapter": "merge"}), screen)
    assert any("it is merged" in line for line in screen.lines)
    assert (place / "run" / "model" / "model.safetensors").exists()
    assert not (place / "run" / "model" / "adapter_config.json").exists()


def test_an_adapter_on_a_merged_one_names_it_as_its_base(place: Path, screen):
    finished = start_run(recipe(**{"model.adapter": "merge", "model.lora.rank": "2"}), screen)
    named = json.loads((place / "run" / "model" / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert named == str(place / "adapter")
    again = evaluate_run(place / "run", place / "again", screen)
    assert again.models["after"].ras == finished.evaluation.models["after"].ras
    by_hand = trainer(place / "hand", str(place / "adapter"), LoraConfig(**LORA))
    torch.testing.assert_close(logits_of(by_hand.model), plainly(place / "adapter"), atol=1e-4, rtol=1e-4)


def test_a_run_on_an_adapter_is_resumed_to_the_same_end(place: Path, screen):
    settings = {"training.steps": "4", "training.save_every": "2", "training.measure_kl": "true", "data.held_out": "0"}
    start_run(recipe(**settings), screen)
    whole, lines = load_file("run/model/adapter_model.safetensors"), read_metrics(place / "run")
    shutil.rmtree("run/checkpoints/checkpoint-4")
    shutil.rmtree("run/model")
    update_manifest(place / "run", status="interrupted")
    resume_run(Path("run"), screen)
    resumed = load_file("run/model/adapter_model.safetensors")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert [line["kl"] for line in read_metrics(place / "run")] == pytest.approx(
        [line["kl"] for line in lines], abs=1e-6
    )
    assert lines[0]["kl"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("method", [DPO(), GRPO(updates=2), PPO()], ids=lambda method: method.name)
def test_the_frozen_policy_of_an_adapter_that_goes_on_is_the_adapter_as_it_was(place: Path, method):
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("base"), "adapter", is_trainable=True)
    settings = replace(config(place / "run", steps=3), method=method, data=DataConfig(path="here", rejected="rejected"))
    GRAOTrainer(model, vowels, settings, PAIRS, processing_class=letter_tokenizer()).train()
    kl = [line["kl"] for line in read_metrics(place / "run")]
    assert abs(kl[0]) < 1e-2 < abs(kl[0]) + 1  # the first of two updates has moved it a little
    assert kl[-1] != 0


def peft_model(is_trainable: bool = True) -> PeftModel:
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("base"), "adapter", is_trainable=is_trainable)


def frozen_base():
    return tiny_model().requires_grad_(False)


def idle_adapter():
    model = peft_model()
    model.load_adapter("adapter", "second", is_trainable=True)
    return model


def switched_off():
    model = peft_model()
    model.base_model.disable_adapter_layers()
    return model


def merged_for_now():
    model = peft_model()
    model.merge_adapter()
    return model


def by_transformers():
    return AutoModelForCausalLM.from_pretrained("adapter")


def other_task():
    return LlamaForSequenceClassification(tiny_model().config)


@pytest.mark.parametrize(
    ("make", "peft_config", "message"),
    [
        (lambda: peft_model(is_trainable=False), None, "all weights are frozen.*is_trainable=True"),
        (frozen_base, None, "all weights are frozen.*set requires_grad"),
        (idle_adapter, None, "adapter 'second' is trainable but inactive"),
        (switched_off, None, "all weights are frozen"),
        (merged_for_now, None, "its adapter is currently merged"),
        (by_transformers, None, "transformers loaded an adapter into it"),
        (peft_model, LoraConfig(**LORA), "peft_config: the model already has an adapter"),
        (by_transformers, LoraConfig(**LORA), "peft_config: the model already has an adapter"),
        (tiny_model, LoraConfig(target_modules=["nowhere"]), "peft_config: .*nowhere"),
        (tiny_model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2), "peft_config is a PROMPT_TUNING"),
        (other_task, None, "LlamaForSequenceClassification is not a decoder-only language model"),
    ],
)
def test_a_model_that_cannot_be_trained_is_refused(place: Path, make, peft_config, message: str):
    with pytest.raises(
        InputError, match=f"^(model|peft_config):? .*{message.removeprefix('peft_config: ')}|^{message}"
    ):
        trainer(place / "run", make(), peft_config)
    assert not (place / "run" / "metrics.jsonl").exists()


def test_of_several_adapters_the_active_one_is_trained(place: Path):
    model = peft_model()
    model.load_adapter("adapter", "second")
    model.set_adapter("second")
    made = trainer(place / "run", model, steps=1)
    start = weights_of(made.model)
    made.train()
    moved = {name for name, value in weights_of(made.model).items() if not torch.equal(value, start[name])}
    assert moved
    assert all(".second." in name for name in moved)
    ended = weights_of(made.model)
    made.save_model(str(place / "saved"))
    with torch.no_grad():
        for name, weight in made.model.named_parameters():
            weight.mul_(0.5 if name in moved else 1.0)
    load_weights(made.model, place / "saved")
    assert all(torch.equal(value, ended[name]) for name, value in weights_of(made.model).items())


def test_an_adapter_of_another_kind_goes_on_too(place: Path):
    ia3 = IA3Config(target_modules=["q_proj", "down_proj"], feedforward_modules=["down_proj"], task_type="CAUSAL_LM")
    saved_adapter(place / "ia3", place / "base", ia3)
    ready = prepare(recipe(**{"model.path": "ia3"}))
    torch.testing.assert_close(logits_of(ready.trainer.model), plainly(place / "ia3"))
    assert ready.manifest.weights.trained > 0


def changed(**values):
    def change(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def reweighted(change):
    def apply(folder: Path) -> None:
        file = folder / "adapter_model.safetensors"
        save_file(change(load_file(file)), file)

    return apply


def without_one(weights: dict) -> dict:
    return dict(list(weights.items())[1:])


def deeper(weights: dict) -> dict:
    return weights | {
        name.replace("layers.1.", "layers.7."): value.clone() for name, value in weights.items() if "layers.1." in name
    }


def pickled(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


def torn(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:40])


def embedded(folder: Path) -> None:
    shutil.copy(folder.parent / "base" / "model.safetensors", folder)
    shutil.copy(folder.parent / "base" / "config.json", folder)


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        (
            changed(base_model_name_or_path="/gone/base"),
            {},
            "'adapter' is an adapter of '/gone/base', which does not exist",
        ),
        (changed(base_model_name_or_path="nobody/base"), {}, "'nobody/base'.*it is the base of the adapter 'adapter'"),
        (changed(base_model_name_or_path=None), {}, "names no base model"),
        (changed(r=7), {}, "'adapter' does not fit '.*base'"),
        (changed(peft_type="NEW_KIND"), {}, "cannot read adapter_config.json of 'adapter'"),
        (changed(task_type="SEQ_CLS"), {}, "'adapter' is an adapter for SEQ_CLS, not for a language model"),
        (reweighted(without_one), {}, "does not fit .*1 weights are in only one of the two"),
        (reweighted(deeper), {}, "does not fit .*weights are in only one of the two, such as .*layers.7"),
        (pickled, {}, "no adapter_model.safetensors; adapter_model.bin is a pickle"),
        (torn, {}, "adapter_model.safetensors is damaged or incomplete"),
        (
            lambda folder: (folder / "adapter_model.safetensors").unlink(),
            {},
            "no adapter_model.safetensors; restore it",
        ),
        (embedded, {}, "holds both a model and an adapter"),
        (lambda folder: None, {"model.lora.rank": "16"}, "model.lora.rank is 16, but the adapter 'adapter' has 4"),
        (
            lambda folder: None,
            {"model.path": "base", "model.adapter": "merge"},
            "model.adapter: .* so there is no adapter to merge",
        ),
        (
            lambda folder: shutil.copytree(folder, "two/b") and shutil.copytree(folder, "two/a"),
            {"model.path": "two"},
            "holds the adapters",
        ),
    ],
)
def test_an_adapter_that_is_not_whole_is_refused(place: Path, change, settings: dict, message: str):
    change(place / "adapter")
    with pytest.raises(InputError, match=f"^model.*: .*{message}|^{message}"):
        prepare(recipe(**settings))


def test_prompt_tuning_is_refused(place: Path):
    for kind in (PromptTuningConfig, PrefixTuningConfig):
        tuned = get_peft_model(load_model("base"), kind(task_type="CAUSAL_LM", num_virtual_tokens=2))
        tuned.save_pretrained("tuned")
        with pytest.raises(InputError, match=r"'tuned' is a P\w+ adapter; only adapters that change weights"):
            prepare(recipe(**{"model.path": "tuned"}))


def test_the_base_is_looked_for_from_where_the_adapter_lies(
    place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory
):
    changed(base_model_name_or_path="base")(place / "adapter")
    expected = logits_of(load_model("adapter"))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (place / "adapter" / name).unlink()
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    torch.testing.assert_close(logits_of(load_model(str(place / "adapter"))), expected)
    assert load_tokenizer(str(place / "adapter")).get_vocab() == letter_tokenizer().get_vocab()


def test_an_adapter_brings_the_rows_of_added_tokens(place: Path):
    base = load_model("base")
    base.resize_token_embeddings(50)
    adapter = get_peft_model(base, LoraConfig(**LORA | {"modules_to_save": ["embed_tokens", "lm_head"]}))
    with pytest.warns(UserWarning, match="save_embedding_layers"):
        adapter.save_pretrained("grown")
    letter_tokenizer().save_pretrained("grown")
    expected = logits_of(adapter)
    torch.testing.assert_close(logits_of(load_model("grown")), expected)
    assert len(prepare(recipe(**{"model.path": "grown"})).trainer.model.get_input_embeddings().weight) == 50


def test_judges_encoders_and_evaluations_take_adapters(place: Path, screen):
    torch.testing.assert_close(logits_of(load_model("adapter")), plainly(place / "adapter"), atol=1e-4, rtol=1e-4)
    assert not torch.equal(
        load_encoder("adapter").layers[0].mlp.up_proj.weight, load_encoder("base").layers[0].mlp.up_proj.weight
    )
    evaluation = evaluate_recipe(recipe(), screen)
    assert set(evaluation.models) == {"model"}


def test_a_reward_model_may_be_an_adapter(place: Path, screen):
    lora = LoraConfig(**LORA | {"task_type": "SEQ_CLS"})

    class Scorer(AutoModelForSequenceClassification):
        @classmethod
        def from_pretrained(cls, path):
            return super().from_pretrained(path, num_labels=1)

    saved_adapter(place / "scorer", place / "base", lora, auto=Scorer)
    base = Scorer.from_pretrained("base")
    expected = logits_of(PeftModel.from_pretrained(base, "scorer"))
    torch.testing.assert_close(logits_of(load_reward_model("scorer")), expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(InputError, match=r"'adapter' is not a reward model: it lacks score\.weight"):
        load_reward_model("adapter")
    settings = {
        "model.path": "adapter", "data.path": "data.jsonl", "data.reference": "reference", "data.rejected": "worse",
        "data.held_out": "2", "output": "scores", "training.steps": "1", "training.pairs_per_step": "2",
    }  # fmt: skip
    train_reward_model(load_config(RewardModelRecipe, None, [*settings.items()]), screen)
    assert any("it is merged" in line for line in screen.lines)
    load_reward_model("scores")
