"""What differs on a GPU: FlexAttention under the packed row, sampling there, half precision, vLLM. Skipped without."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
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
from grao.engine.packed import PackedEngine
from grao.engine.padded import PaddedEngine, plain_logps
from grao.engine.select import engine_for
from grao.rollouts.base import Sampling, make_generator
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

    trainer = GRAOTrainer(str(tmp_path / "model"), config, rows, share_of_a, processing_class=letter_tokenizer())
    trainer.train()
    assert next(trainer.model.parameters()).is_cuda
    assert isinstance(trainer.engine, PackedEngine)
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
