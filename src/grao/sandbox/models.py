"""Tiny models with real transformers architectures, pretrained on the spot: Qwen3 and Qwen3-MoE.

Pretraining is plain torch: answers to prompts of the split `pretraining`, of which a given share is right, next-token
loss on the answers, AdamW with warm-up and a cosine to zero. The model learns what is right and what people say
instead, and how often.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from grao.sandbox.answers import corpus_answer
from grao.sandbox.tasks import USUAL_KINDS, draw

Architecture = Literal["dense", "moe"]
Progress = Callable[[int, int, float], None]
"""Called with the step (from 1), all steps, and the loss in nats per token."""

STEPS = 1600
BATCH = 16
"""Answers of one step."""
LEARNING_RATE = 4e-3
CHUNK = 32
"""Steps drawn at once, so that answers of similar length share a batch."""


def build_model(architecture: Architecture, tokenizer: PreTrainedTokenizerFast, seed: int) -> PreTrainedModel:
    """A model with random weights and about 0.8M parameters that work on a token; `moe` holds 2.6M in all."""
    common: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "intermediate_size": 512,
        "max_position_embeddings": 256,
        "initializer_range": 0.08,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel
        if architecture == "dense":
            model = Qwen3ForCausalLM(Qwen3Config(**common))
        else:
            config = Qwen3MoeConfig(
                **common, num_experts=8, num_experts_per_tok=2, moe_intermediate_size=256, norm_topk_prob=True
            )
            model = Qwen3MoeForCausalLM(config)
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    return model


def pretrain(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    share_right: float,
    seed: int,
    steps: int = STEPS,
    progress: Progress | None = None,
    kinds: Sequence[str] = USUAL_KINDS,
) -> None:
    """Trains the model in place on a corpus of these kinds in which `share_right` of the answers are right."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.05, foreach=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _schedule(step, steps))
    batches = _batches(tokenizer, share_right, Random(seed), kinds)  # noqa: S311
    model.train()
    for step in range(1, steps + 1):
        tokens, labels = next(batches)
        hidden = model.base_model(input_ids=tokens, use_cache=False).last_hidden_state[:, :-1]
        spoken = labels[:, 1:] >= 0  # (B, T - 1)
        loss = cross_entropy(model.lm_head(hidden[spoken]), labels[:, 1:][spoken])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if progress is not None:
            progress(step, steps, loss.item())
    model.eval()


def _schedule(step: int, steps: int) -> float:
    """Factor of the learning rate: 5 % warm-up, then a cosine to zero."""
    warmup = max(1, steps // 20)
    return min((step + 1) / warmup, 0.5 * (1 + math.cos(math.pi * step / steps)))


def _batches(
    tokenizer: PreTrainedTokenizerFast, share_right: float, rng: Random, kinds: Sequence[str]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Token ids and labels (-100 = not learned), both (B, T), padded on the right, without end."""
    while True:
        tasks = [draw(rng, "pretraining", kinds=kinds) for _ in range(CHUNK * BATCH)]
        prompts = tokenizer([task.prompt for task in tasks]).input_ids
        answers = tokenizer([corpus_answer(task, rng, share_right) for task in tasks]).input_ids
        pairs = sorted(zip(prompts, answers, strict=True), key=lambda pair: len(pair[0]) + len(pair[1]))
        batches = [pairs[i : i + BATCH] for i in range(0, len(pairs), BATCH)]
        rng.shuffle(batches)
        for batch in batches:
            width = max(len(prompt) + len(answer) + 1 for prompt, answer in batch)
            tokens = torch.full((BATCH, width), tokenizer.pad_token_id)
            labels = torch.full((BATCH, width), -100)
            for row, (prompt, answer) in enumerate(batch):
                closed = torch.tensor([*answer, tokenizer.eos_token_id])
                span = slice(len(prompt), len(prompt) + len(closed))
                tokens[row, : len(prompt)] = torch.tensor(prompt)
                tokens[row, span] = labels[row, span] = closed
            yield tokens, labels
