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
        known[section.path] += tuple(item.path[-1] for item in section.fields)
    for path in list(known):
        parent = path[:-2] if path[-1:] == ("0",) else path[:-1]
        if path:
            known[parent] += (path[len(parent)],)
    return known


@cache
def field_facts(root: type = Recipe) -> dict[tuple[str, ...], FieldFacts]:
    """Path -> facts, for every field that is no section."""
    return {item.path: item for section in sections(root) for item in section.fields}


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
    schema: dict[str, Any], path: tuple[str, ...], definitions: dict[str, Any], required: bool, optional: bool
) -> Iterator[SectionFacts]:
    """The section of a JSON schema object and, after it, those inside it."""
    needed = schema.get("required", [])
    fields, inside = [], []
    for name, item in schema["properties"].items():
        target, below = _section_of(item)
        if target is None:
            fields.append(_field((*path, name), item, name in needed))
        else:
            definition = definitions[target.rpartition("/")[2]]
            inside.append(((*path, name, *below), definition, name in needed, "anyOf" in item))
    yield SectionFacts(path, schema.get("description", ""), required, optional, tuple(fields))
    for deeper, definition, must, may in inside:
        yield from _sections(definition, deeper, definitions, must, may)


def _section_of(schema: dict[str, Any]) -> tuple[str | None, tuple[str, ...]]:
    """The reference to a section's schema, directly, optional or in a list (then with `0`); None for a value."""
    if "$ref" in schema:
        return schema["$ref"], ()
    if "$ref" in schema.get("items", {}):
        return schema["items"]["$ref"], ("0",)
    for choice in schema.get("anyOf", []):
        if "$ref" in choice:
            return choice["$ref"], ()
    return None, ()


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
