"""The fields of a recipe as a flat list of facts, read off its dataclasses: for help, messages and comments."""

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
"""Converts recipes of a class from and to plain values."""
ADAPTER = TypeAdapter(Recipe)
"""Converts recipes of a run from and to plain values."""


class FieldFacts(NamedTuple):
    """One field."""

    path: Location
    """`("rollout", "group_size")`; entries of a list stand below `0`: `("rewards", "0", "weight")`."""
    kind: str
    """What it takes, in words: `integer >=2`."""
    required: bool
    default: Any
    """Plain value; None where the field is required."""
    doc: str
    example: Any
    """A plausible value; None where neither help nor messages need one."""


class SectionFacts(NamedTuple):
    """One section and the fields directly in it."""

    path: Location
    doc: str
    required: bool
    optional: bool
    """May be null, and is by default."""
    variant: str | None
    """Where a section is one of several kinds that its key `name` tells apart: that name. The default comes first."""
    fields: tuple[FieldFacts, ...]


@cache
def sections(root: type = Recipe) -> tuple[SectionFacts, ...]:
    """All sections, the recipe itself (path `()`) first, each before those inside it."""
    schema = adapter(root).json_schema(by_alias=True, schema_generator=_Documented)
    return tuple(_sections(schema, schema["$defs"]))


@cache
def names(root: type = Recipe) -> dict[Location, tuple[str, ...]]:
    """Section -> the keys it knows: its fields, then its sections, in their order."""
    known: dict[Location, dict[str, None]] = {section.path: {} for section in sections(root)}
    fields = [item.path for section in sections(root) for item in section.fields]
    for path in [*fields, *(section.path for section in sections(root)[1:])]:
        *parent, key = path[:-1] if path[-1] == "0" else path
        known[tuple(parent)][key] = None
    return {path: tuple(keys) for path, keys in known.items()}


@cache
def field_facts(root: type = Recipe) -> dict[Location, FieldFacts]:
    """Path -> facts, for every field that is no section; of several kinds of a section the first that has it."""
    return {item.path: item for section in reversed(sections(root)) for item in section.fields}


def variants(path: Location, root: type = Recipe) -> dict[str, SectionFacts]:
    """Name -> section, where a section is one of several kinds; else empty."""
    return {section.variant: section for section in sections(root) if section.path == path and section.variant}


def general(path: Location) -> Location:
    """The path with 0 for every list position, as the facts are filed."""
    return tuple("0" if part.isdecimal() else part for part in path)


def example(path: Location, root: type = Recipe) -> Any:
    """A plausible value of a required field, or a section with those of its fields that have one."""
    if path in field_facts(root):
        return field_facts(root)[path].example
    if (*path, "0") in names(root):
        return [example((*path, "0"), root)]
    inside = [item for item in field_facts(root).values() if item.path[:-1] == path and item.example is not None]
    return {item.path[-1]: item.example for item in inside}


def whole(number: Any) -> Any:
    """A float without a fraction as a whole number, unless it is huge; anything else as it is."""
    return int(number) if isinstance(number, float) and number.is_integer() and abs(number) < 1e15 else number


_Traits = tuple[bool, bool, str | None]
"""`required`, `optional` and `variant` of a section."""


class _Documented(GenerateJsonSchema):
    """Describes inherited fields too: pydantic takes the text below a field only in the class that declares it."""

    def dataclass_schema(self, schema: DataclassSchema) -> dict[str, Any]:
        """JSON schema of one section."""
        described = super().dataclass_schema(schema)
        for base in schema["cls"].__mro__:
            for name, info in getattr(base, "__pydantic_fields__", {}).items():
                if info.description and name in described["properties"]:
                    described["properties"][name].setdefault("description", info.description)
        return described


def _sections(
    schema: dict[str, Any], definitions: dict[str, Any], path: Location = (), traits: _Traits = (True, False, None)
) -> Iterator[SectionFacts]:
    """The section of a JSON schema object and, after it, those inside it.

    A field is a section if its schema refers to one: directly, optionally (`anyOf`), as one of several kinds (`oneOf`),
    or as the entry of a list, which stands below `0`.
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
            told_apart = target["properties"]["name"]["default"] if "oneOf" in item else None
            inside.append(_sections(target, definitions, at, (name in needed, "anyOf" in item, told_apart)))
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
    usual = (None, LARGEST_COUNT, LARGEST_NUMBER, -LARGEST_NUMBER)  # nobody needs to be told
    bounds = ", ".join(
        f"{sign}{whole(schema[bound])}" for bound, sign in signs.items() if schema.get(bound) not in usual
    )
    return f"{words.get(schema['type'], schema['type'])} {bounds}".strip()
