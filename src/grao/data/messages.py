"""Convert chat messages from the formats that data sets use to the one that chat templates expect.

A converted message has a `role`, a text `content`, and every other field unchanged. Besides such messages, these are
accepted:

- ShareGPT: `from` and `value`, with the speakers `human`, `gpt`, `observation` and `function_call`;
- content as a list of text parts, and null content beside a tool call;
- tool calls whose arguments are JSON text or an object, calls that are not nested in `function`, the older
  `function_call` field and the role `function`;
- null fields, which tables add to every message: they count as absent, at every depth;
- the whole list as JSON text or as a Python literal, which is how messages end up in a CSV file.
"""

import ast
import json
import re
from collections.abc import Mapping
from typing import Any

from grao.errors import InputError
from grao.types import Message

_ROLES = {"human": "user", "gpt": "assistant", "function_call": "assistant", "function": "tool", "observation": "tool"}
_ROLES |= {"prompter": "user"}
_DEEPEST = 50
"""Levels of nested objects and lists that a message may have."""
_LIST = re.compile(r"\s*\[\s*\{")
_SPEAKER = re.compile("[\"'\u201c\u201d](role|from)[\"'\u201c\u201d]\\s*:")


def read_messages(value: Any, where: str) -> tuple[Message, ...] | None:
    """Return the chat messages in a cell, or None if it holds neither a list nor the text of one.

    Args:
        value: value of one column.
        where: source, row and column, for error messages.

    Raises:
        InputError: if the value is a list of anything but messages, or text that looks like messages and cannot be
            parsed.
    """
    value = _listed(value.tolist() if hasattr(value, "tolist") else value, where)
    if not isinstance(value, list | tuple):
        return None
    if not value:
        raise InputError(f"{where}: must be at least one chat message, got an empty list")
    return tuple(_message(message, f"{where}, message {index}") for index, message in enumerate(value, 1))


def read_text(value: Any, where: str, expected: str, blank: bool = False) -> str:
    """Return the value after checking that it is text that UTF-8 can encode.

    Args:
        value: a field of a row.
        where: source, row and column, for the error message.
        expected: what the field may hold, for the error message.
        blank: whether empty text, or white space alone, is allowed.

    Raises:
        InputError: if it is null, of another type, broken Unicode, or blank.
    """
    if is_missing(value):
        raise InputError(f"{where}: is missing (null); fill it in or leave the row out")
    if not isinstance(value, str):
        raise InputError(f"{where}: must be {expected}, got {_kind(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{where}: has an unpaired surrogate at character {error.start + 1}") from error
    if not blank and not value.strip():
        raise InputError(f"{where}: is empty; fill it in or leave the row out")
    return value


def is_missing(value: Any) -> bool:
    """Whether a value is null, or NaN, which stands for null in a data frame."""
    return value is None or (isinstance(value, float) and value != value)


def _listed(value: Any, where: str) -> Any:
    """Parse text that holds a list of messages; return anything else unchanged."""
    if not isinstance(value, str) or not _LIST.match(value):
        return value
    for parse in (json.loads, ast.literal_eval):
        try:
            parsed = parse(value.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        is_chat = isinstance(parsed[0], Mapping) and {"role", "from"} & parsed[0].keys()
        return parsed if is_chat else value
    if _SPEAKER.search(value):
        raise InputError(f"{where}: looks like chat messages but is not valid JSON; write the list with json.dumps")
    return value


def _message(value: Any, at: str) -> Message:
    if not isinstance(value, Mapping):
        raise InputError(f"{at}: must be an object with `role` and `content`, got {_kind(value)}")
    fields = _plain(value, at)
    if "from" in fields and "role" not in fields:
        fields = {"role": fields.pop("from"), "content": fields.pop("value", None), **fields}
    speaker, content = fields.get("role"), fields.get("content")
    call = fields.pop("function_call", content if speaker == "function_call" else None)
    calls = _calls([call] if call else fields.pop("tool_calls", []), f"{at}, 'tool_calls'")
    if calls:
        fields["tool_calls"], content = calls, "" if content is None or speaker == "function_call" else content
    for key, field in (("role", speaker), ("content", content)):
        if field is None:
            raise InputError(f"{at}: has no {key!r}")
    role = read_text(speaker, f"{at}, 'role'", "text").lower()
    return {**fields, "role": _ROLES.get(role, role), "content": _content(content, f"{at}, 'content'")}


def _content(value: Any, at: str) -> str:
    """Return the content as text. Parts are joined without a separator, as chat templates do."""
    if not isinstance(value, list):
        return read_text(value, at, "text", blank=True)
    texts = []
    for part in value:
        text = part.get("text") if isinstance(part, Mapping) else part
        if not isinstance(text, str):
            kind = repr(part.get("type"))[:40] if isinstance(part, Mapping) else _kind(part)
            raise InputError(f"{at}: must be text, got a list with {kind}; only parts of type 'text' are supported")
        texts.append(text)
    return "".join(texts)


def _calls(value: Any, at: str) -> list[dict[str, Any]]:
    """Return tool calls in transformers' format: a function with a name and an object of arguments.

    Empty calls are dropped: tables pad rows with them.
    """
    value = _parsed(value, at)
    if not isinstance(value, list):
        raise InputError(f"{at}: must be a list of tool calls, got {_kind(value)}")
    calls = []
    for call in filter(None, (_parsed(call, at) for call in value)):
        function = call.get("function", call) if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise InputError(f"{at}: each call must be a function with a name and arguments, got {repr(call)[:60]}")
        rest = {key: field for key, field in call.items() if key not in ("name", "arguments", "function")}
        arguments = _parsed(function.get("arguments"), at) or {}
        calls.append({**rest, "type": "function", "function": {"name": function["name"], "arguments": arguments}})
    return calls


def _parsed(value: Any, at: str) -> Any:
    """Parse text that holds a JSON object or list, then apply `_plain`; text that is not valid JSON stays as it is."""
    try:
        parsed = json.loads(value) if isinstance(value, str) and value[:1] in ("{", "[") else value
    except (ValueError, RecursionError):
        return value
    return _plain(parsed, at)


def _plain(value: Any, at: str, depth: int = 0) -> Any:
    """Return a value as JSON has it: arrays become lists, and null fields of objects are removed."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if depth > _DEEPEST:
        raise InputError(f"{at}: is nested more than {_DEEPEST} levels deep")
    if isinstance(value, Mapping):
        fields = {read_text(key, at, "named by text"): field for key, field in value.items() if not is_missing(field)}
        return {key: _plain(field, at if depth else f"{at}, {key!r}", depth + 1) for key, field in fields.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, at, depth + 1) for item in value]
    if isinstance(value, bool | int | float | None):
        return value
    return read_text(value, at, "text, a number, a list or an object", blank=True)


def _kind(value: Any) -> str:
    """Describe the type of a value, for error messages."""
    number = f"a number ({str(value)[:20]})"
    kinds = (
        (str, "text"),
        (bool, "true or false"),
        (int | float, number),
        (Mapping, "an object"),
        (list | tuple, "a list"),
    )
    return next((words for kind, words in kinds if isinstance(value, kind)), type(value).__name__)
