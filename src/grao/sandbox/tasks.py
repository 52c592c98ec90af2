"""Draw tasks of all kinds, assign them to splits, and compose answers of graded quality.

An answer is right, wrong, invented or prejudiced, explained or not, polite or not. To add a kind of task, write its
function in `grao.sandbox.kinds`, and its sentences in `lexicon.json` under its objective and the function's name;
answers and judge need not change.
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
"""{tone: its share of the pretraining corpus}."""
EXPLAINED, UNSURE = 0.35, 0.05
"""Shares of explained answers, and of evasive ones, in the pretraining corpus."""
MANNERS: tuple[tuple[Tone, bool], ...] = ("curt", False), ("curt", True), ("courteous", False), ("rambling", True)
"""(tone, whether explained) of references."""

OBJECTIVE_OF: dict[str, Objective] = {kind: template.objective for kind, template in TEMPLATES.items()}
"""{kind: its objective}."""
OBJECTIVES: tuple[Objective, ...] = tuple(dict.fromkeys(OBJECTIVE_OF.values()))
"""Helpful: right answers. Harmless: refusals. Truthful: admitting ignorance. Fair: the same answer for everybody."""
USUAL: tuple[Objective, ...] = ("helpful", "harmless")
"""The paper's objectives, which are the sandbox's default."""

KINDS: dict[str, Callable[..., Task]] = {kind: getattr(makers, kind) for kind in OBJECTIVE_OF}
"""{kind: its function}."""


def kinds_of(objectives: Sequence[Objective] = USUAL) -> tuple[str, ...]:
    """Return the kinds of some objectives, in the order of `KINDS`. All kinds are equally frequent."""
    return tuple(kind for kind, objective in OBJECTIVE_OF.items() if objective in objectives)


USUAL_KINDS = kinds_of(USUAL)


def split_of(task: Task) -> Split:
    """Return the split of a task: 3/5 of all problems for pretraining, 1/5 each for training and test, for any seed."""
    bucket = zlib.crc32(task.problem.encode()) % 5
    return "test" if bucket == 0 else "train" if bucket == 1 else "pretraining"


def draw(rng: Random, split: Split, kind: str | None = None, kinds: Sequence[str] = USUAL_KINDS) -> Task:
    """Draw a task of a split.

    Args:
        rng: random generator.
        split: the task's split.
        kind: its kind; by default a random one of `kinds`.
        kinds: kinds to choose from.
    """
    make = KINDS[kind or rng.choice(kinds)]
    while True:
        task = make(rng)
        if split_of(task) == split:
            return task._replace(question=rng.choice(GREETINGS) + task.question)


def versions(rng: Random, split: Split, kind: str) -> list[Task]:
    """Draw one problem of objective `fair`, asked in the same words by every asker, in the order of `ASKERS`.

    Args:
        rng: random generator.
        split: the problem's split.
        kind: a kind of objective `fair`.
    """
    while True:
        seed = rng.random()
        tasks = [KINDS[kind](Random(seed), asker) for asker in ASKERS]  # noqa: S311
        if split_of(tasks[0]) == split:
            return tasks


def compose(task: Task, rng: Random, bare: str, tone: Tone, explained: bool) -> str:
    """Compose a whole answer around a bare one.

    An invented answer, where nobody can know the right one, has no explanation.

    Args:
        task: the task.
        rng: draws the wording.
        bare: `task.answer` or one of `task.wrong`.
        tone: of the answer.
        explained: whether it contains the explanation.
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
    """Compose an answer of the pretraining corpus: right, prejudiced or wrong, or evasive, in a random tone.

    Args:
        task: the task.
        rng: draws answer, tone and wording.
        share_right: probability of the right answer, 0 to 1.
    """
    if rng.random() < UNSURE:
        return "I am not sure."
    bare = task.answer if rng.random() < share_right else task.prejudice or rng.choice(task.wrong)
    tone = rng.choices(tuple(TONES), tuple(TONES.values()))[0]
    return compose(task, rng, bare, tone, rng.random() < EXPLAINED)


def reference(task: Task, rng: Random) -> str:
    """Compose a right answer that lacks the explanation, the courtesy or the brevity."""
    return compose(task, rng, task.answer, *rng.choice(MANNERS))


def rejected(task: Task, rng: Random) -> str:
    """Compose an answer worse than every reference: right but rude, or wrong in any tone (harmful if harm is asked)."""
    if rng.random() < 0.3:
        return compose(task, rng, task.answer, "rude", explained=False)
    tone = rng.choice(tuple(TONES))
    return compose(task, rng, rng.choice(task.wrong), tone, rng.random() < EXPLAINED)


def best(task: Task, rng: Random) -> str:
    """Compose the best possible answer: right, explained, courteous and brief."""
    opening = rng.choice(REGRETS if task.declines else OPENINGS)
    return f"{opening} {compose(task, rng, task.answer, 'curt', explained=True)}"
