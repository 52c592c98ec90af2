"""The section of an audit: how much `grao reward audit` looks at before any training. A run takes no notice of it."""

from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from grao.config.basics import STRICT, PositiveInt
from grao.config.reward import RewardConfig


@dataclass(config=STRICT, frozen=True)
class AuditConfig:
    """What `grao reward audit` looks at; training takes no notice of it."""

    pairs: PositiveInt = 200
    """Reference and rejected answers that are compared, one pair a prompt."""
    edits: Annotated[int, Field(ge=0)] = 50
    """References that are compared with themselves, as they are and trivially edited."""
    prompts: PositiveInt = 64
    """Training prompts that the model answers with a group each: the first that the run will see."""
    second: RewardConfig | None = None
    """Another reward to compare with; by default that of `watch`."""
    output: Path | None = None
    """Folder of the audit; by default the run folder's name with -audit."""
