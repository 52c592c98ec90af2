"""Rows into examples, in one of two formats (`data.format`).

`columns`: one column each for prompt, reference and rejected answer. A prompt is text or a list of chat messages. An
answer is text, or (TRL's conversational format) a list of one assistant message. A rejected answer may be missing in
single rows: null, or an empty cell. A bad row is the user's to mend: it raises.

`hh`, Anthropic HH: `chosen` and `rejected` are two whole dialogues that share all but the last answer. A turn begins
with a blank line and `Human:` or `Assistant:`; both words anywhere else ("  Human: ...", "Humans:") are text. The
prompt is the chosen dialogue up to and including its last `\\n\\nAssistant:`, turned into chat messages (`user`,
`assistant`, ..., `user`) with the white space around each turn removed; so are the two answers. The released files
hold rows from which no such example can be made, or one that teaches nothing. They are left out and counted under the
first `Quirk` that applies.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from grao.chat import OPEN_TURN
from grao.config.recipe import ColumnsConfig
from grao.data.sources import Table
from grao.errors import InputError
from grao.types import Example, Message, Prompt

_TURN = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


@dataclass(frozen=True)
class Loaded:
    """Examples in the order of their source, and the rows that were left out."""

    examples: list[Example]
    skipped: dict[str, int]
    """Reason -> rows left out for it; empty where nothing was."""


class Quirk(StrEnum):
    """Why a row of `hh` is left out, in the order of the checks."""

    NO_DIALOGUE = "no dialogue of Human and Assistant turns"
    DIFFERENT_PROMPTS = "dialogues differ before the last assistant turn"
    TURN_ORDER = "turns do not alternate"
    EMPTY_TURN = "empty turn"
    FURTHER_TURNS = "rejected answer goes on with further turns"
    EMPTY_CHOSEN = "empty chosen answer"
    EMPTY_REJECTED = "empty rejected answer"
    SAME_ANSWERS = "chosen and rejected answer are the same"
    REPEATED_PROMPT = "prompt occurred before"


def column_examples(table: Table, config: ColumnsConfig) -> Loaded:
    """One example per row.

    Args:
        table: the rows.
        config: names the columns; every other column is handed on in `Example.columns`.

    Raises:
        InputError: naming source, row and column, if a column is unknown, or a value is missing, empty or of the
            wrong type.
    """
    used = {config.prompt: "data.prompt", config.reference: "data.reference"}
    if config.rejected is not None:
        used[config.rejected] = "data.rejected"
    table.require(used)
    examples = []
    for number, row in table.rows:
        values = {name: (row[name], f"{table.at(number)}, column {name!r}") for name in used}
        prompt, reference = _prompt(*values[config.prompt]), _answer(*values[config.reference])
        worse = None if config.rejected is None or row[config.rejected] in (None, "") else values[config.rejected]
        columns = {name: value for name, value in row.items() if name not in used}
        examples.append(Example(prompt, reference, worse and _answer(*worse), columns, number))
    return Loaded(examples, {})


def hh_examples(table: Table) -> Loaded:
    """Examples of all rows without quirks; of rows with the same prompt the first.

    Raises:
        InputError: if `chosen` or `rejected` is missing or not text, or if no row is left.
    """
    table.require({"chosen": "", "rejected": ""})
    examples: dict[str, Example] = {}
    skipped: Counter[str] = Counter()
    for number, row in table.rows:
        for name in ("chosen", "rejected"):
            _text(row[name], f"{table.at(number)}, column {name!r}", "a dialogue in one text", blank=True)
        example = _hh_example(dict(row), number)
        if isinstance(example, Example) and example.id in examples:
            example = Quirk.REPEATED_PROMPT
        if isinstance(example, Quirk):
            skipped[example.value] += 1
        else:
            examples[example.id] = example
    if not examples:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in skipped.most_common())
        raise InputError(f"{table.source}: no row is in the format 'hh': {reasons}; try format: columns")
    return Loaded(list(examples.values()), dict(skipped))


def dialogue_messages(text: str) -> tuple[Message, ...]:
    """Chat messages of a dialogue; an `Assistant:` left open at the end is the generation prompt, not a message.

    Raises:
        InputError: if the text does not begin with a turn.
    """
    before, *turns = _TURN.split(text)
    if before.strip() or not turns:
        raise InputError(f"a dialogue must begin with '\\n\\nHuman:', this one with {text[:40]!r}")
    pairs = zip(turns[::2], turns[1::2], strict=True)
    messages = [{"role": _ROLES[speaker], "content": content.strip()} for speaker, content in pairs]
    if messages[-1] == {"role": "assistant", "content": ""}:
        messages.pop()
    return tuple(messages)


def _hh_example(row: dict[str, Any], number: int) -> Example | Quirk:
    chosen, rejected = row.pop("chosen"), row.pop("rejected")
    if OPEN_TURN not in chosen or not chosen.startswith("\n\nHuman:"):
        return Quirk.NO_DIALOGUE
    split = chosen.rindex(OPEN_TURN) + len(OPEN_TURN)
    if not rejected.startswith(chosen[:split]):
        return Quirk.DIFFERENT_PROMPTS
    messages = dialogue_messages(chosen[:split])
    good, bad = chosen[split:].strip(), rejected[split:].strip()
    quirks = {
        Quirk.TURN_ORDER: [m["role"] for m in messages] != ["user", *["assistant", "user"] * (len(messages) // 2)],
        Quirk.EMPTY_TURN: not all(message["content"] for message in messages),
        Quirk.FURTHER_TURNS: _TURN.search(rejected, split) is not None,
        Quirk.EMPTY_CHOSEN: not good,
        Quirk.EMPTY_REJECTED: not bad,
        Quirk.SAME_ANSWERS: good == bad,
    }
    return next((quirk for quirk, applies in quirks.items() if applies), Example(messages, good, bad, row, number))


def _prompt(value: Any, where: str) -> Prompt:
    if not isinstance(value, list | tuple):
        return _text(value, where, "text or a list of chat messages")
    messages = _messages(value, where)
    if messages[-1]["role"] == "assistant":
        raise InputError(f"{where}: ends with an assistant message; that belongs into the reference")
    if not messages[-1]["content"].strip():
        raise InputError(f"{where}: the last message is empty")
    return messages


def _answer(value: Any, where: str) -> str:
    if isinstance(value, list | tuple):
        messages = _messages(value, where)
        if len(messages) != 1 or messages[0]["role"] != "assistant":
            roles = ", ".join(message["role"] for message in messages)[:60]
            raise InputError(f"{where}: must be one assistant message, is {len(messages)} ({roles})")
        value = messages[0]["content"]
    return _text(value, where, "text or a list of one assistant message")


def _messages(values: Any, where: str) -> tuple[Message, ...]:
    """Role, content and further text fields of each; fields that are null count as absent."""
    if not values:
        raise InputError(f"{where}: is an empty list; at least one chat message is needed")
    messages = []
    for index, value in enumerate(values, 1):
        at = f"{where}, message {index}"
        if not isinstance(value, Mapping):
            raise InputError(f"{at}: must be an object with `role` and `content`, is {_kind(value)}")
        message = {key: field for key, field in value.items() if field is not None}
        for key in ("role", "content"):
            if key not in message:
                raise InputError(f"{at}: has no {key!r}")
        messages.append({key: _text(field, f"{at}, {key!r}", "text", blank=True) for key, field in message.items()})
    return tuple(messages)


def _text(value: Any, where: str, expected: str, blank: bool = False) -> str:
    """The value, if it is text that can be written as UTF-8.

    Args:
        value: a field of a row.
        where: source, row and column, for the message.
        expected: what the field may be, for the message.
        blank: whether the text may be empty, or white space alone.

    Raises:
        InputError: if it is null, of another type, broken Unicode, or blank.
    """
    if value is None:
        raise InputError(f"{where}: is missing (null)")
    if not isinstance(value, str):
        raise InputError(f"{where}: must be {expected}, is {_kind(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{where}: holds half of a surrogate pair at character {error.start + 1}") from error
    if not blank and not value.strip():
        raise InputError(f"{where}: is empty")
    return value


def _kind(value: Any) -> str:
    number = f"a number ({value})"
    kinds = ((bool, "true or false"), (int | float, number), (Mapping, "an object"), (list | tuple, "a list"))
    return next((words for kind, words in kinds if isinstance(value, kind)), f"a {type(value).__name__}")
