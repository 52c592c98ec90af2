"""What every sampling engine promises.

Randomness is keyed, never ordered: the uniform number behind a token depends on (seed, step, prompt, sample, position)
alone, so that one process or four, before or after a resume, draw the same completions.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

TokenIds = Sequence[int]


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn."""

    samples: int = 8
    """Completions per prompt, G."""
    temperature: float = 0.7
    """0 is greedy."""
    top_p: float = 1.0
    max_new_tokens: int = 2048


@dataclass(frozen=True)
class Completion:
    """One sampled answer."""

    token_ids: tuple[int, ...]
    """At least one token; the last is the end token unless the completion is truncated."""
    truncated: bool
    """True if it hit `max_new_tokens` before it ended by itself."""


Done = Callable[[Mapping[int, list[Completion]]], None]
"""Hears of completions by the place of their prompt, as soon as they are there."""


class Generator(Protocol):
    """A sampling engine."""

    def generate(
        self, prompts: Sequence[TokenIds], keys: Sequence[int], sampling: Sampling, done: Done = lambda sampled: None
    ) -> list[list[Completion]]:
        """`sampling.samples` completions for each of B prompts; sample g of prompt b depends on (keys[b], g) only.

        `done` hears of every prompt, some together, in any order; again where something had to be sampled again.
        """
        ...


def draw_key(*parts: int | str) -> int:
    """A 64-bit key from what identifies a draw, such as (seed, step, prompt)."""
    text = "\x1f".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
