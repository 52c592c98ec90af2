"""Train and held-out examples: a prompt is on one side only, and which one does not depend on the order of rows."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from grao.data.example import Example
from grao.errors import InputError

SHARED_PROMPT = "prompt is in the test data too"


@dataclass(frozen=True)
class Split:
    """No prompt is on both sides; each side keeps the order of its source."""

    train: list[Example]
    test: list[Example]
    skipped: dict[str, int] = field(default_factory=dict)
    """Reason -> rows that are on neither side."""


def split_examples(examples: Sequence[Example], held_out: int, seed: int) -> Split:
    """Keeps prompts away from training: those whose hash of (seed, prompt) is smallest.

    Args:
        examples: rows with the same prompt stay together.
        held_out: prompts of the test side, at most half of all prompts; 0 leaves it empty.
        seed: another seed, another choice.

    Raises:
        InputError: if there are fewer than two prompts to divide.
    """
    prompts = {example.id for example in examples}
    if len(prompts) < (2 if held_out else 1):
        raise InputError(
            f"data: {len(prompts)} different prompts are too few to hold {held_out} out; "
            "give more rows, a data.test_path, or data.held_out: 0"
        )
    ranked = sorted(prompts, key=lambda prompt: hashlib.sha256(f"{seed}:{prompt}".encode()).digest())
    chosen = set(ranked[: min(held_out, len(prompts) // 2)])
    return Split(
        train=[example for example in examples if example.id not in chosen],
        test=[example for example in examples if example.id in chosen],
    )


def separate(train: Sequence[Example], test: Sequence[Example]) -> Split:
    """Two sources as they are, but prompts of the test data are taken out of the training data and counted.

    Raises:
        InputError: if nothing is left to train on.
    """
    prompts = {example.id for example in test}
    kept = [example for example in train if example.id not in prompts]
    if not kept:
        raise InputError("data.test_path: holds every prompt of data.path, so none is left to train on")
    shared = len(train) - len(kept)
    return Split(kept, list(test), {SHARED_PROMPT: shared} if shared else {})
