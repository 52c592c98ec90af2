"""Random models of published shapes, created directly on the target device without any download."""

from typing import Any

import torch
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

QWEN = {"vocab_size": 151_936, "num_key_value_heads": 2, "tie_word_embeddings": True}
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": QWEN | {
        "hidden_size": 128, "num_hidden_layers": 2, "intermediate_size": 256, "num_attention_heads": 4,
        "vocab_size": 1000,
    },
    "0.5b": QWEN | {
        "hidden_size": 896, "num_hidden_layers": 24, "intermediate_size": 4864, "num_attention_heads": 14,
    },
    "1.5b": QWEN | {
        "hidden_size": 1536, "num_hidden_layers": 28, "intermediate_size": 8960, "num_attention_heads": 12,
    },
    "7b": QWEN | {
        "hidden_size": 3584, "num_hidden_layers": 28, "intermediate_size": 18_944, "num_attention_heads": 28,
        "num_key_value_heads": 4, "vocab_size": 152_064, "tie_word_embeddings": False,
    },
    "moonlight": {
        "vocab_size": 163_840, "hidden_size": 2048, "intermediate_size": 11_264, "moe_intermediate_size": 1408,
        "num_hidden_layers": 27, "num_attention_heads": 16, "num_key_value_heads": 16, "n_shared_experts": 2,
        "n_routed_experts": 64, "routed_scaling_factor": 2.446, "kv_lora_rank": 512, "q_lora_rank": None,
        "qk_rope_head_dim": 64, "v_head_dim": 128, "qk_nope_head_dim": 128, "n_group": 1, "topk_group": 1,
        "num_experts_per_tok": 6, "first_k_dense_replace": 1, "norm_topk_prob": True,
    },
}  # fmt: skip
"""Three sizes of Qwen2.5 and Moonlight-16B-A3B, as in their config.json, and a tiny model for a CPU."""


def config_of(size: str, pad: int = 0, end: int = 1) -> Qwen2Config | DeepseekV3Config:
    """Return the transformers configuration of a shape.

    Args:
        size: a key of `SHAPES`.
        pad: id of the padding token.
        end: id of the end token.
    """
    kind = DeepseekV3Config if "kv_lora_rank" in SHAPES[size] else Qwen2Config
    special = {"bos_token_id": None, "eos_token_id": end, "pad_token_id": pad}
    return kind(**SHAPES[size], max_position_embeddings=8192, **special)


def model_of(config: Qwen2Config | DeepseekV3Config, device: str, dtype: torch.dtype) -> PreTrainedModel:
    """Return a model with random weights (seed 0) on a device."""
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            kind = DeepseekV3ForCausalLM if isinstance(config, DeepseekV3Config) else Qwen2ForCausalLM
            model = kind(config)
    finally:
        torch.set_default_dtype(before)
    return model.to(dtype)
