"""Anthropic HH: `chosen` and `rejected` are two whole dialogues that share all but the last answer.

A turn begins with a blank line and `Human:` or `Assistant:`; both words anywhere else ("  Human: ...", "Humans:")
are text. The prompt is the chosen dialogue up to and including its last `\\n\\nAssistant:`, turned into chat messages
(`user`, `assistant`, ..., `user`) with the white space around each turn removed; so are the two answers.

The released files hold rows from which no such example can be made, or one that teaches nothing. They are left out
and counted under the first `Quirk` that applies.
"""

import re
from collections import Counter
from enum import StrEnum
from typing import Any

from grao.data.columns import require_columns, require_text
from grao.data.example import Example, Loaded, Message
from grao.data.sources import Table
from grao.errors import InputError
from grao.models.conversation import OPEN_TURN

_TURN = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


class Quirk(StrEnum):
    """Why a row is left out, in the order of the checks."""

    NO_DIALOGUE = "no dialogue of Human and Assistant turns"
    DIFFERENT_PROMPTS = "dialogues differ before the last assistant turn"
    TURN_ORDER = "turns do not alternate"
    EMPTY_TURN = "empty turn"
    FURTHER_TURNS = "rejected answer goes on with further turns"
    EMPTY_CHOSEN = "empty chosen answer"
    EMPTY_REJECTED = "empty rejected answer"
    SAME_ANSWERS = "chosen and rejected answer are the same"
    REPEATED_PROMPT = "prompt occurred before"


def hh_examples(table: Table) -> Loaded:
    """Examples of all rows without quirks, of rows with the same prompt the first.

    Raises:
        InputError: if `chosen` or `rejected` is missing or not text, or if no row is left.
    """
    require_columns(table, ("chosen", "rejected"))
    examples: dict[str, Example] = {}
    skipped: Counter[str] = Counter()
    for number, row in table.rows:
        for name in ("chosen", "rejected"):
            require_text(row[name], f"{table.place(number)}, column {name!r}", "a dialogue in one text")
        example = _example(dict(row), number)
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
    messages = [
        {"role": _ROLES[speaker], "content": content.strip()}
        for speaker, content in zip(turns[::2], turns[1::2], strict=True)
    ]
    if messages[-1] == {"role": "assistant", "content": ""}:
        messages.pop()
    return tuple(messages)


def _example(row: dict[str, Any], number: int) -> Example | Quirk:
    chosen, rejected = row.pop("chosen"), row.pop("rejected")
    if OPEN_TURN not in chosen or not chosen.startswith("\n\nHuman:"):
        return Quirk.NO_DIALOGUE
    split = chosen.rindex(OPEN_TURN) + len(OPEN_TURN)
    if not rejected.startswith(chosen[:split]):
        return Quirk.DIFFERENT_PROMPTS
    messages = dialogue_messages(chosen[:split])
    if [m["role"] for m in messages] != ["user", *["assistant", "user"] * (len(messages) // 2)]:
        return Quirk.TURN_ORDER
    if not all(message["content"] for message in messages):
        return Quirk.EMPTY_TURN
    answers = chosen[split:].strip(), rejected[split:].strip()
    quirk = _answer_quirk(*answers, further=_TURN.search(rejected, split) is not None)
    return quirk or Example(messages, answers[0], answers[1], row, number)


def _answer_quirk(chosen: str, rejected: str, further: bool) -> Quirk | None:
    if further:
        return Quirk.FURTHER_TURNS
    if not chosen:
        return Quirk.EMPTY_CHOSEN
    if not rejected:
        return Quirk.EMPTY_REJECTED
    return Quirk.SAME_ANSWERS if chosen == rejected else None
