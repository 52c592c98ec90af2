"""What all settings have in common: how strictly they are read, and the kinds of values they take."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field

STRICT = ConfigDict(
    extra="forbid",
    use_attribute_docstrings=True,
    populate_by_name=True,
    validate_assignment=True,
    ser_json_inf_nan="constants",
)
"""Configuration of every settings dataclass: unknown keys are errors, the text below a field describes it."""


def _written_out(path: Path) -> Path:
    """With the home folder in place of `~`: the same path wherever it is used."""
    if "$" in str(path):
        raise ValueError(f"{path} holds a variable, and none are filled in here; write the path out")
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise ValueError(f"{path}: there is no such home folder") from error


WrittenPath = Annotated[Path, AfterValidator(_written_out)]
"""A file or folder that is written to."""
PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Text = Annotated[str, Field(min_length=1)]
"""Text that is not empty."""
Dtype = Literal["auto", "float32", "bfloat16"]
"""Number format of a model's weights; `auto` takes the checkpoint's."""
