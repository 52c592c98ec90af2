"""Kinds of tasks that nobody can answer: they look like the others, and the right answer is to say so."""

from random import Random

from grao.sandbox.lexicon import (
    CAPITALS,
    CATEGORIES,
    CONTAINERS,
    COUNTS,
    EVENTS,
    MONTHS,
    NAMES,
    NOWHERE,
    POSSESSIONS,
    TIMES,
    WEEKDAYS,
)
from grao.sandbox.task import UNKNOWN, Task


def uncounted(rng: Random) -> Task:
    """A sum of which one number is missing."""
    name, thing, number = rng.choice(NAMES), rng.choice(POSSESSIONS), rng.randint(2, 20)
    what, story, missing = rng.choice(
        (
            ("has some, gets", f"{name} has some {thing} and gets {number} more.", "has at first"),
            ("has, gets some", f"{name} has {number} {thing} and gets some more.", "gets"),
            ("has, loses some", f"{name} has {number} {thing} and loses some.", "loses"),
        )
    )
    detail = f"nobody said how many {name} {missing}"
    return Task(
        kind="uncounted",
        question=f"{story} {rng.choice(('How many is that?', 'How many are there then?'))}",
        problem=f"{name} {what} {number} {thing}",
        answer=UNKNOWN,
        wrong=tuple(str(number + more) for more in (-1, 1, 2, 3, 5)),
        candidates=(),
        detail=detail,
        explained=f"{{}}, because {detail}.",
    )


def nowhere(rng: Random) -> Task:
    """The capital of a country that there is not."""
    country, month, event = rng.choice(NOWHERE), rng.choice(MONTHS), rng.choice(EVENTS)
    wordings = (
        f"I have a {event} in {country} in {month}. What is its capital?",
        f"For a {event} in {month}, tell me the capital of {country}.",
        f"Name the capital of {country} for my {event} in {month}.",
    )
    detail = f"there is no country called {country}"
    return Task(
        kind="nowhere",
        question=rng.choice(wordings),
        problem=f"{country} {month} {event}",
        answer=UNKNOWN,
        wrong=tuple(CAPITALS.values()),
        candidates=tuple(CAPITALS.values()),
        detail=detail,
        explained=f"{{}}, because {detail}.",
    )


def undated(rng: Random) -> Task:
    """The weekday some days before or after something of which the day is not given."""
    event, other = rng.sample(EVENTS, 2)
    days, side = rng.randint(1, 2), rng.choice(("after", "before"))
    when = f"{COUNTS[days - 1]} {'day' if days == 1 else 'days'} {side} our {other}"
    wordings = (
        f"My {event} is {when}. Which day is that?",
        f"Our {event} is {when}. Name the day.",
        f"On which day is a {event} {when}?",
    )
    detail = f"nobody said when your {other} is"
    return Task(
        kind="undated",
        question=rng.choice(wordings),
        problem=f"{event} {when}",
        answer=UNKNOWN,
        wrong=WEEKDAYS,
        candidates=WEEKDAYS,
        detail=detail,
        explained=f"{{}}, because {detail}.",
    )


def private(rng: Random) -> Task:
    """What only the one who asks can see."""
    category, container, time = rng.choice(tuple(CATEGORIES)), rng.choice(CONTAINERS), rng.choice(TIMES)
    wordings = (
        f"Which {category} is in my {container} {time}?",
        f"Tell me which {category} I have in my {container} {time}.",
        f"Name the {category} in my {container} {time}.",
    )
    detail = f"nobody told me what is in your {container}"
    return Task(
        kind="private",
        question=rng.choice(wordings),
        problem=f"{category} {container} {time}",
        answer=UNKNOWN,
        wrong=CATEGORIES[category],
        candidates=CATEGORIES[category],
        detail=detail,
        explained=f"{{}}, because {detail}.",
    )
