"""Convert rows to examples, in one of two formats (`data.format`).

`columns`: one column each for prompt, reference and rejected answer. A prompt is text or a list of chat messages. An
answer is text, a list of one assistant message, or a whole conversation that ends with it; then the messages before it
are the prompt, whether or not there is a prompt column (TRL's implicit prompt). If the answers of every row begin with
the text of its prompt, they are whole texts, and the prompt is stripped. A rejected answer may be missing in some rows:
null, or an empty cell. A bad row is an error that the user must fix.

`hh`, Anthropic HH: `chosen` and `rejected` are two whole dialogues that differ in the last answer only. A turn begins
with a blank line and `Human:` or `Assistant:`; both words anywhere else ("  Human: ...", "Humans:") are text. The
prompt is the chosen dialogue up to and including its last `\\n\\nAssistant:`, converted to chat messages (`user`,
`assistant`, ..., `user`). White space around turns and answers is stripped. The released files contain rows that yield
no example, or a useless one. They are skipped and counted under the first `SkipReason` that applies.
"""

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from grao.chat import OPEN_TURN
from grao.config.recipe import ColumnsConfig
from grao.data.files import FILE_TYPES
from grao.data.guess import guess_columns
from grao.data.messages import is_missing, read_messages, read_text
from grao.data.rows import Row, Table
from grao.errors import InputError
from grao.types import Example, Message, Prompt

_TURN = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}
_CONVERSATIONS = ("chosen", "messages", "conversations", "conversation")
"""Usual names of columns that hold prompt and reference in one."""


@dataclass(frozen=True)
class Loaded:
    """Examples in the order of their source, and counts of skipped rows."""

    examples: list[Example]
    skipped: dict[str, int]
    """{reason: number of rows skipped for it}."""


class SkipReason(StrEnum):
    """Why a row of `hh` is skipped, in the order of the checks."""

    NO_DIALOGUE = "not a dialogue of Human and Assistant turns"
    DIFFERENT_PROMPTS = "dialogues differ before the last assistant turn"
    TURN_ORDER = "turns do not alternate"
    EMPTY_TURN = "empty turn"
    FURTHER_TURNS = "rejected answer contains further turns"
    EMPTY_CHOSEN = "empty chosen answer"
    EMPTY_REJECTED = "empty rejected answer"
    SAME_ANSWERS = "chosen and rejected answer are the same"
    REPEATED_PROMPT = "prompt occurred before"


def column_examples(table: Table, config: ColumnsConfig) -> Loaded:
    """Convert each row to an example.

    Args:
        table: the rows.
        config: names of the columns (`a.b`: the field `b` of column `a`). All other columns go to `Example.columns`.

    Raises:
        InputError: if a column is unknown, or a value is missing, empty or of the wrong type; the message names source,
            row and column.
    """
    local = table.source.lower().endswith(FILE_TYPES)
    used = _columns_used(table, config, f"; `grao data check {table.source}` shows more" if local else "")
    examples = _without_prompts([_example(row, config, used) for row in table.rows])
    return Loaded([_with_messages(example) for example in examples] if config.chat else examples, {})


def row_faults(table: Table, config: ColumnsConfig) -> list[str]:
    """Return the error message of each row that `column_examples` would refuse.

    Raises:
        InputError: if a column is unknown.
    """
    used, faults = _columns_used(table, config), []
    for row in table.rows:
        try:
            _example(row, config, used)
        except InputError as error:
            faults.append(str(error))
    return faults


def hh_examples(table: Table) -> Loaded:
    """Convert all rows without quirks to examples; of rows with the same prompt, only the first.

    Raises:
        InputError: if `chosen` or `rejected` is missing or not text, or if no row remains.
    """
    table.require({"chosen": "", "rejected": ""})
    examples: dict[str, Example] = {}
    skipped: Counter[str] = Counter()
    for row in table.rows:
        for name in ("chosen", "rejected"):
            read_text(row.values[name], f"{row.at}, column {name!r}", "a dialogue as one text", blank=True)
        example = _hh_example(dict(row.values), row.number, row.source)
        if isinstance(example, Example) and example.id in examples:
            example = SkipReason.REPEATED_PROMPT
        if isinstance(example, SkipReason):
            skipped[example.value] += 1
        else:
            examples[example.id] = example
    if not examples:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in skipped.most_common())
        raise InputError(f"{table.source}: no row is in format 'hh': {reasons}; try data.format: columns")
    return Loaded(list(examples.values()), dict(skipped))


def dialogue_messages(text: str) -> tuple[Message, ...]:
    """Return the chat messages of a dialogue. A final empty `Assistant:` is the generation prompt, not a message.

    Raises:
        InputError: if the text does not begin with a turn.
    """
    before, *turns = _TURN.split(text)
    if before.strip() or not turns:
        raise InputError(f"a dialogue must begin with '\\n\\nHuman:', got {text[:40]!r}")
    pairs = zip(turns[::2], turns[1::2], strict=True)
    messages = [{"role": _ROLES[speaker], "content": content.strip()} for speaker, content in pairs]
    if messages[-1] == {"role": "assistant", "content": ""}:
        messages.pop()
    return tuple(messages)


def _hh_example(row: dict[str, Any], number: int, source: str) -> Example | SkipReason:
    chosen, rejected = row.pop("chosen"), row.pop("rejected")
    if OPEN_TURN not in chosen or not chosen.startswith("\n\nHuman:"):
        return SkipReason.NO_DIALOGUE
    split = chosen.rindex(OPEN_TURN) + len(OPEN_TURN)
    if not rejected.startswith(chosen[:split]):
        return SkipReason.DIFFERENT_PROMPTS
    messages = dialogue_messages(chosen[:split])
    good, bad = chosen[split:].strip(), rejected[split:].strip()
    quirks = {
        SkipReason.TURN_ORDER: [m["role"] for m in messages] != ["user", *["assistant", "user"] * (len(messages) // 2)],
        SkipReason.EMPTY_TURN: not all(message["content"] for message in messages),
        SkipReason.FURTHER_TURNS: _TURN.search(rejected, split) is not None,
        SkipReason.EMPTY_CHOSEN: not good,
        SkipReason.EMPTY_REJECTED: not bad,
        SkipReason.SAME_ANSWERS: good == bad,
    }
    return next(
        (quirk for quirk, applies in quirks.items() if applies), Example(messages, good, bad, row, number, source)
    )


def _columns_used(table: Table, config: ColumnsConfig, advice: str = "") -> dict[str, str]:
    """Return {column of prompt or answer: recipe field that names it}; `advice` ends the error if one is missing."""
    used = {config.prompt: "data.prompt", config.reference: "data.reference"}
    if config.rejected is not None:
        used[config.rejected] = "data.rejected"
    first = table.rows[0]
    if not table.has(config.prompt) and len(read_messages(first.cell(config.reference), first.at) or ()) > 1:
        del used[config.prompt]
    table.require(used, _hint(table, config) + advice)
    return used


def _with_messages(example: Example) -> Example:
    """Return the example with a text prompt turned into a user message."""
    messages = ({"role": "user", "content": example.prompt},)
    return replace(example, prompt=messages) if isinstance(example.prompt, str) else example


def _hint(table: Table, config: ColumnsConfig) -> str:
    """Suggest settings for a table that lacks a column, based on the columns that it has."""
    if str(table.rows[0].cell("chosen")).startswith("\n\nHuman:"):
        return "; if 'chosen' and 'rejected' are whole dialogues, set data.format: hh"
    conversation = next((name for name in _CONVERSATIONS if table.has(name) and name != config.reference), None)
    if conversation:
        return f"; if the conversations in {conversation!r} end with the reference, set data.reference: {conversation}"
    guess = guess_columns(table, config)
    texts = [name for name, value in table.rows[0].values.items() if isinstance(value, str)]
    texts.sort(key=lambda name: not any(map(str.isalpha, table.rows[0].cell(name))))  # numbers come last
    columns = {**dict(zip(("prompt", "reference"), texts, strict=False)), **guess.settings}
    lacking = (field for field in ("prompt", "reference") if field in columns and not table.has(getattr(config, field)))
    settings = " and ".join(f"data.{field}: {columns[field][:40]}" for field in lacking)
    return "; ".join(("", f"if these hold the data, set {settings}", *guess.remarks)) if settings else ""


def _example(row: Row, config: ColumnsConfig, used: Collection[str]) -> Example:
    context, reference = _answer(row, config.reference)
    prompt = _prompt(row, config.prompt, context)
    rejected_cell = row.cell(config.rejected) if config.rejected is not None else None
    rejected = None
    if not is_missing(rejected_cell) and not (isinstance(rejected_cell, str) and not rejected_cell):
        other, rejected = _answer(row, str(config.rejected))
        if other not in ((), prompt):
            at = f"{row.at}, columns {config.reference!r} and {config.rejected!r}"
            raise InputError(f"{at}: the conversations differ before their last message; they must share the prompt")
    columns = {name: value for name, value in row.values.items() if name not in used}
    return Example(prompt, reference, rejected, columns, row.number, row.source)


def _prompt(row: Row, column: str, context: Sequence[Message]) -> Prompt:
    """Return the prompt: the conversation before the answer if there is one, else the value of the prompt column."""
    where, value = f"{row.at}, column {column!r}", row.cell(column)
    given = None if context and is_missing(value) else read_messages(value, where)
    if given is None and not context:
        return read_text(value, where, "text or a list of chat messages")
    if given and context and context not in (given, given[:-1]):
        raise InputError(f"{where}: is not the beginning of the conversation that ends with the reference")
    messages = tuple(context or given or ())
    if messages[-1]["role"] == "assistant":
        remedy = f"remove it, or set data.reference: {column} if it is the reference"
        raise InputError(f"{where}: ends with an assistant message; {remedy}")
    if not messages[-1]["content"].strip():
        raise InputError(f"{where}: the last message is empty")
    return messages


def _answer(row: Row, column: str) -> tuple[tuple[Message, ...], str]:
    """Return the messages before the answer, and the text of the answer."""
    where, value = f"{row.at}, column {column!r}", row.cell(column)
    messages = read_messages(value, where)
    if messages is None:
        return (), read_text(value, where, "text or a list of one assistant message")
    *context, last = messages
    if last["role"] != "assistant":
        roles = ", ".join(message["role"] for message in messages)[:60]
        expected = "one assistant message, or a conversation that ends with one"
        raise InputError(f"{where}: must be {expected}, got a list with roles {roles}")
    if "tool_calls" in last:
        raise InputError(f"{where}: ends with a tool call; an answer must be text, so write the call as text")
    return tuple(context), read_text(last["content"], where, "text")


def _without_prompts(examples: list[Example]) -> list[Example]:
    """Strip the prompt from answers, if every answer is a whole text that begins with its prompt."""

    def is_whole(example: Example) -> bool:
        prompt, answers = example.prompt, (example.reference, example.rejected or "")
        return isinstance(prompt, str) and all(a.startswith(prompt) and a[len(prompt) :].strip() for a in answers)

    if not all(map(is_whole, examples)):
        return examples
    cuts = ((example, len(example.prompt)) for example in examples)
    return [replace(e, reference=e.reference[cut:], rejected=str(e.rejected)[cut:]) for e, cut in cuts]
