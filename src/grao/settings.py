"""What all settings have in common: how strictly they are read, and the kinds of values they take."""

from dataclasses import field
from difflib import get_close_matches
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, dataclass_transform

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass

from grao.errors import InputError, listed
from grao.files import usable_path

Section = TypeVar("Section")

STRICT = ConfigDict(
    extra="forbid",
    use_attribute_docstrings=True,
    populate_by_name=True,
    validate_assignment=True,
    ser_json_inf_nan="constants",
)
"""Configuration of every settings dataclass: unknown keys are errors, the text below a field describes it."""


@dataclass_transform(frozen_default=True, field_specifiers=(field, Field))
def settings(cls: type[Section]) -> type[Section]:
    """Makes a section of settings of a class: a frozen dataclass whose values are checked.

    A mistake in the arguments is an `InputError` in one line.
    """
    checked: Any = checked_dataclass(cls, config=STRICT, frozen=True)
    begin = checked.__init__

    @wraps(begin)
    def init(self: Any, *args: Any, **values: Any) -> None:
        try:
            begin(self, *args, **values)
        except ValidationError as error:
            raise InputError(_mistake(error, checked)) from None

    checked.__init__ = init
    return checked  # type: ignore[no-any-return]


def _mistake(error: ValidationError, section: Any) -> str:
    """The mistakes in the arguments of a section: all names that are unknown, else all that is missing or wrong."""
    items = error.errors(include_url=False)
    unknown = [item for item in items if item["type"] == "unexpected_keyword_argument"]
    names = list(section.__dataclass_fields__)
    if unknown:
        return listed([_unknown(section.__name__, item, names) for item in unknown])
    missing = [".".join(map(str, item["loc"])) for item in items if item["type"] == "missing"]
    said = [_wrong(item) for item in items if item["type"] != "missing"]
    if missing:
        said.append(f"{' and '.join(missing)} {'are' if len(missing) > 1 else 'is'} missing")
    return f"{section.__name__}: {'; '.join(said)}"


def _unknown(section: str, item: Any, names: list[str]) -> str:
    at = ".".join(map(str, item["loc"]))
    near = get_close_matches(str(item["loc"][-1]), names, n=1)
    return f"{section} has no {at}" + (f"; did you mean {near[0]}?" if near else f", only {', '.join(names)}")


def _wrong(item: Any) -> str:
    at, said = ".".join(map(str, item["loc"])), item["msg"].removeprefix("Value error, ")
    if said == item["msg"]:
        return f"{at} {said.replace('Input should be', 'must be')}, got {str(item['input'])[:60]}"
    return f"{at}{': ' * bool(at)}{said}"


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
