"""The section of a reward model as a reward."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from grao.config.basics import STRICT, PositiveInt


@dataclass(config=STRICT, frozen=True)
class RewardModelConfig:
    """A trained reward model: R(o, y) = r(o) - r(y)."""

    path: Annotated[str, Field(min_length=1, examples=["runs/reward/model"])]
    """Its folder, such as `model/` of `grao reward train`, or a hub id (safetensors only)."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of its weights; `auto` takes the checkpoint's."""
    token_budget: PositiveInt = 16384
    """Tokens that are scored at once (memory)."""
