"""Base of all settings: the decorator that validates them, and common value types."""

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
"""pydantic configuration of all settings: unknown keys are errors, and the docstring of a field describes it."""


@dataclass_transform(frozen_default=True, field_specifiers=(field, Field))
def settings(cls: type[Section]) -> type[Section]:
    """Class decorator that makes a section of settings: a frozen dataclass with validated values.

    Its constructor raises `InputError`, with a one-line message, if an argument is invalid.
    """
    checked: Any = checked_dataclass(cls, config=STRICT, frozen=True)
    validated_init = checked.__init__

    @wraps(validated_init)
    def init(self: Any, *args: Any, **values: Any) -> None:
        try:
            validated_init(self, *args, **values)
        except ValidationError as error:
            raise InputError(_message(error, checked)) from None

    checked.__init__ = init
    return checked  # type: ignore[no-any-return]


def _message(error: ValidationError, section: Any) -> str:
    """Describe invalid arguments: all unknown names if there are any, else all wrong and missing values."""
    items = error.errors(include_url=False)
    unknown = [item for item in items if item["type"] == "unexpected_keyword_argument"]
    names = list(section.__dataclass_fields__)
    if unknown:
        return listed([_unknown(section.__name__, item, names) for item in unknown])
    missing = [".".join(map(str, item["loc"])) for item in items if item["type"] == "missing"]
    problems = [_wrong(item) for item in items if item["type"] != "missing"]
    if missing:
        problems.append(f"{' and '.join(missing)} {'are' if len(missing) > 1 else 'is'} missing")
    return f"{section.__name__}: {'; '.join(problems)}"


def _unknown(section: str, item: Any, names: list[str]) -> str:
    name = ".".join(map(str, item["loc"]))
    similar = get_close_matches(str(item["loc"][-1]), names, n=1)
    return f"{section} has no {name}" + (f"; did you mean {similar[0]}?" if similar else f", only {', '.join(names)}")


def _wrong(item: Any) -> str:
    name, message = ".".join(map(str, item["loc"])), item["msg"].removeprefix("Value error, ")
    if message == item["msg"]:
        return f"{name} {message.replace('Input should be', 'must be')}, got {str(item['input'])[:60]}"
    return f"{name}{': ' * bool(name)}{message}"


LARGEST_COUNT, LARGEST_NUMBER = 2**31, 1e30
"""Upper bounds of integers (exclusive) and numbers (inclusive): torch cannot handle larger ones."""


def _usable(value: Any) -> Any:
    return usable_path(value) if isinstance(value, str) else value


def _without_variables(path: Path) -> Path:
    if "$" in str(path):
        raise ValueError(f"{path} contains a variable, and variables are not expanded; write the path out")
    return path


PositiveInt = Annotated[int, Field(ge=1, lt=LARGEST_COUNT)]
NonNegativeInt = Annotated[int, Field(ge=0, lt=LARGEST_COUNT)]
Number = Annotated[float, Field(ge=-LARGEST_NUMBER, le=LARGEST_NUMBER, allow_inf_nan=False)]
PositiveFloat = Annotated[Number, Field(gt=0)]
NonNegativeFloat = Annotated[Number, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Text = Annotated[str, Field(min_length=1)]
"""Non-empty text."""
PathText = Annotated[Text, AfterValidator(usable_path)]
"""A path or hub id that is valid as a path."""
FilePath = Annotated[Path, BeforeValidator(_usable)]
"""A local path, with `~` expanded."""
WrittenPath = Annotated[FilePath, AfterValidator(_without_variables)]
"""A file or folder to write to."""
Dtype = Literal["auto", "float32", "bfloat16"]
"""Data type of a model's weights; `auto` is the checkpoint's."""
