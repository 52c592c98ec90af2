"""What all settings have in common: how strictly they are read, and the kinds of values they take."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field

from grao.files import usable_path

STRICT = ConfigDict(
    extra="forbid",
    use_attribute_docstrings=True,
    populate_by_name=True,
    validate_assignment=True,
    ser_json_inf_nan="constants",
)
"""Configuration of every settings dataclass: unknown keys are errors, the text below a field describes it."""

LARGEST_COUNT, LARGEST_NUMBER = 2**31, 1e30
"""What a whole number stays below, and a number does not pass: torch counts and multiplies with no larger ones."""


def _usable(value: Any) -> Any:
    return usable_path(value) if isinstance(value, str) else value


def _written_out(path: Path) -> Path:
    if "$" in str(path):
        raise ValueError(f"{path} holds a variable, and none are filled in here; write the path out")
    return path


PositiveInt = Annotated[int, Field(ge=1, lt=LARGEST_COUNT)]
NonNegativeInt = Annotated[int, Field(ge=0, lt=LARGEST_COUNT)]
Number = Annotated[float, Field(ge=-LARGEST_NUMBER, le=LARGEST_NUMBER, allow_inf_nan=False)]
PositiveFloat = Annotated[Number, Field(gt=0)]
NonNegativeFloat = Annotated[Number, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Text = Annotated[str, Field(min_length=1)]
"""Text that is not empty."""
PathText = Annotated[Text, AfterValidator(usable_path)]
"""A path, or something that may be one (a hub id), that a file system can hold."""
FilePath = Annotated[Path, BeforeValidator(_usable)]
"""A path of ours that a file system can hold, with the home folder in place of `~`."""
WrittenPath = Annotated[FilePath, AfterValidator(_written_out)]
"""A file or folder that is written to."""
Dtype = Literal["auto", "float32", "bfloat16"]
"""Number format of a model's weights; `auto` takes the checkpoint's."""
