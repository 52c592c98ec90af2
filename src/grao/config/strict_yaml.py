"""A strict subset of YAML for recipes, which records the line of every value.

Scalars follow YAML 1.2: `1e-6` is a number, `no` and `2024-01-01` are text (in YAML 1.1: text, false and a date).
Duplicate keys, anchors, aliases and tags other than those of the standard scalars are errors.
"""

import re
from typing import Any, NamedTuple

import yaml
from yaml.composer import ComposerError
from yaml.reader import ReaderError

from grao.errors import InputError
from grao.visible import TURNING

Location = tuple[str, ...]
"""Path to a value: keys and list indices from the top, `("rewards", "0", "weight")`."""

_TAG = "tag:yaml.org,2002:"
_DEPTH = 20
"""Maximum nesting depth; a recipe needs four levels."""
_DIGITS = 18
"""Maximum digits of an integer; all integers of this length fit into 64 bits."""
_LONGEST = 1 << 18
"""Maximum length in characters: a hundred times a long recipe, and still parsed within seconds."""

_SCALARS = (
    ("null", r"null|Null|NULL|~|", ["n", "N", "~", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", [*"tTfF"]),
    ("int", r"[-+]?[0-9]+", [*"-+0123456789"]),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", [*"-+.0123456789"]),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", [*"-+."]),
)
"""Core schema of YAML 1.2: type, pattern, possible first characters. The first match wins; all else is text."""


class Document(NamedTuple):
    """A parsed YAML document."""

    value: Any
    """Mappings with text keys, lists and the five scalar types; None if the document is empty."""
    lines: dict[Location, int]
    """Line of every key and list entry, counted from 1."""


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if event.anchor:
            raise ComposerError(None, None, "anchors and aliases (& and *) are not allowed", event.start_mark)
        if self.depth > _DEPTH:
            raise ComposerError(None, None, "nested too deeply", event.start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _text_node(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = '"' if re.search(r"[\r\n\x85\u2028\u2029]", text) or TURNING.search(text) else None
    return dumper.represent_scalar(_TAG + "str", text, style)


for _name, _pattern, _first in _SCALARS:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_TAG + _name, re.compile(f"^(?:{_pattern})$"), _first)
_Dumper.add_representer(str, _text_node)


def read_yaml(text: str) -> Document:
    """Parse a YAML document.

    Raises:
        InputError: if it is invalid. The message starts with the line (`line 3: ...`); callers prepend file or option.
    """
    if len(text) > _LONGEST:
        raise InputError(f"line 1: is longer than {_LONGEST:,} characters, the limit")
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark, problem = error.problem_mark or error.context_mark, error.problem or error.context or "not readable"
        raise InputError(f"line {mark.line + 1 if mark else 1}: not valid YAML: {problem}") from error
    except ReaderError as error:
        line = text.count("\n", 0, int(error.position)) + 1
        raise InputError(f"line {line}: not valid YAML: unprintable character") from error
    lines: dict[Location, int] = {}
    return Document(value=None if node is None else _value(node, (), lines), lines=lines)


def write_yaml(value: Any) -> str:
    """Return the value as block-style YAML, which `read_yaml` parses to the same value."""
    text = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=float("inf"))
    return TURNING.sub(lambda mark: f"\\u{ord(mark[0]):04x}", text)


def write_inline(value: Any) -> str:
    """Return the value as YAML on a single line, as it is written after `key:`."""
    text = yaml.dump(value, Dumper=_Dumper, default_flow_style=True, sort_keys=False, width=float("inf"))
    return text.removesuffix("\n").removesuffix("\n...")


def _value(node: yaml.Node, at: Location, lines: dict[Location, int]) -> Any:
    """Convert a node to plain Python and record the lines of everything below it."""
    line = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
        return _mapping(node, at, lines)
    if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
        lines.update({(*at, str(index)): item.start_mark.line + 1 for index, item in enumerate(node.value)})
        return [_value(item, (*at, str(index)), lines) for index, item in enumerate(node.value)]
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node.tag.removeprefix(_TAG), node.value, line)
    raise InputError(f"line {line}: the tag {node.tag} is not allowed")


def _mapping(node: yaml.MappingNode, at: Location, lines: dict[Location, int]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, item in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise InputError(f"line {line}: a key must be plain text, not a list or a mapping")
        name = _scalar("str", key.value, line)
        if name in values:
            raise InputError(f"line {line}: {name!r} appears twice (first in line {lines[*at, name]})")
        lines[*at, name] = line
        values[name] = _value(item, (*at, name), lines)
    return values


def _scalar(kind: str, text: str, line: int) -> Any:
    """Convert text to one of the five scalar types. An explicit tag must match the text."""
    if kind == "str" and not re.search(r"[\ud800-\udfff]", text):
        return text
    if not any(kind == name and re.fullmatch(pattern, text) for name, pattern, _ in _SCALARS):
        raise InputError(f"line {line}: {text[:40]!r} is not a valid {kind}")
    if kind == "int" and len(text) > _DIGITS:
        raise InputError(f"line {line}: an integer of {len(text)} digits is too large")
    if kind == "float":
        return float(re.sub(r"\.(?=inf|nan)", "", text.lower()))
    if kind == "int":
        return int(text)
    return text.lower() == "true" if kind == "bool" else None
