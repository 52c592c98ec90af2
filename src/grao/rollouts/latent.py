"""Multi-head latent attention (DeepSeek-V2 and -V3, Moonlight) for decoding, without expanding the cache.

The cache holds a latent c and a rotated key r for each token, from which the layer computes keys [U c, r] and values
V c for all heads. In decoding, this would expand the whole context for every new token. But for a query [q, t],
q . U c = (U^T q) . c, and the weighted sum of V c equals V applied to the weighted sum of c. So one small product with
U before attention and one with V after it give the same result on the latents themselves ("weight absorption").
U and V are read from the layer again for each rollout, adapters included.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

NAME = "grao_latent"


class Absorbed:
    """The latent-attention layers of a model, with copies of their matrices U and V.

    Args:
        layers: attention layers.
        dtype: dtype of the latents in the cache.
    """

    def __init__(self, layers: list[Any], dtype: torch.dtype) -> None:
        self._layers, self._dtype = layers, dtype
        self._parts = [_parts(layer, dtype) for layer in layers]

    @staticmethod
    def of(model: nn.Module, dtype: torch.dtype) -> "Absorbed | None":
        """Return the layers of a model; None if it has no latent attention.

        Args:
            model: a transformers model.
            dtype: of the latents in the cache.
        """
        layers = [layer for layer in model.modules() if hasattr(layer, "expand_kv") and hasattr(layer, "kv_b_proj")]
        return Absorbed(layers, dtype) if layers else None

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the current weights, in place so that captured graphs see them."""
        for layer, parts in zip(self._layers, self._parts, strict=True):
            for part, current in zip(parts, _parts(layer, self._dtype), strict=True):
                part.copy_(current)

    @contextmanager
    def attention(self) -> Iterator[None]:
        """Use `latent_attention` inside the context; for one new token per row, with a cache and an additive mask."""
        before = [layer.config._attn_implementation for layer in self._layers]
        try:
            for layer, parts in zip(self._layers, self._parts, strict=True):
                layer.config._attn_implementation = NAME
                layer.expand_kv, layer.absorbed = _unexpanded, parts
            yield
        finally:
            for layer, name in zip(self._layers, before, strict=True):
                layer.config._attn_implementation = name
                for attribute in ("expand_kv", "absorbed"):
                    vars(layer).pop(attribute, None)


@torch.no_grad()
def _parts(layer: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return U, (H, D, K), and V, (H, K, W), of H heads for latents of K numbers.

    They are the layer's projection of the identity matrix, so adapters and quantization are included.
    """
    weight = layer.kv_b_proj.weight
    input_dtype = weight.dtype if weight.is_floating_point() else dtype  # 4-bit weights are stored as integers
    columns = layer.kv_b_proj(torch.eye(layer.kv_lora_rank, dtype=input_dtype, device=weight.device)).to(dtype)
    by_head = columns.view(layer.kv_lora_rank, -1, layer.qk_nope_head_dim + layer.v_head_dim).transpose(0, 1)
    keys, values = by_head.split([layer.qk_nope_head_dim, layer.v_head_dim], dim=-1)
    return keys.transpose(1, 2).contiguous(), values.contiguous()


def _unexpanded(latent: Tensor, rotated: Tensor) -> tuple[Tensor, Tensor]:
    return latent, rotated


def latent_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    dropout: float = 0.0,
    scaling: float = 1.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend to the latents directly; an attention function of transformers, for R rows of one query token, H heads.

    Args:
        module: the attention layer, with U and V in `absorbed`.
        query: (R, H, 1, D + P): D numbers that are multiplied with latents, then P rotated ones.
        key: (R, 1, L, K), the latents.
        value: (R, 1, L, P), the rotated keys.
        attention_mask: (R, 1, 1, L), added to the scores.
        dropout: ignored; it is 0 in sampling.
        scaling: of the scores.
        **kwargs: ignored.

    Returns:
        (R, 1, H, W), and None in place of attention weights.
    """
    inward, outward = module.absorbed
    latent, rotated = key.squeeze(1), value.squeeze(1)
    plain_query, rotated_query = (query.squeeze(2) * scaling).split([inward.shape[1], rotated.shape[2]], dim=-1)
    absorbed = torch.bmm(plain_query.transpose(0, 1), inward).transpose(0, 1)
    scores = absorbed @ latent.mT + rotated_query @ rotated.mT + attention_mask.squeeze(1)
    mixed = scores.softmax(dim=-1, dtype=torch.float32).to(latent.dtype) @ latent
    return torch.bmm(mixed.transpose(0, 1), outward).transpose(0, 1)[:, None], None


AttentionInterface.register(NAME, latent_attention)
