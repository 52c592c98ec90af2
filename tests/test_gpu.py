"""What differs on a GPU: FlexAttention under the packed row, sampling there, half precision, vLLM. Skipped without."""

from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from grao import GRAOConfig, GRAOTrainer, RolloutConfig, TrainingConfig
from grao.config.vllm import VLLMConfig
from grao.engine.attention import FLEX
from grao.engine.footprint import activation_bytes, shapes_only
from grao.engine.memory import free_bytes, gradients_dropped, measure_peak
from grao.engine.packed import PackedEngine
from grao.engine.padded import PaddedEngine, plain_logps
from grao.engine.select import engine_for, random_batch
from grao.rollouts.base import Sampling, make_generator
from grao.rollouts.captured import CapturedGenerator
from grao.rollouts.copies import CopyGenerator
from grao.rollouts.sampling import _invert_in_blocks, draw_tokens
from grao.rollouts.transformers import TransformersGenerator
from grao.types import Batch
from tiny import LETTERS, batch_of, gradients, in_order, letter_tokenizer, relative_gap

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

SHAPE = {
    "vocab_size": len(LETTERS) + 3,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 512,
    "initializer_range": 0.1,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": None,
}
"""Heads of 64: the kernel takes none below 16."""


def model_of(kind: str) -> PreTrainedModel:
    torch.manual_seed(0)
    if kind == "window":
        model: PreTrainedModel = MistralForCausalLM(MistralConfig(**SHAPE, head_dim=64, sliding_window=16))
    elif kind in ("latent", "dense latent"):
        latent = {"kv_lora_rank": 64, "q_lora_rank": None, "qk_rope_head_dim": 16, "qk_nope_head_dim": 32}
        experts = {"moe_intermediate_size": 64, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1}
        dense = 2 if kind == "dense latent" else 1
        shape = SHAPE | {"num_key_value_heads": 2, "v_head_dim": 32, "topk_group": 1, "first_k_dense_replace": dense}
        model = DeepseekV3ForCausalLM(DeepseekV3Config(**shape, **latent, **experts))
    elif kind == "moe":
        experts = {"moe_intermediate_size": 64, "num_experts": 4, "num_experts_per_tok": 2, "head_dim": 64}
        model = Qwen3MoeForCausalLM(Qwen3MoeConfig(**SHAPE, **experts))
    else:
        model = Qwen2ForCausalLM(Qwen2Config(**SHAPE))
    return model.cuda()


def some_batch(prompts: int = 3, samples: int = 5, longest: int = 60) -> Batch:
    torch.manual_seed(1)

    def tokens() -> list[int]:
        return torch.randint(3, len(LETTERS) + 3, (int(torch.randint(1, longest, ())),)).tolist()

    said = [tokens() for _ in range(prompts)]
    groups = [group for group in range(prompts) for _ in range(samples)]
    return batch_of([said[group] for group in groups], [tokens() for _ in groups], groups, torch.randn(len(groups)))


def through(engine, model, batch: Batch, budget: int, autocast: bool = False):
    model.zero_grad()
    mean = torch.zeros(len(batch.answers))
    for rows in engine.plan(batch, budget):
        with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
            seen = engine.run(model, batch.select(rows))
        seen.loss.backward()
        mean[rows] = seen.mean.float().cpu()
    return mean, gradients(model)


@pytest.mark.parametrize("kind", ["plain", "window", "moe"])
def test_the_packed_row_in_blocks_equals_the_padded_one(kind: str):
    model, batch = model_of(kind), some_batch()
    engine = engine_for(model, pad_id=0)
    assert isinstance(engine, PackedEngine)
    assert model.config._attn_implementation == FLEX
    mean, expected = through(PaddedEngine(), model, batch, 10_000)
    for budget in (10_000, 200):
        found = through(engine, model, batch, budget)
        torch.testing.assert_close(found[0], mean, atol=1e-4, rtol=1e-4)
        assert relative_gap(found[1], expected) < 1e-3


def test_in_bfloat16_it_is_as_close_to_single_precision_as_the_padded_one():
    model, batch = model_of("plain"), some_batch()
    engine = engine_for(model, pad_id=0)
    _, exact = through(PaddedEngine(), model, batch, 10_000)
    gaps = []
    for side in (PaddedEngine(), engine):
        _, found = through(side, model, batch, 10_000, autocast=True)
        whole = torch.cat([gradient.flatten() for gradient in exact.values()])
        gaps.append((torch.cat([gradient.flatten() for gradient in found.values()]) - whole).norm() / whole.norm())
    assert gaps[1] < 1.5 * gaps[0] + 1e-3


def test_sampling_without_chance_is_what_transformers_generates():
    model = model_of("plain").eval()
    prompts = [[5, 6, 7, 8], [9, 10, 11, 12]]
    generator = TransformersGenerator(model, stop_ids=[len(LETTERS) + 9])
    sampling = Sampling(samples=2, temperature=0.0, top_p=1.0, max_new_tokens=20)
    found = in_order(generator.generate(prompts, [0, 1], sampling))
    ids = torch.tensor(prompts, device="cuda")
    expected = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False, eos_token_id=None, pad_token_id=0
    )[:, 4:].tolist()
    assert [[list(sample.ids) for sample in group] for group in found] == [[line, line] for line in expected]


PROMPTS = [[5, 6, 7, 8], [9, 10], [11, 12, 13, 14, 15, 16, 17], [18]]


def drawn(generator, **sampling) -> list[list[tuple[int, ...]]]:
    """The token ids of each group."""
    groups = in_order(generator.generate(PROMPTS, [1, 2, 3, 4], Sampling(**{"max_new_tokens": 60} | sampling)))
    return [[answer.ids for answer in group] for group in groups]


@pytest.mark.parametrize("kind", ["plain", "window", "dense latent"])
@pytest.mark.parametrize("sampling", [{"temperature": 0.0}, {"temperature": 1.0}, {"temperature": 0.7, "top_p": 0.8}])
def test_captured_steps_draw_what_the_plain_loop_draws(kind: str, sampling: dict):
    model = model_of(kind).eval()
    generator = CapturedGenerator(model, [1], batch_size=16)
    assert not generator.remark
    for _ in range(2):  # captured, then replayed
        assert drawn(generator, samples=8, **sampling) == drawn(
            TransformersGenerator(model, [1]), samples=8, **sampling
        )
    graphs = dict(generator._graphs._steps)
    assert len(graphs) > 1
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.1)
    assert drawn(generator, samples=8, **sampling) == drawn(TransformersGenerator(model, [1]), samples=8, **sampling)
    assert graphs.items() <= generator._graphs._steps.items()


@pytest.mark.parametrize("kind", ["plain", "window", "moe", "latent"])
def test_captured_steps_in_bfloat16(kind: str):
    model = model_of(kind).eval().to(torch.bfloat16)
    generator = CapturedGenerator(model, [1], batch_size=16)
    assert not generator.remark  # it was compared with the plain forward pass
    assert (generator._absorbed is not None) == (kind == "latent")
    first = drawn(generator, samples=8, temperature=1.0)
    assert first == drawn(generator, samples=8, temperature=1.0)
    generator.release()
    assert first == drawn(generator, samples=8, temperature=1.0)


def test_captured_steps_with_an_adapter_that_changes():
    torch.manual_seed(0)
    lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    model = get_peft_model(model_of("plain"), lora).eval()
    generator = CapturedGenerator(model, [1], batch_size=16)
    for disabled in (False, True, False):
        with model.disable_adapter() if disabled else nullcontext():
            plain = TransformersGenerator(model, [1])
            assert drawn(generator, samples=4, temperature=0.0) == drawn(plain, samples=4, temperature=0.0)


def test_a_step_that_waits_for_the_device_is_not_captured():
    model = model_of("plain").eval()
    model.lm_head.register_forward_hook(lambda module, inputs, logits: logits + 0 * logits.max().item())
    with pytest.warns(UserWarning, match="uses the plain sampling loop, which is slower"):
        generator = CapturedGenerator(model, [1])
    assert drawn(generator, samples=2) == drawn(TransformersGenerator(model, [1]), samples=2)


def test_blocks_draw_the_same_on_both_devices():
    torch.manual_seed(0)
    logits, uniforms = 4 * torch.randn(64, 50_257), torch.rand(64, dtype=torch.float64)
    weights = torch.softmax(logits, dim=-1)
    together = _invert_in_blocks(weights.cuda(), uniforms.cuda()).cpu()
    assert torch.equal(together, _invert_in_blocks(weights, uniforms))
    drawn_together = draw_tokens(logits.cuda(), uniforms.cuda(), 0.7, 0.9).tolist()
    rows = [draw_tokens(logits[[row]].cuda(), uniforms[[row]].cuda(), 0.7, 0.9).item() for row in range(64)]
    assert drawn_together == rows


def test_what_a_pass_takes_is_near_the_plan():
    model = model_of("plain")
    engine = engine_for(model, pad_id=0)
    with torch.device("meta"):
        shape = Qwen2ForCausalLM(Qwen2Config(**SHAPE))
    with shapes_only(shape):
        planned = activation_bytes(shape)

    def work(tokens: int) -> None:
        quarter = tokens // 4
        engine.run(model, random_batch(model, (quarter,), ((quarter, 1.0, 0),) * 3)).loss.backward()

    with gradients_dropped(model):
        seen = measure_peak(work, torch.device("cuda"))
    assert 0.5 < planned.token / seen.token < 2
    assert free_bytes(torch.device("cuda")) <= torch.cuda.mem_get_info()[1]


@pytest.mark.parametrize("bf16", [False, True])
def test_a_reward_is_learned(tmp_path: Path, bf16: bool):
    model_of("plain").cpu().save_pretrained(tmp_path / "model")
    letter_tokenizer().save_pretrained(tmp_path / "model")
    config = GRAOConfig(
        output_dir=tmp_path / "run",
        rollout=RolloutConfig(group_size=8, max_new_tokens=12),
        training=TrainingConfig(
            steps=25, prompts_per_step=8, learning_rate=3e-3, trainer={"bf16": bf16, "disable_tqdm": True}
        ),
    )
    rows = [{"prompt": f"{letter} asks", "reference": "aaaa"} for letter in "bcdefghi"]
    seen: list[float] = []

    def share_of_a(prompts: list[str], completions: list[str]) -> list[float]:
        scores = [text.count("a") / 12 for text in completions]
        seen.append(sum(scores) / len(scores))
        return scores

    trainer = GRAOTrainer(str(tmp_path / "model"), share_of_a, config, rows, processing_class=letter_tokenizer())
    trainer.train()
    assert next(trainer.model.parameters()).is_cuda
    assert isinstance(trainer.engine, PackedEngine)
    sampler = trainer.generator.engine if bf16 else trainer.generator
    assert isinstance(trainer.generator, CopyGenerator) == bf16
    assert isinstance(sampler, CapturedGenerator)
    assert not sampler.remark
    assert 256 <= trainer.learner.budget.size <= 16384
    assert 8 <= trainer.rows <= 256
    assert seen[-1] > 3 * seen[0]


@pytest.mark.skipif(find_spec("vllm") is None, reason="needs vLLM")
@pytest.mark.filterwarnings("ignore")
def test_vllm_samples_from_the_policy_as_it_is():
    """Log-probabilities within bfloat16's rounding before and after an update, with an adapter; the same samples for
    the same requests; memory given back in sleep."""
    torch.manual_seed(0)
    lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    policy = get_peft_model(model_of("plain"), lora).eval()
    settings = VLLMConfig(memory_share=0.2, context=256)
    engine = make_generator("vllm", policy, [1], 0, 16, True, settings=settings)
    asleep, _ = torch.cuda.mem_get_info()
    prompts, sampling = [[5, 6, 7, 8], [9, 10, 11]], Sampling(samples=4, temperature=0.7, max_new_tokens=24)
    for _ in range(2):
        engine.sync(policy)
        found = in_order(engine.generate(prompts, [11, 12], sampling))
        for prompt, group in zip(prompts, found, strict=True):
            for answer in group:
                assert answer.truncated == (answer.ids[-1] != 1)
                expected = plain_logps(policy, prompt, answer.ids).cpu()
                assert (expected - torch.tensor(answer.logps)).abs().mean() < 0.1
        again = in_order(engine.generate(prompts, [11, 12], sampling))
        assert [[one.ids for one in group] for group in again] == [[one.ids for one in group] for group in found]
        with torch.no_grad():
            for weight in policy.parameters():
                weight.add_(0.05 * torch.randn_like(weight) * weight.requires_grad)
    assert torch.cuda.mem_get_info()[0] > asleep - 2**28
