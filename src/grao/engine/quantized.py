"""4-bit weights (bitsandbytes NF4 with double quantization): how to request them, and their size."""

from importlib.util import find_spec
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig

from grao.command import installing
from grao.errors import InputError

FOUR_BITS = 1 / 2 + 1 / 64 + 4 / (64 * 256)
"""Bytes per weight: half a byte, plus a 1-byte scale per 64 weights and a 4-byte scale per 256 of those scales."""


def four_bits(dtype: torch.dtype) -> BitsAndBytesConfig:
    """Return the configuration that quantizes all linear layers except the output layer while a model is loaded.

    Args:
        dtype: of matrix products.

    Raises:
        InputError: if bitsandbytes is not installed.
    """
    if find_spec("bitsandbytes") is None:
        raise InputError(f"model.quantization: 4bit needs bitsandbytes: {installing('quantized')}")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def elements(weight: Tensor) -> int:
    """Return the number of weights in a parameter, 4-bit or not."""
    state = getattr(weight, "quant_state", None)
    return cast(int, (weight if state is None else state).shape.numel())


def scales(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Return the mean scale of each quantized weight by name; it is not finite if any original weight was not."""
    states: list[tuple[str, Any]] = [(name, getattr(p, "quant_state", None)) for name, p in model.named_parameters()]
    return [(name, state.offset) for name, state in states if state is not None and state.offset is not None]
