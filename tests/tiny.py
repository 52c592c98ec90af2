"""Small models, groups and folders that tests build on the spot."""

import json
import random
from collections.abc import Mapping
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from grao.types import Answer, Batch, Encoded, Example, Group

LETTERS = "abcdefghijklmnopqrstuvwxyz .?!0123456789"
END = 1


def letter_tokenizer() -> PreTrainedTokenizerFast:
    """One token a letter; `<pad>` 0, `<end>` 1, anything unknown `<unk>` 2."""
    vocabulary = {token: index for index, token in enumerate(["<pad>", "<end>", "<unk>", *LETTERS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<end>", unk_token="<unk>")


def tiny_model(kind: str = "llama", seed: int = 0, vocabulary: int = len(LETTERS) + 3) -> PreTrainedModel:
    """A random model of two layers: `llama`, `qwen3`, `moe` or `gpt2`."""
    torch.manual_seed(seed)
    shape = {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 256,
        "pad_token_id": 0,
        "eos_token_id": END,
        "bos_token_id": None,
        "initializer_range": 0.2,
    }
    if kind == "gpt2":
        gpt2 = GPT2Config(
            vocab_size=vocabulary, n_embd=32, n_layer=2, n_head=4, n_positions=256, initializer_range=0.2,
            pad_token_id=0, eos_token_id=END, bos_token_id=None, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        )  # fmt: skip
        return GPT2LMHeadModel(gpt2).eval()
    if kind == "moe":
        moe = Qwen3MoeConfig(**shape, moe_intermediate_size=24, num_experts=4, num_experts_per_tok=2)
        return Qwen3MoeForCausalLM(moe).eval()
    if kind == "qwen3":
        return Qwen3ForCausalLM(Qwen3Config(**shape)).eval()
    return LlamaForCausalLM(LlamaConfig(**shape)).eval()


def saved_model(folder: Path, kind: str = "llama", seed: int = 0) -> Path:
    """Model and tokenizer on disk."""
    tiny_model(kind, seed).save_pretrained(folder)
    letter_tokenizer().save_pretrained(folder)
    return folder


def study_folder(folder: Path, study: str, rewards: str) -> Path:
    """A folder with model, data (columns prompt, reference, worse), `rewards.py` and `study.yaml`."""
    saved_model(folder / "model")
    words = [f"{one} {two}" for one in ("red", "blue", "green", "grey") for two in ("cat", "dog", "hen", "cow", "bee")]
    rows = [{"prompt": f"say {word}", "reference": f"a {word} it is.", "worse": "no."} for word in words]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "rewards.py").write_text(rewards)
    (folder / "study.yaml").write_text(study)
    return folder


def batch_of(prompts, completions, groups, weights) -> Batch:
    """S answers with their prompts, the number of their group and their weight; a group's answers are neighbours."""
    rows = list(zip(prompts, completions, groups, torch.as_tensor(weights).tolist(), strict=True))
    return Batch(
        tuple(
            Group(
                Encoded(Example("", "", None, {}, 0), "", tuple(prompts[groups.index(number)]), "", ()),
                tuple(Answer(tuple(ids), weight=weight) for _, ids, group, weight in rows if group == number),
                number,
            )
            for number in dict.fromkeys(groups)
        )
    )


def in_order(sampled) -> list:
    """What a sampling engine yields, in the order of the prompts."""
    by_index = dict(sampled)
    return [by_index[index] for index in range(len(by_index))]


def random_groups(seed: int, prompts: int = 3, samples: int = 4, longest: int = 9):
    """Token ids of B prompts, B groups of G completions and B references, of varied length."""
    draw = random.Random(seed)

    def tokens(length: int) -> list[int]:
        return [draw.randrange(3, len(LETTERS) + 3) for _ in range(length)]

    return (
        [tokens(draw.randint(1, longest)) for _ in range(prompts)],
        [[tokens(draw.randint(1, longest)) for _ in range(samples)] for _ in range(prompts)],
        [tokens(draw.randint(1, longest)) for _ in range(prompts)],
    )


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A copy of every parameter's gradient, zeros where it has none."""
    return {
        name: (parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)).clone()
        for name, parameter in model.named_parameters()
    }


def relative_gap(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Largest relative difference in norm over all tensors."""
    assert one.keys() == other.keys()
    return max(((one[name] - other[name]).norm() / other[name].norm().clamp(min=1e-12)).item() for name in one)


def option_words(settings: Mapping[str, str]) -> list[str]:
    """Settings as words of a command line; empty ones are left out."""
    return [word for name, value in settings.items() if value for word in (f"--{name}", value)]
