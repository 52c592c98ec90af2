"""The sections and fields of a recipe, extracted from its dataclasses for help, error messages and comments."""

from collections.abc import Iterator
from functools import cache
from itertools import chain
from typing import Any, NamedTuple

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core.core_schema import DataclassSchema

from grao.config.recipe import Recipe
from grao.config.strict_yaml import Location
from grao.settings import LARGEST_COUNT, LARGEST_NUMBER

adapter = TypeAdapter
"""Converts recipes of a class to and from plain values."""
ADAPTER = TypeAdapter(Recipe)
"""Converts recipes of a run to and from plain values."""


class FieldFacts(NamedTuple):
    """Description of a field."""

    path: Location
    """`("rollout", "group_size")`; entries of a list have index `0`: `("rewards", "0", "weight")`."""
    kind: str
    """Accepted values in words: `integer >=2`."""
    required: bool
    default: Any
    """Plain value; None if the field is required."""
    doc: str
    example: Any
    """A plausible value; None if neither help nor messages need one."""


class SectionFacts(NamedTuple):
    """Description of a section and of its own fields."""

    path: Location
    doc: str
    required: bool
    optional: bool
    """Whether it may be null, which is then the default."""
    variant: str | None
    """For a section with several variants: the value of `name` that selects this one. The default comes first."""
    fields: tuple[FieldFacts, ...]


@cache
def sections(root: type = Recipe) -> tuple[SectionFacts, ...]:
    """Return all sections, parents before children, starting with the recipe itself (path `()`)."""
    schema = adapter(root).json_schema(by_alias=True, schema_generator=_Documented)
    return tuple(_sections(schema, schema["$defs"]))


@cache
def names(root: type = Recipe) -> dict[Location, tuple[str, ...]]:
    """Return section path -> its keys: first fields, then sections, in order of definition."""
    known: dict[Location, dict[str, None]] = {section.path: {} for section in sections(root)}
    fields = [item.path for section in sections(root) for item in section.fields]
    for path in [*fields, *(section.path for section in sections(root)[1:])]:
        *parent, key = path[:-1] if path[-1] == "0" else path
        known[tuple(parent)][key] = None
    return {path: tuple(keys) for path, keys in known.items()}


@cache
def field_facts(root: type = Recipe) -> dict[Location, FieldFacts]:
    """Return path -> description of every field. If several variants of a section have it, the first counts."""
    return {item.path: item for section in reversed(sections(root)) for item in section.fields}


def variants(path: Location, root: type = Recipe) -> dict[str, SectionFacts]:
    """Return name -> section for the variants of a section; empty if it has none."""
    return {section.variant: section for section in sections(root) if section.path == path and section.variant}


def general(path: Location) -> Location:
    """Return the path with 0 in place of every list index, as in `FieldFacts.path`."""
    return tuple("0" if part.isdecimal() else part for part in path)


def example(path: Location, root: type = Recipe) -> Any:
    """Return a plausible value for a required field; for a section, the examples of its required fields."""
    if path in field_facts(root):
        return field_facts(root)[path].example
    if (*path, "0") in names(root):
        return [example((*path, "0"), root)]
    inside = [item for item in field_facts(root).values() if item.path[:-1] == path and item.example is not None]
    return {item.path[-1]: item.example for item in inside}


def whole(number: Any) -> Any:
    """Convert a float without fraction to an integer, unless it is huge; return anything else unchanged."""
    return int(number) if isinstance(number, float) and number.is_integer() and abs(number) < 1e15 else number


_Traits = tuple[bool, bool, str | None]
"""`required`, `optional` and `variant` of a section."""


class _Documented(GenerateJsonSchema):
    """JSON schema with docstrings of inherited fields: pydantic reads only those of the class that declares a field."""

    def dataclass_schema(self, schema: DataclassSchema) -> dict[str, Any]:
        """Return the JSON schema of a section."""
        described = super().dataclass_schema(schema)
        for base in schema["cls"].__mro__:
            for name, info in getattr(base, "__pydantic_fields__", {}).items():
                if info.description and name in described["properties"]:
                    described["properties"][name].setdefault("description", info.description)
        return described


def _sections(
    schema: dict[str, Any], definitions: dict[str, Any], path: Location = (), traits: _Traits = (True, False, None)
) -> Iterator[SectionFacts]:
    """Yield the section of a JSON schema object, then its subsections.

    A field is a section if its schema refers to one: directly, as an optional section (`anyOf`), as one of several
    variants (`oneOf`), or as the entry of a list, which has index `0`.
    """
    needed = schema.get("required", [])
    fields, inside = [], []
    for name, item in schema["properties"].items():
        choices = item.get("oneOf") or item.get("anyOf") or [item.get("items", item)]
        targets = [definitions[choice["$ref"].rpartition("/")[2]] for choice in choices if "$ref" in choice]
        if not targets:
            default = None if name in needed else item.get("default", {})
            doc, (example, *_) = item.get("description", ""), item.get("examples", [None])
            fields.append(FieldFacts((*path, name), _kind(item), name in needed, default, doc, example))
        at = (*path, name, "0") if "items" in item else (*path, name)
        for target in targets:
            variant = target["properties"]["name"]["default"] if "oneOf" in item else None
            inside.append(_sections(target, definitions, at, (name in needed, "anyOf" in item, variant)))
    yield SectionFacts(path, schema.get("description", ""), *traits, tuple(fields))
    yield from chain(*inside)


def _kind(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " | ".join(_kind(choice) for choice in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return " | ".join(schema.get("enum") or [schema["const"]])
    if schema["type"] == "array":
        return f"list of {_kind(schema['items'])}"
    words = {"string": "text", "boolean": "true | false", "object": "mapping"}
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    usual = (None, LARGEST_COUNT, LARGEST_NUMBER, -LARGEST_NUMBER)  # bounds that need no mention
    bounds = ", ".join(
        f"{sign}{whole(schema[bound])}" for bound, sign in signs.items() if schema.get(bound) not in usual
    )
    return f"{words.get(schema['type'], schema['type'])} {bounds}".strip()
