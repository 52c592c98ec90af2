"""Tiny models with real transformers architectures (Qwen3, Qwen3-MoE) and their tokenizer, pretrained locally.

The tokenizer has a closed vocabulary: one token per word or digit, and bytes for everything else, so that no text is
lost. Pretraining is plain torch: next-token loss on answers to prompts of the split `pretraining`, a given share of
them right, with AdamW, warm-up and cosine decay to zero. The model learns right and wrong answers at their frequency.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from random import Random
from typing import Any, Literal

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

from grao.sandbox.kinds import Task
from grao.sandbox.tasks import USUAL_KINDS, best, corpus_answer, draw, reference, rejected

Architecture = Literal["dense", "moe"]
Progress = Callable[[int, int, float], None]
"""Called with (step from 1, number of steps, loss in nats per token)."""

PIECES = r"User: |\nAssistant:\n| ?[A-Za-z']+| ?[0-9]| ?[^\sA-Za-z0-9]|\s"
"""Pattern of the pieces that text is split into; a space belongs to the word after it."""
END, PAD = "<|end|>", "<|pad|>"
TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'user' %}User: {{ message.content }}\n"
    "{% elif message.role == 'assistant' %}Assistant:\n{{ message.content }}<|end|>"
    "{% else %}{{ raise_exception('only user and assistant speak here') }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}Assistant:\n{% endif %}"
)
"""The chat template, which formats a user message like the prompt of a task."""
SAMPLE = 1500
"""Tasks of each kind drawn to collect the vocabulary: enough to find every word in every position."""

STEPS = 1600
BATCH = 16
"""Answers per step."""
LEARNING_RATE = 4e-3
CHUNK = 32
"""Steps whose answers are drawn together, so that answers of similar length share a batch."""


def build_tokenizer(kinds: tuple[str, ...] = USUAL_KINDS) -> PreTrainedTokenizerFast:
    """Build the tokenizer, which depends on the kinds only. As in Qwen, there is no BOS token."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    words = (byte_level.pre_tokenize_str(piece)[0][0] for piece in vocabulary(kinds))
    tokens = dict.fromkeys([END, PAD, *sorted(pre_tokenizers.ByteLevel.alphabet()), *words])
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(PIECES), "isolated"), byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    settings: dict[str, Any] = {"padding_side": "left", "clean_up_tokenization_spaces": False, "model_max_length": 256}
    settings |= {"eos_token": END, "pad_token": PAD, "chat_template": TEMPLATE}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **settings)


@cache
def vocabulary(kinds: tuple[str, ...] = USUAL_KINDS) -> tuple[str, ...]:
    """Return the words of these kinds of tasks, each with the space before it, in alphabetical order."""
    rng, pieces = Random(0), set[str]()  # noqa: S311
    for kind in kinds:
        for _ in range(SAMPLE):
            for text in texts(draw(rng, "pretraining", kind), rng):
                pieces.update(re.findall(PIECES, text))
    return tuple(sorted(pieces))


def texts(task: Task, rng: Random) -> list[str]:
    """Return the prompt of a task and answers of every quality."""
    return [task.prompt, corpus_answer(task, rng, 0.5), *(make(task, rng) for make in (reference, rejected, best))]


def build_model(architecture: Architecture, tokenizer: PreTrainedTokenizerFast, seed: int) -> PreTrainedModel:
    """Build a model with random weights.

    It has about 0.8M active parameters per token; `moe` has 2.6M in total.

    Args:
        architecture: `dense` or `moe`.
        tokenizer: determines the vocabulary and the end token.
        seed: of the weights.
    """
    shape = {"hidden_size": 128, "num_hidden_layers": 3, "intermediate_size": 512, "max_position_embeddings": 256}
    shape |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "vocab_size": len(tokenizer)}
    if architecture == "moe":
        shape |= {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 256, "norm_topk_prob": True}
    weights = {"initializer_range": 0.08, "tie_word_embeddings": True}
    tokens = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    kind = "qwen3" if architecture == "dense" else "qwen3_moe"
    config = AutoConfig.for_model(kind, **shape, **weights, **tokens, bos_token_id=None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    model.generation_config = GenerationConfig(**tokens)
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
    """Train the model in place on a corpus in which `share_right` of the answers are right.

    Args:
        model: as `build_model` returns it.
        tokenizer: the model's.
        share_right: 0 to 1.
        seed: of the corpus.
        steps: optimizer steps.
        progress: called after every step.
        kinds: of tasks in the corpus.
    """
    optimizer = AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.05, foreach=True)
    warmup = max(1, steps // 20)  # 5 %, then a cosine to zero
    schedule = LambdaLR(optimizer, lambda i: min((i + 1) / warmup, 0.5 * (1 + math.cos(math.pi * i / steps))))
    batches = _batches(tokenizer, share_right, Random(seed), kinds)  # noqa: S311
    model.train()
    for step, (tokens, labels) in zip(range(1, steps + 1), batches, strict=False):
        hidden = model.base_model(input_ids=tokens, use_cache=False).last_hidden_state[:, :-1]
        is_answer = labels[:, 1:] >= 0  # (B, T - 1)
        loss = cross_entropy(model.lm_head(hidden[is_answer]), labels[:, 1:][is_answer])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if progress is not None:
            progress(step, steps, loss.item())
    model.eval()


def _batches(
    tokenizer: PreTrainedTokenizerFast, share_right: float, rng: Random, kinds: Sequence[str]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield endless batches of token ids and labels (-100 = ignored), both (B, T), padded on the right."""
    while True:
        tasks = [draw(rng, "pretraining", kinds=kinds) for _ in range(CHUNK * BATCH)]
        prompts = tokenizer([task.prompt for task in tasks]).input_ids
        answers = tokenizer([corpus_answer(task, rng, share_right) for task in tasks]).input_ids
        pairs = sorted(zip(prompts, answers, strict=True), key=lambda pair: len(pair[0]) + len(pair[1]))
        batches = [pairs[i : i + BATCH] for i in range(0, len(pairs), BATCH)]
        rng.shuffle(batches)
        for batch in batches:
            end = tokenizer.eos_token_id
            tokens = [torch.tensor([*prompt, *answer, end]) for prompt, answer in batch]
            labels = [torch.tensor([*[-100] * len(prompt), *answer, end]) for prompt, answer in batch]
            yield pad_sequence(tokens, True, tokenizer.pad_token_id), pad_sequence(labels, True, -100)
