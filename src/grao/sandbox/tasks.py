"""Tasks of all kinds, drawn and split, and answers to them of graded quality.

An answer is right, wrong, invented or prejudiced, explained or not, in good manners or in bad. To add a kind of task,
write its function in `grao.sandbox.kinds` and its sentences, under its objective and the function's name, in
`lexicon.json`; answers and judge need not change.
"""

import zlib
from collections.abc import Callable, Sequence
from random import Random
from typing import Literal

import grao.sandbox.kinds as makers
from grao.sandbox.kinds import UNKNOWN, Task
from grao.sandbox.lexicon import ASKERS, GREETINGS, TEMPLATES, Objective

Split = Literal["pretraining", "train", "test"]
Tone = Literal["courteous", "curt", "rambling", "rude"]

OPENINGS: tuple[str, ...] = ("Sure!", "Of course!", "Gladly!", "Happy to help!")
REGRETS: tuple[str, ...] = ("I'm sorry.", "Sorry.")
CLOSINGS: tuple[str, ...] = ("I hope this helps.", "Let me know if you need more.")
INSULTS: tuple[str, ...] = ("Obviously.", "What a silly question.", "You are too lazy to think.")
FILLERS: tuple[str, ...] = (
    "That is a question many people ask me.",
    "There is so much to say about it.",
    "Some things are simple and others take more time.",
    "People have thought about this for a long time.",
)
TONES: dict[Tone, float] = {"courteous": 0.35, "curt": 0.4, "rambling": 0.15, "rude": 0.1}
"""How often each tone is heard in the pretraining corpus."""
EXPLAINED, UNSURE = 0.35, 0.05
"""Share of explained answers in the pretraining corpus, and of those that dodge the question."""
MANNERS: tuple[tuple[Tone, bool], ...] = ("curt", False), ("curt", True), ("courteous", False), ("rambling", True)
"""Tone of a reference, and whether it is explained."""

OBJECTIVE_OF: dict[str, Objective] = {kind: template.objective for kind, template in TEMPLATES.items()}
"""Kind -> what it asks for."""
OBJECTIVES: tuple[Objective, ...] = tuple(dict.fromkeys(OBJECTIVE_OF.values()))
"""Helpful: right answers. Harmless: refusals. Truthful: to admit not knowing. Fair: the same answer to everybody."""
USUAL: tuple[Objective, ...] = ("helpful", "harmless")
"""The paper's objectives, and the world's by default."""

KINDS: dict[str, Callable[..., Task]] = {kind: getattr(makers, kind) for kind in OBJECTIVE_OF}
"""Kind -> its function."""


def kinds_of(objectives: Sequence[Objective] = USUAL) -> tuple[str, ...]:
    """The kinds of some objectives, in the order of `KINDS`. Each kind is as frequent as the others."""
    return tuple(kind for kind, objective in OBJECTIVE_OF.items() if objective in objectives)


USUAL_KINDS = kinds_of(USUAL)


def split_of(task: Task) -> Split:
    """Three fifths of all problems are for pretraining, a fifth each for training and testing. Needs no seed."""
    bucket = zlib.crc32(task.problem.encode()) % 5
    return "test" if bucket == 0 else "train" if bucket == 1 else "pretraining"


def draw(rng: Random, split: Split, kind: str | None = None, kinds: Sequence[str] = USUAL_KINDS) -> Task:
    """A random task of a split, of the given kind or of a random one of `kinds`."""
    make = KINDS[kind or rng.choice(kinds)]
    while True:
        task = make(rng)
        if split_of(task) == split:
            return task._replace(question=rng.choice(GREETINGS) + task.question)


def versions(rng: Random, split: Split, kind: str) -> list[Task]:
    """One problem of the objective `fair` in the same words from every asker, in the order of `ASKERS`."""
    while True:
        seed = rng.random()
        tasks = [KINDS[kind](Random(seed), asker) for asker in ASKERS]  # noqa: S311
        if split_of(tasks[0]) == split:
            return tasks


def compose(task: Task, rng: Random, bare: str, tone: Tone, explained: bool) -> str:
    """A whole answer around a bare one (`task.answer` or one of `task.wrong`).

    An invented answer has no explanation: nothing speaks for it.
    """
    form, admits = task.explained, bare == task.answer == UNKNOWN
    if not explained or (task.answer == UNKNOWN and not admits):
        form = "{}." if admits else rng.choice(TEMPLATES[task.kind].plain)
    sentence = form.format(bare)
    if tone == "curt":
        return sentence
    if tone == "rude":
        return f"{rng.choice(INSULTS)} {sentence}"
    if tone == "rambling":
        before, after = rng.sample(FILLERS, 2)
        return f"{before} {sentence} {after}"
    if rng.random() < 0.25:
        return f"{sentence} {rng.choice(CLOSINGS)}"
    declined = task.declines and bare == task.answer
    return f"{rng.choice(REGRETS if declined else OPENINGS)} {sentence}"


def corpus_answer(task: Task, rng: Random, share_right: float) -> str:
    """What somebody on the net says: right with the given probability, else prejudiced or wrong, in a random tone."""
    if rng.random() < UNSURE:
        return "I am not sure."
    bare = task.answer if rng.random() < share_right else task.prejudice or rng.choice(task.wrong)
    tone = rng.choices(tuple(TONES), tuple(TONES.values()))[0]
    return compose(task, rng, bare, tone, rng.random() < EXPLAINED)


def reference(task: Task, rng: Random) -> str:
    """A right answer that could be better: it lacks the explanation, the courtesy or the brevity."""
    return compose(task, rng, task.answer, *rng.choice(MANNERS))


def rejected(task: Task, rng: Random) -> str:
    """An answer worse than every reference: wrong in any tone, or right and rude. Instructions where harm is asked."""
    if rng.random() < 0.3:
        return compose(task, rng, task.answer, "rude", explained=False)
    tone = rng.choice(tuple(TONES))
    return compose(task, rng, rng.choice(task.wrong), tone, rng.random() < EXPLAINED)


def best(task: Task, rng: Random) -> str:
    """The best possible answer: right, explained, courteous and brief."""
    opening = rng.choice(REGRETS if task.declines else OPENINGS)
    return f"{opening} {compose(task, rng, task.answer, 'curt', explained=True)}"
