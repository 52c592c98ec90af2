"""Weights in 4 bits (bitsandbytes, NF4 with doubly quantized scales): how they are asked for, and what one counts."""

from importlib.util import find_spec
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig

from grao.command import installing
from grao.errors import InputError

FOUR_BITS = 1 / 2 + 1 / 64 + 4 / (64 * 256)
"""Bytes a weight: half a byte, a byte for the scale of 64, four for the scale of 256 such scales."""


def four_bits(dtype: torch.dtype) -> BitsAndBytesConfig:
    """Quantizes the linear layers of a model while it is loaded, but for its output layer.

    Args:
        dtype: of the products, and of all that is not quantized.

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
    """Weights in a parameter, also where two of them share a byte."""
    state = getattr(weight, "quant_state", None)
    return cast(int, (weight if state is None else state).shape.numel())


def scales(model: nn.Module) -> list[tuple[str, Tensor]]:
    """The mean scale of each quantized weight by name: not finite if a number that it was made from was not."""
    states: list[tuple[str, Any]] = [(name, getattr(p, "quant_state", None)) for name, p in model.named_parameters()]
    return [(name, state.offset) for name, state in states if state is not None and state.offset is not None]
