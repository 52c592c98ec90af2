"""The recipe's fields as a flat list of facts, read off the dataclasses: for help, messages and comments."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import TypeAdapter

from grao.config.recipe import Recipe


@cache
def adapter(root: type) -> TypeAdapter[Any]:
    """Between a recipe of this class and plain values."""
    return TypeAdapter(root)


ADAPTER: TypeAdapter[Recipe] = adapter(Recipe)
"""Between a Recipe and plain values."""


@dataclass(frozen=True)
class FieldFacts:
    """One field."""

    path: tuple[str, ...]
    """`("rollout", "group_size")`; entries of a list stand below `0`: `("rewards", "0", "weight")`."""
    kind: str
    """What it takes, in words: `integer >=2`."""
    required: bool
    default: Any
    """Plain value; None where the field is required."""
    doc: str
    example: Any
    """A plausible value, of required fields and others that need one."""

    @property
    def takes_text(self) -> bool:
        """Whether any text is a value of this field."""
        return "text" in self.kind.split(" | ")


@dataclass(frozen=True)
class SectionFacts:
    """One section and the fields directly in it."""

    path: tuple[str, ...]
    doc: str
    required: bool
    optional: bool
    """May be null, and is by default."""
    fields: tuple[FieldFacts, ...]
    variant: str | None = None
    """Where a section is one of several kinds that its key `name` tells apart: that name. The default comes first."""


@cache
def sections(root: type = Recipe) -> tuple[SectionFacts, ...]:
    """All sections, the recipe itself (path `()`) first, each before those inside it."""
    schema = adapter(root).json_schema(by_alias=True)
    return tuple(_sections(schema, (), schema["$defs"], required=True, optional=False))


@cache
def names(root: type = Recipe) -> dict[tuple[str, ...], tuple[str, ...]]:
    """Section -> the keys it knows, fields and sections, in their order."""
    known: dict[tuple[str, ...], tuple[str, ...]] = {section.path: () for section in sections(root)}
    for section in sections(root):
        new = [item.path[-1] for item in section.fields if item.path[-1] not in known[section.path]]
        known[section.path] += tuple(new)
    for path in list(known):
        parent = path[:-2] if path[-1:] == ("0",) else path[:-1]
        if path:
            known[parent] += (path[len(parent)],)
    return known


@cache
def field_facts(root: type = Recipe) -> dict[tuple[str, ...], FieldFacts]:
    """Path -> facts, for every field that is no section; of several kinds of a section the first that has it."""
    return {item.path: item for section in reversed(sections(root)) for item in section.fields}


def variants(path: tuple[str, ...], root: type = Recipe) -> dict[str, SectionFacts]:
    """Name -> section, where a section is one of several kinds; else empty."""
    return {section.variant: section for section in sections(root) if section.path == path and section.variant}


def general(path: tuple[str, ...]) -> tuple[str, ...]:
    """The path with 0 for every list position, as the facts are filed."""
    return tuple("0" if part.isdecimal() else part for part in path)


def example(path: tuple[str, ...], root: type = Recipe) -> Any:
    """A plausible value of a required field, or a section with those of its fields that have one."""
    if path in field_facts(root):
        return field_facts(root)[path].example
    if (*path, "0") in names(root):
        return [example((*path, "0"), root)]
    inside = [item for item in field_facts(root).values() if item.path[:-1] == path and item.example is not None]
    return {item.path[-1]: item.example for item in inside}


def _sections(
    schema: dict[str, Any],
    path: tuple[str, ...],
    definitions: dict[str, Any],
    required: bool,
    optional: bool,
    variant: str | None = None,
) -> Iterator[SectionFacts]:
    """The section of a JSON schema object and, after it, those inside it."""
    needed = schema.get("required", [])
    fields, inside = [], []
    for name, item in schema["properties"].items():
        targets, below = _sections_of(item)
        if not targets:
            fields.append(_field((*path, name), item, name in needed))
        for target in targets:
            definition = definitions[target.rpartition("/")[2]]
            told_apart = definition["properties"]["name"]["const"] if "oneOf" in item else None
            inside.append(((*path, name, *below), definition, name in needed, "anyOf" in item, told_apart))
    yield SectionFacts(path, schema.get("description", ""), required, optional, tuple(fields), variant)
    for deeper, definition, must, may, kind in inside:
        yield from _sections(definition, deeper, definitions, must, may, kind)


def _sections_of(schema: dict[str, Any]) -> tuple[list[str], tuple[str, ...]]:
    """References to a section's schema, directly, optional, one of several kinds, or in a list (then with `0`)."""
    if "$ref" in schema:
        return [schema["$ref"]], ()
    if "$ref" in schema.get("items", {}):
        return [schema["items"]["$ref"]], ("0",)
    if "oneOf" in schema:
        return [choice["$ref"] for choice in schema["oneOf"]], ()
    return [choice["$ref"] for choice in schema.get("anyOf", []) if "$ref" in choice][:1], ()


def _field(path: tuple[str, ...], schema: dict[str, Any], required: bool) -> FieldFacts:
    default = None if required else schema.get("default", {})
    examples = schema.get("examples", [None])
    return FieldFacts(path, _kind(schema), required, default, schema.get("description", ""), examples[0])


def _kind(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " | ".join(_kind(choice) for choice in schema["anyOf"])
    if "enum" in schema:
        return " | ".join(schema["enum"])
    if "const" in schema:
        return str(schema["const"])
    if schema["type"] == "array":
        return f"list of {_kind(schema['items'])}"
    words = {"string": "text", "boolean": "true | false", "object": "mapping"}
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    bounds = [f"{sign}{_plain(schema[bound])}" for bound, sign in signs.items() if bound in schema]
    return " ".join([words.get(schema["type"], schema["type"]), ", ".join(bounds)]).strip()


def _plain(number: float) -> str:
    return str(int(number)) if float(number).is_integer() else str(number)
