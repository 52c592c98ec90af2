"""What the sections of a recipe have in common: how strictly they are read, and kinds of numbers."""

from typing import Annotated

from pydantic import ConfigDict, Field

STRICT = ConfigDict(
    extra="forbid",
    use_attribute_docstrings=True,
    populate_by_name=True,
    validate_assignment=True,
    ser_json_inf_nan="constants",
)

PositiveInt = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
