"""The copy that samples: the policy's numbers, rounded or with the adapter merged, in place from update to update."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from grao import GRAOConfig, GRAOTrainer, RolloutConfig, TrainingConfig
from grao.errors import InputError
from grao.records.run import read_metrics
from grao.rollouts.base import Sampling
from grao.rollouts.captured import CapturedGenerator
from grao.rollouts.copies import CopyGenerator, copy_bytes, copy_dtype, sampler_of
from grao.rollouts.transformers import TransformersGenerator
from test_trainer import ROWS, vowels, weights_of
from tiny import END, in_order, letter_tokenizer, tiny_model

IDS = torch.tensor([[5, 6, 7, 8]])
SAMPLING = Sampling(4, 1.0, 1.0, 12)


def adapted(dtype: torch.dtype = torch.float32, **more):
    torch.manual_seed(0)
    lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False, **more)
    return get_peft_model(tiny_model().to(dtype), lora)


def by_hand(policy) -> nn.Module:
    """The base, with W + B A alpha / r in place of each W."""
    model, layers = tiny_model(), dict(policy.base_model.model.named_modules())
    with torch.no_grad():
        for name, layer in model.named_modules():
            if isinstance(layer, nn.Linear) and hasattr(layers[name], "lora_A"):
                down, up = (getattr(layers[name], part)["default"].weight for part in ("lora_A", "lora_B"))
                layer.weight.copy_(layers[name].base_layer.weight + 8 / 4 * up @ down)
    return model


def change(policy) -> None:
    with torch.no_grad():
        for weight in policy.parameters():
            if weight.requires_grad:
                weight.add_(0.1 * torch.randn_like(weight))


def sampled(generator):
    return in_order(generator.generate([[5, 6, 7], [8]], [1, 2], SAMPLING))


@pytest.mark.parametrize("engine", [CapturedGenerator, TransformersGenerator])
def test_sync_is_merging_by_hand(engine):
    policy = adapted()
    before = weights_of(policy)
    generator = sampler_of(policy, lambda model: engine(model, [END], 0, 8), None, merged=True)
    assert isinstance(generator, CopyGenerator)
    first = sampled(generator)
    for _ in range(2):
        expected = by_hand(policy)
        torch.testing.assert_close(generator.model(IDS).logits, expected(IDS).logits, atol=1e-5, rtol=1e-5)
        assert sampled(generator) == sampled(engine(generator.model, [END], 0, 8))
        plain = sampled(TransformersGenerator(expected, [END]))
        assert [[answer.ids for answer in group] for group in sampled(generator)] == [
            [answer.ids for answer in group] for group in plain
        ]
        assert all(torch.equal(before[name], weight) for name, weight in weights_of(policy).items())
        change(policy)
        before = weights_of(policy)
        places = [weight.data_ptr() for weight in generator.model.parameters()]
        generator.sync(policy)
        assert places == [weight.data_ptr() for weight in generator.model.parameters()]  # graphs stay valid
    assert sampled(generator) != first


def test_merged_in_half_precision_it_is_rounded_once():
    policy = adapted(torch.bfloat16)
    generator = CopyGenerator(policy, lambda model: TransformersGenerator(model, [END]), None, merged=True)
    layer = policy.base_model.model.model.layers[0].self_attn.q_proj
    exact = layer.base_layer.weight.float() + 2 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    copied = generator.model.base_model.model.model.layers[0].self_attn.q_proj.base_layer.weight
    assert torch.equal(copied, exact.bfloat16())
    change(policy)
    for _ in range(3):
        generator.sync(policy)
    exact = layer.base_layer.weight.float() + 2 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    assert torch.equal(copied, exact.bfloat16())


def test_what_is_frozen_and_not_adapted_is_shared():
    policy = adapted()
    generator = CopyGenerator(policy, lambda model: TransformersGenerator(model, [END]), None, merged=True)
    pairs = zip(policy.base_model.model.named_parameters(), generator.model.base_model.model.parameters(), strict=True)
    shared = {name for (name, weight), copied in pairs if weight is copied}
    assert "model.embed_tokens.weight" in shared
    assert not any("base_layer" in name or "lora_" in name for name in shared)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_copy_in_half_precision(kind: str):
    policy = tiny_model(kind)
    generator = sampler_of(policy, lambda model: CapturedGenerator(model, [END]), torch.bfloat16, merged=False)
    assert {weight.dtype for weight in policy.parameters()} == {torch.float32}
    assert {weight.dtype for weight in generator.model.parameters()} == {torch.bfloat16}
    for (_, one), (_, other) in zip(policy.named_buffers(), generator.model.named_buffers(), strict=True):
        assert one.dtype == other.dtype  # rotary frequencies stay exact
    tied = policy.get_output_embeddings().weight is policy.get_input_embeddings().weight
    model = generator.model
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == tied
    change(policy)
    generator.sync(policy)
    assert all(
        torch.equal(copied, weight.bfloat16())
        for weight, copied in zip(policy.parameters(), generator.model.parameters(), strict=True)
    )
    assert copy_bytes(policy, torch.bfloat16, merged=False) == sum(w.nbytes for w in generator.model.parameters())


def test_which_copies_are_made_and_what_they_take():
    single, half = tiny_model(), tiny_model().bfloat16()
    assert copy_dtype(single, torch.bfloat16, on_gpu=True) == torch.bfloat16
    assert copy_dtype(single, torch.bfloat16, on_gpu=False) is None
    assert copy_dtype(single, torch.float16, on_gpu=True) is None
    assert copy_dtype(single, None, on_gpu=True) is None
    assert copy_dtype(half, torch.bfloat16, on_gpu=True) is None
    policy = adapted()
    generator = sampler_of(policy, lambda model: CapturedGenerator(model, [END]), None, merged=True)
    owned = {id(weight) for weight in policy.parameters()}
    copied = sum(weight.nbytes for weight in generator.model.parameters() if id(weight) not in owned)
    assert 0 < copied == copy_bytes(policy, None, merged=True) < sum(weight.nbytes for weight in policy.parameters())
    assert copy_bytes(policy, None, merged=False) == 0


def test_what_cannot_be_merged():
    with pytest.raises(InputError, match=r"^rollout\.merge_adapter: the model has no adapter"):
        sampler_of(tiny_model(), lambda model: None, None, merged=True)
    policy = adapted()
    policy.base_model.model.is_quantized = True
    with pytest.raises(InputError, match=r"^rollout\.merge_adapter: .* quantized weights"):
        sampler_of(policy, lambda model: None, None, merged=True)


def test_training_is_the_same_with_each_engine(tmp_path: Path):
    ends = {}
    for engine, merged in (("transformers", False), ("captured", False), ("captured", True)):
        config = GRAOConfig(
            output_dir=tmp_path / f"{engine}-{merged}",
            rollout=RolloutConfig(group_size=4, temperature=1.0, max_new_tokens=6, engine=engine, merge_adapter=merged),
            training=TrainingConfig(steps=3, prompts_per_step=2, learning_rate=3e-3, trainer={"use_cpu": True}),
        )
        lora = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
        trainer = GRAOTrainer(tiny_model(), vowels, config, ROWS, processing_class=letter_tokenizer(), peft_config=lora)
        trainer.train()
        ends[engine, merged] = weights_of(trainer.model)
        assert all(line["sampler/gap"] < 1e-4 for line in read_metrics(config.output_dir) if "sampler/gap" in line)
    first, *others = ends.values()
    for other in others:
        for name, weight in first.items():
            torch.testing.assert_close(other[name], weight, atol=1e-4, rtol=1e-3)
