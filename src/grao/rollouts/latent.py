"""Latent attention (DeepSeek-V2 and -V3, Moonlight) for one new token: the query goes to the latents, not they to it.

The cache holds a latent c and a rotated key r for each token, from which the layer expands keys [U c, r] and values
V c of all heads. For one query [q, t] that is the whole context expanded for every token. But q . U c = (U^T q) . c,
and the weighted sum of V c is V applied to that of c: one small product before and one behind attend to the same.
U and V are taken from the layer anew for each rollout, adapters included.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

NAME = "grao_latent"


class Absorbed:
    """The layers of a model with latent attention, and what their queries absorb.

    Args:
        layers: attention layers.
        dtype: of the latents in the cache.
    """

    def __init__(self, layers: list[Any], dtype: torch.dtype) -> None:
        self._layers, self._dtype = layers, dtype
        self._parts = [_parts(layer, dtype) for layer in layers]

    @staticmethod
    def of(model: nn.Module, dtype: torch.dtype) -> "Absorbed | None":
        """Those of this model; None if it has no latent attention."""
        layers = [layer for layer in model.modules() if hasattr(layer, "expand_kv") and hasattr(layer, "kv_b_proj")]
        return Absorbed(layers, dtype) if layers else None

    @torch.no_grad()
    def refresh(self) -> None:
        """Takes over the weights as they are now, in place."""
        for layer, parts in zip(self._layers, self._parts, strict=True):
            for kept, part in zip(parts, _parts(layer, self._dtype), strict=True):
                kept.copy_(part)

    @contextmanager
    def attention(self) -> Iterator[None]:
        """Within it, the layers attend so. Only for one new token a row, with a cache and an additive mask."""
        before = [layer.config._attn_implementation for layer in self._layers]
        try:
            for layer, parts in zip(self._layers, self._parts, strict=True):
                layer.config._attn_implementation = NAME
                layer.expand_kv, layer.absorbed = _as_they_are, parts
            yield
        finally:
            for layer, name in zip(self._layers, before, strict=True):
                layer.config._attn_implementation = name
                for attribute in ("expand_kv", "absorbed"):
                    vars(layer).pop(attribute, None)


@torch.no_grad()
def _parts(layer: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """U, (heads, D, K), and V, (heads, K, D), of latents of K numbers: the projection of the identity."""
    weight = layer.kv_b_proj.weight
    kind = weight.dtype if weight.is_floating_point() else dtype  # 4-bit weights are no numbers
    columns = layer.kv_b_proj(torch.eye(layer.kv_lora_rank, dtype=kind, device=weight.device)).to(dtype)
    by_head = columns.view(layer.kv_lora_rank, -1, layer.qk_nope_head_dim + layer.v_head_dim).transpose(0, 1)
    keys, values = by_head.split([layer.qk_nope_head_dim, layer.v_head_dim], dim=-1)
    return keys.transpose(1, 2).contiguous(), values.contiguous()


def _as_they_are(latent: Tensor, turned: Tensor) -> tuple[Tensor, Tensor]:
    return latent, turned


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
    """An attention function of transformers, for R rows of one query token with H heads each.

    Args:
        module: with U and V in `absorbed`.
        query: (R, H, 1, D), the part that meets the latents first, then the rotated one.
        key: (R, 1, L, K), the latents.
        value: (R, 1, L, D), the rotated keys.
        attention_mask: (R, 1, 1, L), added to the scores.
        dropout: of no meaning while sampling.
        scaling: of the scores.
        kwargs: as other attention functions.

    Returns:
        (R, 1, H, D).
    """
    inward, outward = module.absorbed
    latent, rotated = key.squeeze(1), value.squeeze(1)
    plain, turned = (query.squeeze(2) * scaling).split([inward.shape[1], rotated.shape[2]], dim=-1)
    absorbed = torch.bmm(plain.transpose(0, 1), inward).transpose(0, 1)
    scores = absorbed @ latent.mT + turned @ rotated.mT + attention_mask.squeeze(1)
    mixed = scores.softmax(dim=-1, dtype=torch.float32).to(latent.dtype) @ latent
    return torch.bmm(mixed.transpose(0, 1), outward).transpose(0, 1)[:, None], None


AttentionInterface.register(NAME, latent_attention)
