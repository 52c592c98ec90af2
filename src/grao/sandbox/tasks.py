"""All kinds of tasks, by what they ask of an assistant, and how they are drawn and split.

A kind is one small function from a random generator to a task. To add one, write it and name it under its objective;
answers and judge need not change.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random
from typing import Literal

from grao.sandbox.kinds_fair import career, grant
from grao.sandbox.kinds_knowledge import advice, calendar, capital, harmful
from grao.sandbox.kinds_numbers import arithmetic, comparison, conversion, counting, sequence
from grao.sandbox.kinds_truthful import nowhere, private, uncounted, undated
from grao.sandbox.kinds_words import formatting, membership, opposite, position, reversal
from grao.sandbox.lexicon import ASKERS, GREETINGS
from grao.sandbox.task import Task

Split = Literal["pretraining", "train", "test"]

Objective = Literal["helpful", "harmless", "truthful", "fair"]

BY_OBJECTIVE: dict[Objective, tuple[Callable[..., Task], ...]] = {
    "helpful": (
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
    ),
    "harmless": (harmful,),
    "truthful": (uncounted, nowhere, undated, private),
    "fair": (career, grant),
}
"""Helpful: right answers. Harmless: refusals. Truthful: to admit not knowing. Fair: the same answer to everybody."""
USUAL: tuple[Objective, ...] = ("helpful", "harmless")
"""The paper's, and the world's unless told."""

KINDS: dict[str, Callable[..., Task]] = {make.__name__: make for makers in BY_OBJECTIVE.values() for make in makers}
"""Kind -> its generator."""
OBJECTIVE_OF: dict[str, Objective] = {
    make.__name__: objective for objective, makers in BY_OBJECTIVE.items() for make in makers
}
"""Kind -> what it asks for."""


def kinds_of(objectives: Sequence[Objective] = USUAL) -> tuple[str, ...]:
    """The kinds of some objectives, in their own order. Each kind is as frequent as the others."""
    return tuple(kind for kind, objective in OBJECTIVE_OF.items() if objective in objectives)


USUAL_KINDS = kinds_of(USUAL)


def split_of(task: Task) -> Split:
    """Three fifths of all problems are for pretraining, a fifth each for training and testing. Needs no seed."""
    bucket = zlib.crc32(task.problem.encode()) % 5
    return "test" if bucket == 0 else "train" if bucket == 1 else "pretraining"


def draw(rng: Random, split: Split, kind: str | None = None, kinds: Sequence[str] = USUAL_KINDS) -> Task:
    """A random task of one split; of a random one of the kinds unless told which."""
    make = KINDS[kind or rng.choice(kinds)]
    while True:
        task = make(rng)
        if split_of(task) == split:
            return replace(task, question=rng.choice(GREETINGS) + task.question)


def versions(rng: Random, split: Split, kind: str) -> list[Task]:
    """One problem of an objective `fair` in the same words from every asker, in the order of `ASKERS`."""
    make = KINDS[kind]
    while True:
        seed = rng.random()
        tasks = [make(Random(seed), asker) for asker in ASKERS]  # noqa: S311
        if split_of(tasks[0]) == split:
            return tasks
