"""Guess which columns hold prompt and answers, from the names that public data sets use.

A column is guessed only if the user has not set it and the default column is missing.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

from grao.config.recipe import ColumnsConfig
from grao.data.messages import is_missing
from grao.data.rows import Table

Config = TypeVar("Config", bound=ColumnsConfig)

_PROMPTS = ("prompt", "instruction", "question", "query", "problem", "user", "input", "context", "post", "text")
_REFERENCES: tuple[str, ...] = ("reference", "response", "output", "answer", "completion", "chosen", "target")
_REFERENCES += ("solution", "best_answer", "preferred_output")
_REFERENCES += ("messages", "conversations", "conversation", "assistant", "reply", "correct_answer", "ground_truth")
_REJECTED = ("rejected", "rejected_response", "worse", "bad_answer", "best_incorrect_answer", "non_preferred_output")
_NAMES = {"prompt": _PROMPTS, "reference": _REFERENCES, "rejected": _REJECTED}
"""{field of `data`: usual names of such a column, most likely first}."""
_DIALOGUE = "\n\nHuman:"


class Guess(NamedTuple):
    """Settings to read the rows of a table with."""

    settings: dict[str, str]
    """{field of `data`: value}, without fields that the user has set or whose default fits."""
    remarks: list[str]
    """Notes for the user."""

    def applied(self, config: Config) -> Config:
        """Return the section with the guesses in place."""
        settings: dict[str, Any] = {**self.settings}
        return replace(config, **settings)


def guess_columns(table: Table, config: ColumnsConfig, given: Collection[str] = ()) -> Guess:
    """Guess the settings to read the rows of a table with.

    Args:
        table: the rows.
        config: the section before guessing.
        given: fields that the user has set; these are not guessed.
    """
    first = table.rows[0]
    if "format" not in given and all(str(first.cell(name)).startswith(_DIALOGUE) for name in ("chosen", "rejected")):
        return Guess({"format": "hh"} if config.format != "hh" else {}, [])
    settings: dict[str, str] = {}
    columns = _columns(table)
    for field, names in _NAMES.items():
        current = getattr(config, field)
        if field in given or (current and table.has(current)):
            continue
        if column := next((columns[name] for name in names if name in columns), None):
            settings[field] = column
    prompt, reference = settings.get("prompt", config.prompt), settings.get("reference", config.reference)
    if "prompt" in settings and isinstance(first.cell(prompt), Mapping) and table.has(f"{prompt}.messages"):
        settings["prompt"] = f"{prompt}.messages"
    if prompt == reference:  # one column holds the whole conversation
        settings.pop("prompt", None)
    return Guess(settings, list(_remarks(table)))


def _columns(table: Table) -> dict[str, str]:
    """Return {lower-case name: column of this name, or else field of a column (`a.b`)}."""
    names = sorted(table.names, key=lambda name: "." in name)
    return {name.rpartition(".")[2].lower().strip().replace(" ", "_"): name for name in reversed(names)}


def _remarks(table: Table) -> Iterator[str]:
    tools = sum(bool(row.values.get("tools")) for row in table.rows)
    if tools:
        yield f"column 'tools' describes tools in {tools:,} rows; they are not passed to the chat template"


class Column(NamedTuple):
    """Summary of one column of a table."""

    name: str
    kinds: str
    """Types of its cells, most frequent first."""
    filled: int
    """Cells that are neither null nor empty."""
    example: str
    """The first of these cells."""


def describe_columns(table: Table) -> list[Column]:
    """Summarise every column, in order of first appearance."""
    described = []
    for name in dict.fromkeys(name for row in table.rows for name in row.values):
        cells = [row.values.get(name) for row in table.rows]
        filled = [cell for cell in cells if not is_missing(cell) and cell not in ("", [])]
        counts: dict[str, int] = {}
        for cell in filled:
            counts[_kind(cell)] = counts.get(_kind(cell), 0) + 1
        kinds = " or ".join(sorted(counts, key=lambda kind: -counts[kind])) or "nothing"
        described.append(Column(str(name), kinds, len(filled), " ".join(str(filled[0]).split()) if filled else ""))
    return described


def _kind(cell: Any) -> str:
    cell = cell.tolist() if hasattr(cell, "tolist") else cell
    if isinstance(cell, str):
        return "text"
    if isinstance(cell, bool):
        return "true or false"
    if isinstance(cell, int | float):
        return "number"
    if isinstance(cell, Sequence):
        return "messages" if cell and isinstance(cell[0], Mapping) and {"role", "from"} & cell[0].keys() else "list"
    return "object" if isinstance(cell, Mapping) else type(cell).__name__
