"""All kinds of tasks, and how they are drawn and split.

A kind is one small function from a random generator to a task. To add one, write it and name it in `KINDS`;
answers and judge need not change.
"""

import zlib
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Literal

from grao.sandbox.kinds_knowledge import advice, calendar, capital, harmful
from grao.sandbox.kinds_numbers import arithmetic, comparison, conversion, counting, sequence
from grao.sandbox.kinds_words import formatting, membership, opposite, position, reversal
from grao.sandbox.lexicon import GREETINGS
from grao.sandbox.task import Task

Split = Literal["pretraining", "train", "test"]

KINDS: dict[str, Callable[[Random], Task]] = {
    make.__name__: make
    for make in (
        arithmetic,
        comparison,
        sequence,
        conversion,
        calendar,
        position,
        reversal,
        membership,
        counting,
        capital,
        opposite,
        formatting,
        advice,
        harmful,
    )
}
"""Kind -> its generator. Every kind is equally frequent."""


def split_of(task: Task) -> Split:
    """Three fifths of all problems are for pretraining, a fifth each for training and testing. Needs no seed."""
    bucket = zlib.crc32(task.problem.encode()) % 5
    return "test" if bucket == 0 else "train" if bucket == 1 else "pretraining"


def draw(rng: Random, split: Split, kind: str | None = None) -> Task:
    """A random task of one split; of a random kind unless told."""
    make = KINDS[kind or rng.choice(tuple(KINDS))]
    while True:
        task = make(rng)
        if split_of(task) == split:
            return replace(task, question=rng.choice(GREETINGS) + task.question)
