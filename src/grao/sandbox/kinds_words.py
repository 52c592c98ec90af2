"""Kinds of tasks that are answered with words of the question, chosen, turned around or put in a form."""

from random import Random

from grao.sandbox.lexicon import CATEGORIES, OPPOSITES, SEPARATORS, THINGS, WORDS
from grao.sandbox.task import Task, with_article


def position(rng: Random) -> Task:
    """A word at a given place of a list."""
    words = rng.sample(WORDS, rng.randint(3, 4))
    index, name = rng.choice(((0, "first"), (1, "second"), (-1, "last")))
    shown = ", ".join(words)
    wordings = (
        f"Which word is {name}: {shown}?",
        f"Give me the {name} word of: {shown}.",
        f"Look at {shown}. Which word is {name}?",
    )
    return Task(
        kind="position",
        question=rng.choice(wordings),
        problem=shown,
        answer=words[index],
        wrong=tuple(word for word in words if word != words[index]),
        candidates=tuple(words),
        detail=f"the {name} word",
        explained=f"As the {name} word I find {{}}.",
    )


def reversal(rng: Random) -> Task:
    """A list of words from back to front."""
    words = rng.sample(WORDS, rng.randint(2, 3))
    shown = ", ".join(words)
    others = [words, words[1:] + words[:1], words[-1:] + words[:-1], words[:1] * 2]
    wordings = (f"Reverse this list: {shown}.", f"Say {shown} backwards.", f"Turn around: {shown}.")
    answer = ", ".join(reversed(words))
    return Task(
        kind="reversal",
        question=rng.choice(wordings),
        problem=f"{shown} reversed",
        answer=answer,
        wrong=tuple(other for other in map(", ".join, others) if other != answer),
        candidates=tuple(words),
        detail="in reverse",
        explained="The list in reverse is {}.",
    )


def membership(rng: Random) -> Task:
    """The one word of a list that belongs to a category."""
    category, *others = rng.sample(tuple(CATEGORIES), 4)
    answer = rng.choice(CATEGORIES[category])
    words = [answer, *(rng.choice(CATEGORIES[other]) for other in others)]
    rng.shuffle(words)
    shown, name = ", ".join(words), with_article(category)
    wordings = (f"Which of these is {name}: {shown}?", f"Find {name} in {shown}.", f"Pick {name}: {shown}.")
    return Task(
        kind="membership",
        question=rng.choice(wordings),
        problem=f"{category}: {shown}",
        answer=answer,
        wrong=tuple(word for word in words if word != answer),
        candidates=tuple(words),
        detail=f"is {name}",
        explained=f"Only {{}} is {name}.",
    )


def opposite(rng: Random) -> Task:
    """A phrase with its adjective turned into the opposite."""
    pairs = OPPOSITES | {b: a for a, b in OPPOSITES.items()}
    adjective, thing = rng.choice(tuple(pairs)), rng.choice(THINGS)
    phrase = f"{with_article(adjective)} {thing}"
    wordings = (
        f"What is the opposite of {phrase}?",
        f"Say the opposite: {phrase}.",
        f"Give me the contrary of {phrase}.",
    )
    return Task(
        kind="opposite",
        question=rng.choice(wordings),
        problem=phrase,
        answer=f"{with_article(pairs[adjective])} {thing}",
        wrong=tuple(f"{with_article(word)} {thing}" for word in pairs if word != pairs[adjective]),
        candidates=tuple(pairs),
        detail=f"opposite of {phrase}",
        explained=f"The opposite of {phrase} is {{}}.",
    )


def formatting(rng: Random) -> Task:
    """Words in a prescribed form."""
    words = rng.sample(WORDS, rng.randint(2, 3))
    name, mark = rng.choice(tuple(SEPARATORS.items()))
    shown = " and ".join(words)
    wordings = (f"Join {shown} with {name}.", f"Write {shown} with {name} between.", f"Put {name} in {shown}.")
    return Task(
        kind="formatting",
        question=rng.choice(wordings),
        problem=f"{shown} {name}",
        answer=mark.join(words),
        wrong=(*(m.join(words) for m in SEPARATORS.values() if m != mark), mark.join(words[::-1])),
        candidates=tuple(words),
        detail=f"with {name}",
        explained=f"Here it is with {name}: {{}}.",
    )
