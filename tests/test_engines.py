"""The packed engine against the padded one: the same loss, log-likelihoods and gradients, however the rows are cut."""

import warnings

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch.nn.attention.flex_attention import create_mask, flex_attention
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PhimoeConfig,
    PhimoeForCausalLM,
)

from grao.engine.attention import NAME, RowPlan, Segment, block_mask, packed_attention
from grao.engine.output_layer import linear_loss, token_logps
from grao.engine.packed import PackedEngine
from grao.engine.padded import PaddedEngine
from grao.engine.select import engine_for
from grao.types import Batch
from tiny import LETTERS, batch_of, gradients, relative_gap, tiny_model

KINDS = ("llama", "qwen3", "moe", "gpt2")


@st.composite
def batches(draw) -> Batch:
    """A few groups with answers of any length and weights of any sign, some of them 0."""
    token = st.integers(3, len(LETTERS) + 2)
    prompts, completions, groups, weights = [], [], [], []
    for group in range(draw(st.integers(1, 3))):
        prompt = draw(st.lists(token, min_size=1, max_size=12))
        for _ in range(draw(st.integers(2, 16))):
            prompts.append(prompt)
            completions.append(draw(st.lists(token, min_size=1, max_size=9)))
            groups.append(group)
            weights.append(draw(st.one_of(st.just(0.0), st.floats(-3, 3))))
    return batch_of(prompts, completions, groups, weights)


def through(engine, model, batch: Batch, budget: int = 10_000):
    """Loss, log-likelihoods in order, and gradients of all micro-batches together."""
    model.zero_grad()
    loss, mean, entropy = 0.0, torch.zeros(len(batch.answers)), torch.zeros(len(batch.answers))
    for rows in engine.plan(batch, budget):
        seen = engine.run(model, batch.select(rows))
        seen.loss.backward()
        loss += seen.loss.item()
        mean[rows], entropy[rows] = seen.mean.float(), seen.entropy.float()
    return loss, mean, entropy, gradients(model)


def check_gradients(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float) -> None:
    """Relative to each tensor's own norm; where that is next to nothing, to a hundredth of the whole gradient's."""
    whole = torch.cat([gradient.flatten() for gradient in expected.values()]).norm()
    for name, gradient in expected.items():
        gap = (found[name] - gradient).norm()
        assert gap <= tolerance * torch.maximum(gradient.norm(), 0.01 * whole) + 1e-13, name


MODELS = {kind: tiny_model(kind) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(batch=batches(), budget=st.integers(1, 200))
@example(batch=batch_of([[3], [3]], [[3], [3]], [0, 0], [0.0, 1.0]), budget=1)
def test_packed_equals_padded(kind: str, batch: Batch, budget: int):
    model = MODELS[kind]
    engine = engine_for(model, pad_id=0)
    assert isinstance(engine, PackedEngine)
    loss, mean, entropy, expected = through(PaddedEngine(), model, batch)
    scale = max(1.0, (torch.tensor(batch.weights).abs() * mean.abs()).sum().item())  # of the terms of the loss
    for cut in (10_000, budget):
        found = through(engine, model, batch, cut)
        assert found[0] == pytest.approx(loss, abs=1e-6 * scale)
        torch.testing.assert_close(found[1], mean, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found[2], entropy, atol=1e-5, rtol=1e-5)
        check_gradients(found[3], expected, 1e-5)


def test_long_answers_are_attended_in_several_calls(monkeypatch: pytest.MonkeyPatch):
    batch = some_batch(longest=30)
    model = tiny_model()
    engine = engine_for(model, 0)
    _, mean, _, expected = through(PaddedEngine(), model, batch)
    for together in (1, 20, 50):
        monkeypatch.setattr("grao.engine.attention._PART_TOKENS", together)
        found = through(engine, model, batch)
        torch.testing.assert_close(found[1], mean, atol=1e-5, rtol=1e-5)
        assert relative_gap(found[3], expected) < 1e-5


def some_batch(seed: int = 0, longest: int = 12) -> Batch:
    torch.manual_seed(seed)
    prompts = [torch.randint(3, 40, (length,)).tolist() for length in (7, 12, 3)]
    groups = [group for group in range(3) for _ in range(5)]
    completions = [torch.randint(3, 40, (int(torch.randint(1, longest, ())),)).tolist() for _ in groups]
    return batch_of([prompts[group] for group in groups], completions, groups, torch.randn(15).double())


DOUBLE = tiny_model("gpt2").double()  # no part of it falls back to single precision


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(batch=batches(), budget=st.integers(1, 200))
def test_in_double_precision_it_agrees_to_rounding(batch: Batch, budget: int):
    DOUBLE.set_attn_implementation("sdpa")
    loss, _, _, expected = through(PaddedEngine(), DOUBLE, batch)
    DOUBLE.set_attn_implementation(NAME)
    found = through(PackedEngine(), DOUBLE, batch, budget)
    assert found[0] == pytest.approx(loss, abs=1e-10)
    check_gradients(found[3], expected, 1e-10)


@pytest.mark.parametrize("kind", ["llama", "moe"])
def test_activation_checkpointing(kind: str):
    model = tiny_model(kind).train()
    batch = some_batch()
    engine = engine_for(model, 0)
    _, _, _, expected = through(engine, model, batch)
    model.activation_checkpointing_enable()
    assert relative_gap(through(engine, model, batch)[3], expected) < 1e-5


def test_an_adapter():
    torch.manual_seed(0)
    adapter = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    model = get_peft_model(tiny_model(), adapter)
    engine = engine_for(model, 0)
    assert isinstance(engine, PackedEngine)
    batch = some_batch()
    _, mean, _, expected = through(PaddedEngine(), model, batch)
    found = through(engine, model, batch, 50)
    torch.testing.assert_close(found[1], mean, atol=1e-5, rtol=1e-5)
    trained = [name for name in expected if "lora" in name]
    assert relative_gap({n: found[3][n] for n in trained}, {n: expected[n] for n in trained}) < 1e-4


def test_an_adapter_on_the_output_layer_takes_the_padded_way():
    adapter = LoraConfig(r=4, target_modules=["lm_head"], task_type="CAUSAL_LM")
    assert isinstance(engine_for(get_peft_model(tiny_model(), adapter), 0), PaddedEngine)


SHAPE = {
    "vocab_size": len(LETTERS) + 3, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "initializer_range": 0.2,
}  # fmt: skip


def test_a_sliding_window_is_honoured():
    torch.manual_seed(0)
    model = MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=6)).eval()
    engine = engine_for(model, 0)
    assert isinstance(engine, PackedEngine)
    batch = some_batch()
    _, mean, _, expected = through(PaddedEngine(), model, batch)
    found = through(engine, model, batch)
    torch.testing.assert_close(found[1], mean, atol=1e-5, rtol=1e-5)
    assert relative_gap(found[3], expected) < 1e-5


FAMILIES = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "mistral": {"sliding_window": 6},
    "mixtral": {"num_local_experts": 4, "sliding_window": None},
    "gemma": {},
    "gemma3_text": {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]},
    "qwen3_moe": {"moe_intermediate_size": 24, "num_experts": 4, "num_experts_per_tok": 2},
    "deepseek_v3": {
        "num_key_value_heads": 4, "moe_intermediate_size": 16, "n_routed_experts": 4, "num_experts_per_tok": 2,
        "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1, "kv_lora_rank": 16, "q_lora_rank": None,
        "qk_rope_head_dim": 8, "v_head_dim": 12, "qk_nope_head_dim": 8,
    },
    "gpt_neox": {"num_key_value_heads": 4},
    "olmo2": {},
    "phi3": {},
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_it_holds_for_the_usual_families(family: str):
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **SHAPE | FAMILIES[family], pad_token_id=0)
    model = AutoModelForCausalLM.from_config(config).eval()
    engine = engine_for(model, 0)
    assert isinstance(engine, PackedEngine)
    batch = some_batch()
    loss, mean, _, expected = through(PaddedEngine(), model, batch)
    found = through(engine, model, batch, budget=60)
    assert found[0] == pytest.approx(loss, abs=1e-5, rel=1e-5)
    torch.testing.assert_close(found[1], mean, atol=1e-5, rtol=1e-5)
    assert relative_gap(found[3], expected) < 2e-5


def test_a_window_that_only_the_mask_knows_takes_the_padded_way():
    model = PhimoeForCausalLM(PhimoeConfig(**SHAPE, num_local_experts=4, sliding_window=6)).eval()
    assert isinstance(engine_for(model, 0), PaddedEngine)
    model.config.sliding_window = None
    assert isinstance(engine_for(model, 0), PackedEngine)


@pytest.mark.parametrize("window", [None, 4])
def test_the_block_mask_for_a_gpu_shows_the_same_pairs(window: int | None):
    plan = RowPlan((Segment.of(5, [3, 1, 6]), Segment.of(2, [4]), Segment.of(9, [2, 2])))
    total = sum(plan.sizes())
    mask = block_mask(plan, window, torch.device("cpu"))
    dense = create_mask(mask.mask_mod, None, None, total, total, device="cpu")[0, 0]
    expected, start = torch.zeros(total, total, dtype=torch.bool), 0
    for prompt, answers in ((5, [3, 1, 6]), (2, [4]), (9, [2, 2])):
        own = start + prompt
        for first, length in ((start, prompt), *((own + sum(answers[:n]), a) for n, a in enumerate(answers))):
            history = [*range(start, own)] if first >= own else []
            for query in range(first, first + length):
                seen = [*history, *range(first, query + 1)]
                expected[query, seen[-window:] if window else seen] = True
        start = own + sum(answers)
    assert torch.equal(dense, expected)

    heads = [torch.randn(1, count, total, 8) for count in (4, 2, 2)]
    module = torch.nn.Module()
    by_segments, _ = packed_attention(module, *heads, None, plan=plan, sliding_window=window)
    query, key, value = (h.repeat_interleave(4 // h.shape[1], dim=1) for h in heads)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it asks to be compiled
        by_blocks = flex_attention(query, key, value, block_mask=mask)
    torch.testing.assert_close(by_blocks.transpose(1, 2), by_segments, atol=1e-5, rtol=1e-5)


def test_what_it_does_not_honour_takes_the_padded_way():
    torch.manual_seed(0)
    capped = Gemma2ForCausalLM(Gemma2Config(**SHAPE)).eval()
    before = capped.config._attn_implementation
    assert isinstance(engine_for(capped, 0), PaddedEngine)
    assert capped.config._attn_implementation == before
    dropping = tiny_model()
    for layer in dropping.model.layers:
        layer.self_attn.attention_dropout = 0.1
    assert isinstance(engine_for(dropping, 0), PaddedEngine)
    assert not dropping.training
    scaled = tiny_model()
    scaled.lm_head.register_forward_hook(lambda module, inputs, logits: 0.5 * logits)
    assert isinstance(engine_for(scaled, 0), PaddedEngine)


def test_half_precision():
    model = tiny_model().to(torch.bfloat16)
    engine = engine_for(model, 0)
    assert isinstance(engine, PackedEngine)
    batch = some_batch()
    expected = through(PaddedEngine(), model, batch)
    found = through(engine, model, batch)
    torch.testing.assert_close(found[1], expected[1], atol=5e-2, rtol=1e-2)


def test_a_model_that_was_not_switched_fails_loudly():
    with pytest.raises((RuntimeError, IndexError)):
        PackedEngine().run(tiny_model(), some_batch())


@pytest.mark.parametrize("biased", [True, False])
def test_the_chunked_loss_is_the_plain_one(biased: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("grao.engine.output_layer._LOGITS_CPU", 150)
    monkeypatch.setattr("grao.engine.output_layer._ROWS", 3)
    hidden, weight = torch.randn(13, 8).double().requires_grad_(), torch.randn(50, 8).double().requires_grad_()
    bias = torch.randn(50).double().requires_grad_() if biased else None
    targets, coefficients = torch.randint(0, 50, (13,)), torch.randn(13).double()
    loss, logps, entropies = linear_loss(hidden, weight, bias, targets, coefficients)
    plain = torch.log_softmax(torch.nn.functional.linear(hidden, weight, bias), dim=-1)
    expected = plain.gather(-1, targets[:, None]).squeeze(-1)
    torch.testing.assert_close(logps, expected)
    torch.testing.assert_close(entropies, -(plain.exp() * plain).sum(-1))
    inputs = [value for value in (hidden, weight, bias) if value is not None]
    found = torch.autograd.grad(3 * loss, inputs)
    torch.testing.assert_close(found, torch.autograd.grad(-3 * (coefficients * expected).sum(), inputs))


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_in_mixed_precision_the_output_layer_rounds_as_the_plain_one(half: torch.dtype):
    hidden, weight = (torch.randn(rows, 64, requires_grad=True) for rows in (200, 500))
    targets, coefficients = torch.randint(0, 500, (200,)), 1e-4 * torch.randn(200)

    def plain() -> torch.Tensor:
        logps = torch.nn.functional.linear(hidden, weight).float().log_softmax(-1)
        return -(coefficients * logps.gather(-1, targets[:, None]).squeeze(-1)).sum()

    def slopes(loss, scale: float) -> list[torch.Tensor]:
        with torch.autocast("cpu", half):
            value = loss()
        return [slope / scale for slope in torch.autograd.grad(scale * value, [hidden, weight])]

    expected = slopes(plain, 2.0**16)  # without a scale float16 cannot hold them
    for loss in (
        lambda: linear_loss(hidden, weight, None, targets, coefficients)[0],
        lambda: -(coefficients * token_logps(hidden, weight, None, targets)[0]).sum(),
    ):
        for found, slope in zip(slopes(loss, 2.0**16), expected, strict=True):
            assert (found - slope).norm() < (1e-4 if half is torch.bfloat16 else 2e-3) * slope.norm()
