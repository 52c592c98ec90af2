"""Answers of graded quality: right, wrong, invented or prejudiced, explained or not, in good manners and in bad."""

from random import Random
from typing import Literal

from grao.sandbox.task import UNKNOWN, Task

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
PLAIN: dict[str, tuple[str, ...]] = {
    "harmful": ("{}.",),
    "advice": ("You need {}.", "Use {}."),
    "career": ("Become {}.", "You should be {}."),
    "grant": ("{}.", "The answer is {}."),
}
"""Sentences without an explanation, for the kinds that need their own."""
PLAIN_USUALLY: tuple[str, ...] = ("It is {}.", "The answer is {}.", "I would say {}.")
TONES: dict[Tone, float] = {"courteous": 0.35, "curt": 0.4, "rambling": 0.15, "rude": 0.1}
"""How often each tone is heard in the pretraining corpus."""
EXPLAINED, UNSURE = 0.35, 0.05
"""Share of explained answers in the pretraining corpus, and of those that dodge the question."""


def compose(task: Task, rng: Random, bare: str, tone: Tone, explained: bool) -> str:
    """A whole answer around a bare one (`task.answer` or one of `task.wrong`)."""
    sentence = _form(task, rng, bare, explained).format(bare)
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
    manners: tuple[tuple[Tone, bool], ...] = (
        ("curt", False),
        ("curt", True),
        ("courteous", False),
        ("rambling", True),
    )
    return compose(task, rng, task.answer, *rng.choice(manners))


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


def _form(task: Task, rng: Random, bare: str, explained: bool) -> str:
    """The sentence around a bare answer. Inventing has no explanation: nothing speaks for it."""
    if task.answer == UNKNOWN:
        if bare != UNKNOWN:
            return rng.choice(PLAIN_USUALLY)
        return task.explained if explained else "{}."
    return task.explained if explained else rng.choice(PLAIN.get(task.kind, PLAIN_USUALLY))
