"""Rows with one column each for prompt, reference and rejected answer. A bad row is the user's to mend: it raises.

A prompt is text or a list of chat messages. An answer is text, or (TRL's conversational format) a list of one
assistant message. A rejected answer may be missing in single rows: null, or an empty cell.
"""

import difflib
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from grao.config.recipe import DataConfig
from grao.data.example import Example, Message, Prompt
from grao.data.sources import Table
from grao.errors import InputError


def column_examples(table: Table, config: DataConfig) -> list[Example]:
    """One example per row.

    Raises:
        InputError: naming source, row and column, if a column is unknown, or a value is missing, empty or of the
            wrong type.
    """
    named = {config.prompt: "data.prompt", config.reference: "data.reference", config.rejected: "data.rejected"}
    used = {name: field for name, field in named.items() if name is not None}
    require_columns(table, used, used)
    return [
        Example(
            prompt=_prompt(row[config.prompt], f"{table.place(number)}, column {config.prompt!r}"),
            reference=_answer(row[config.reference], f"{table.place(number)}, column {config.reference!r}"),
            rejected=_rejected(row, config.rejected, table.place(number)),
            columns={name: value for name, value in row.items() if name not in used},
            row=number,
        )
        for number, row in table.rows
    ]


def require_columns(table: Table, names: Iterable[str], fields: Mapping[str, str] = MappingProxyType({})) -> None:
    """Checks that every row has these columns.

    Args:
        table: the rows.
        names: of the columns.
        fields: name -> the field of the recipe that chose it, for the message.

    Raises:
        InputError: naming the columns there are and the nearest, or the row that lacks one.
    """
    for name in names:
        without = next((number for number, row in table.rows if name not in row), None)
        if without is None:
            continue
        columns = table.columns()
        if name in columns:
            raise InputError(f"{table.place(without)}: has no column {name!r}, other rows do")
        near = difflib.get_close_matches(name, columns, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        listed = ", ".join(repr(column)[:40] for column in columns[:20])
        chosen = f" ({fields[name]})" if name in fields else ""
        raise InputError(f"{table.source}: has no column {name!r}{chosen}, only {listed}{hint}")


def require_text(value: Any, place: str, expected: str = "text") -> str:
    """The value, if it is text that can be written as UTF-8.

    Args:
        value: a field of a row.
        place: source, row and column, for the message.
        expected: what the field may be, for the message.

    Raises:
        InputError: if it is null, of another type, or broken Unicode.
    """
    if value is None:
        raise InputError(f"{place}: is missing (null)")
    if not isinstance(value, str):
        raise InputError(f"{place}: must be {expected}, is {_kind(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{place}: holds half of a surrogate pair at character {error.start + 1}") from error
    return value


def _prompt(value: Any, place: str) -> Prompt:
    if not isinstance(value, list | tuple):
        return _text(value, place, "text or a list of chat messages")
    messages = _messages(value, place)
    if messages[-1]["role"] == "assistant":
        raise InputError(f"{place}: ends with an assistant message; that belongs into the reference")
    if not messages[-1]["content"].strip():
        raise InputError(f"{place}: the last message is empty")
    return messages


def _answer(value: Any, place: str) -> str:
    if not isinstance(value, list | tuple):
        return _text(value, place, "text or a list of one assistant message")
    messages = _messages(value, place)
    if len(messages) != 1 or messages[0]["role"] != "assistant":
        roles = ", ".join(message["role"] for message in messages)[:60]
        raise InputError(f"{place}: must be one assistant message, is {len(messages)} ({roles})")
    return _text(messages[0]["content"], place, "text")


def _rejected(row: Mapping[str, Any], column: str | None, place: str) -> str | None:
    if column is None or row[column] is None or row[column] == "":
        return None
    return _answer(row[column], f"{place}, column {column!r}")


def _messages(values: Any, place: str) -> tuple[Message, ...]:
    if not values:
        raise InputError(f"{place}: is an empty list; at least one chat message is needed")
    return tuple(_message(value, f"{place}, message {index}") for index, value in enumerate(values, 1))


def _message(value: Any, place: str) -> Message:
    """Role, content and further text fields; fields that are null count as absent."""
    if not isinstance(value, Mapping):
        raise InputError(f"{place}: must be an object with `role` and `content`, is {_kind(value)}")
    message = {key: field for key, field in value.items() if field is not None}
    for key in ("role", "content"):
        if key not in message:
            raise InputError(f"{place}: has no {key!r}")
    for key, field in message.items():
        require_text(field, f"{place}, {key!r}")
    return message


def _text(value: Any, place: str, expected: str) -> str:
    text = require_text(value, place, expected)
    if not text.strip():
        raise InputError(f"{place}: is empty")
    return text


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return f"a number ({value})"
    if isinstance(value, Mapping):
        return "an object"
    return "a list" if isinstance(value, list | tuple) else f"a {type(value).__name__}"
