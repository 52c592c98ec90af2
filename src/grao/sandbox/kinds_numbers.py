"""Kinds of tasks that are answered with a number."""

from random import Random

from grao.sandbox.lexicon import CATEGORIES, CONVERSIONS, NAMES, POSSESSIONS
from grao.sandbox.task import Task, with_article


def arithmetic(rng: Random) -> Task:
    """Addition and subtraction up to 29."""
    a, b = rng.randint(2, 20), rng.randint(2, 9)
    name, thing = rng.choice(NAMES), rng.choice(POSSESSIONS)
    if a > b and rng.random() < 0.5:
        sum_, result = f"{a} minus {b}", a - b
        story = f"{name} has {a} {thing} and loses {b}. How many are left?"
    else:
        sum_, result = f"{a} plus {b}", a + b
        story = f"{name} has {a} {thing} and gets {b} more. How many is that?"
    return Task(
        kind="arithmetic",
        question=rng.choice((f"What is {sum_}?", f"Calculate {sum_}.", f"How much is {sum_}?", story)),
        problem=sum_,
        answer=str(result),
        wrong=_near(result),
        candidates=(),
        detail=sum_,
        explained=f"{sum_} is {{}}.",
    )


def comparison(rng: Random) -> Task:
    """The larger or smaller one of two numbers."""
    a, b = rng.sample(range(10, 100), 2)
    word, answer = rng.choice((("larger", max(a, b)), ("smaller", min(a, b))))
    other = a + b - answer
    wordings = (
        f"Which is {word}, {a} or {b}?",
        f"Which number is {word}: {a} or {b}?",
        f"Tell me the {word} one of {a} and {b}.",
    )
    return Task(
        kind="comparison",
        question=rng.choice(wordings),
        problem=f"{word} {min(a, b)} {max(a, b)}",
        answer=str(answer),
        wrong=(str(other), *_near(answer)),
        candidates=(),
        detail=f"{word} than {other}",
        explained=f"Here {{}} is {word} than {other}.",
    )


def sequence(rng: Random) -> Task:
    """The next number of an arithmetic progression."""
    start, step = rng.randint(1, 50), rng.choice((1, 2, 5, 10))
    shown = ", ".join(str(start + i * step) for i in range(3))
    answer = start + 3 * step
    wordings = (f"What comes next: {shown}?", f"Continue {shown}.", f"Which number follows {shown}?")
    return Task(
        kind="sequence",
        question=rng.choice(wordings),
        problem=f"{shown} next",
        answer=str(answer),
        wrong=_near(answer),
        candidates=(),
        detail=f"Each step adds {step}",
        explained=f"Each step adds {step}, so it is {{}}.",
    )


def conversion(rng: Random) -> Task:
    """Units that differ by a power of ten."""
    amount = rng.randint(2, 99)
    source, target, factor = rng.choice(CONVERSIONS)
    units = {unit for pair in CONVERSIONS for unit in pair[:2]}
    wordings = (
        f"Convert {amount} {source} to {target}.",
        f"How many {target} are {amount} {source}?",
        f"What is {amount} {source} in {target}?",
    )
    return Task(
        kind="conversion",
        question=rng.choice(wordings),
        problem=f"{amount} {source}",
        answer=str(amount * factor),
        wrong=tuple(str(amount * f) for f in (1, 10, 100, 1000) if f != factor),
        candidates=tuple(sorted(units - {target})),
        detail=f"{amount} {source}",
        explained=f"{amount} {source} are {{}} {target}.",
    )


def counting(rng: Random) -> Task:
    """How many words of a list belong to a category."""
    category, other, third = rng.sample(tuple(CATEGORIES), 3)
    number = rng.randint(1, 3)
    members = rng.sample(CATEGORIES[category], number)
    words = members + [rng.choice(CATEGORIES[c]) for c in (other, third)][: rng.randint(1, 2)]
    rng.shuffle(words)
    members.sort(key=words.index)
    shown, name = ", ".join(words), with_article(category)
    wordings = (
        f"How many words in {shown} name {name}?",
        f"Count each {category}: {shown}.",
        f"How often do you see {name} in {shown}?",
    )
    return Task(
        kind="counting",
        question=rng.choice(wordings),
        problem=f"{category} in {shown}",
        answer=str(number),
        wrong=tuple(str(n) for n in (1, 2, 3, 4) if n != number),
        candidates=(),
        detail=" and ".join(members),
        explained=f"I see {' and '.join(members)}, which makes {{}}.",
    )


def _near(number: int) -> tuple[str, ...]:
    """Numbers a slip away."""
    return tuple(str(number + slip) for slip in (-10, -3, -2, -1, 1, 2, 3, 10) if number + slip >= 0)
