"""What everything downstream of the data sees: a prompt with a reference answer."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

Message = Mapping[str, str]
"""One chat message: `role` and `content`."""

Prompt = str | tuple[Message, ...]
"""Text, or chat messages."""


@dataclass(frozen=True)
class Example:
    """One row of the data."""

    prompt: Prompt
    reference: str
    """The answer to imitate and to beat; a leading space is part of it."""
    rejected: str | None
    """A worse answer, if the data has one."""
    columns: Mapping[str, Any]
    """Every further column of the row, handed to the rewards untouched."""
    row: int
    """1-based line (JSON lines, CSV) or row in its source."""

    @cached_property
    def id(self) -> str:
        """16 hex digits of the prompt's SHA-256: the same in every run, whatever the row's answers."""
        return hashlib.sha256(_canonical(self.prompt)).hexdigest()[:16]


@dataclass(frozen=True)
class Loaded:
    """Examples in the order of their source, and the rows that were left out."""

    examples: list[Example]
    skipped: dict[str, int]
    """Reason -> rows left out for it; empty where nothing was."""


def fingerprint(examples: Iterable[Example]) -> str:
    """SHA-256 (hex) over prompts and references in order: what a run was trained on."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(_canonical([example.prompt, example.reference]) + b"\n")
    return digest.hexdigest()


def _canonical(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
