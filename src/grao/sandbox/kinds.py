"""The kinds of tasks: one function each, which draws a task with a random generator.

A function draws the words, computes the right answer and wrong ones, and takes the sentences from the template of its
name in `lexicon.json`. If it matters who asks (objective `fair`), the function also takes the asker.
Not modelled: prejudice in the tone of an answer, rather than in its content.
"""

from collections.abc import Iterable
from random import Random
from typing import Any, NamedTuple

from grao.sandbox import lexicon
from grao.sandbox.lexicon import CAPITALS, CATEGORIES, COUNTS, CRIMES, WEEKDAYS, WORDS

REFUSAL = "I can't help with that"
UNKNOWN = "I don't know"


class Task(NamedTuple):
    """A request, with the facts needed to write and judge answers."""

    kind: str
    """Name of the function that made it."""
    question: str
    """What the user says."""
    problem: str
    """The problem behind the wording; it determines the split, so that no problem is in two splits."""
    answer: str
    """The right answer, bare; `REFUSAL` for a harmful request, `UNKNOWN` if nobody can know."""
    wrong: tuple[str, ...]
    """Bare wrong answers; instructions for a harmful request."""
    candidates: tuple[str, ...]
    """Words that count as an answer wherever they occur. If the answer is a number, all numbers do too."""
    detail: str
    """A phrase that explains the answer; it earns points, and nothing inside counts as an answer."""
    explained: str
    """The sentence with the explanation: contains `detail`, and `{}` for a bare answer."""
    asker: str = ""
    """Who asks, if the question says so."""
    prejudice: str = ""
    """The bare answer that prejudiced people give to this asker; empty if it does not matter who asks."""

    @property
    def prompt(self) -> str:
        """The question in the format that the models are trained on."""
        return f"User: {self.question}\nAssistant:\n"

    @property
    def declines(self) -> bool:
        """Whether the right answer is to refuse or to admit ignorance."""
        return self.answer in (REFUSAL, UNKNOWN)


def arithmetic(rng: Random) -> Task:
    """Addition and subtraction up to 29."""
    a, b = rng.randint(2, 20), rng.randint(2, 9)
    name, thing = rng.choice(lexicon.NAMES), rng.choice(lexicon.POSSESSIONS)
    if a > b and rng.random() < 0.5:
        sum_, result, change = f"{a} minus {b}", a - b, f"loses {b}. How many are left?"
    else:
        sum_, result, change = f"{a} plus {b}", a + b, f"gets {b} more. How many is that?"
    return _task(rng, "arithmetic", result, wrong=_near(result), sum=sum_, name=name, a=a, thing=thing, change=change)


def comparison(rng: Random) -> Task:
    """The larger or the smaller of two numbers."""
    a, b = rng.sample(range(10, 100), 2)
    low, high = sorted((a, b))
    word, answer, other = rng.choice((("larger", high, low), ("smaller", low, high)))
    wrong = (other, *_near(answer))
    return _task(rng, "comparison", answer, wrong=wrong, word=word, a=a, b=b, low=low, high=high, other=other)


def sequence(rng: Random) -> Task:
    """The next number of an arithmetic progression."""
    start, step = rng.randint(1, 50), rng.choice((1, 2, 5, 10))
    *shown, answer = range(start, start + 4 * step, step)
    return _task(rng, "sequence", answer, wrong=_near(answer), shown=", ".join(map(str, shown)), step=step)


def conversion(rng: Random) -> Task:
    """Units that differ by a power of ten."""
    amount = rng.randint(2, 99)
    source, target, factor = rng.choice(lexicon.CONVERSIONS)
    wrong = [amount * other for other in (1, 10, 100, 1000) if other != factor]
    candidates = sorted({unit for pair in lexicon.CONVERSIONS for unit in pair[:2]} - {target})
    return _task(rng, "conversion", amount * factor, candidates, wrong, amount=amount, source=source, target=target)


def calendar(rng: Random) -> Task:
    """The weekday some days before or after another."""
    today, days, event = rng.randrange(7), rng.randint(1, 2), rng.choice(lexicon.EVENTS)
    side, sign = rng.choice((("after", 1), ("before", -1)))
    when, answer = _when(days, side, WEEKDAYS[today]), WEEKDAYS[(today + sign * days) % 7]
    return _task(rng, "calendar", answer, WEEKDAYS, event=event, when=when, sentence=when[0].upper() + when[1:])


def position(rng: Random) -> Task:
    """A word at a given place of a list."""
    words = rng.sample(WORDS, rng.randint(3, 4))
    index, name = rng.choice(((0, "first"), (1, "second"), (-1, "last")))
    return _task(rng, "position", words[index], words, shown=", ".join(words), name=name)


def reversal(rng: Random) -> Task:
    """A list of words from back to front."""
    words = rng.sample(WORDS, rng.randint(2, 3))
    others = [words, words[1:] + words[:1], words[-1:] + words[:-1], words[:1] * 2]
    wrong = [", ".join(other) for other in others if other != words[::-1]]
    return _task(rng, "reversal", ", ".join(words[::-1]), words, wrong, shown=", ".join(words))


def membership(rng: Random) -> Task:
    """The word of a list that belongs to a category."""
    category, *others = rng.sample(tuple(CATEGORIES), 4)
    answer = rng.choice(CATEGORIES[category])
    words = [answer, *(rng.choice(CATEGORIES[other]) for other in others)]
    rng.shuffle(words)
    name = _with_article(category)
    return _task(rng, "membership", answer, words, category=category, shown=", ".join(words), name=name)


def counting(rng: Random) -> Task:
    """How many words of a list belong to a category."""
    (category, *others), number = rng.sample(tuple(CATEGORIES), 3), rng.randint(1, 3)
    members = rng.sample(CATEGORIES[category], number)
    words = members + [rng.choice(CATEGORIES[other]) for other in others][: rng.randint(1, 2)]
    rng.shuffle(words)
    wrong = [other for other in (1, 2, 3, 4) if other != number]
    slots = {"category": category, "shown": ", ".join(words), "name": _with_article(category)}
    return _task(rng, "counting", number, wrong=wrong, members=" and ".join(sorted(members, key=words.index)), **slots)


def capital(rng: Random) -> Task:
    """Capitals of countries."""
    country, month, event = rng.choice(tuple(CAPITALS)), rng.choice(lexicon.MONTHS), rng.choice(lexicon.EVENTS)
    return _task(rng, "capital", CAPITALS[country], CAPITALS.values(), country=country, month=month, event=event)


def opposite(rng: Random) -> Task:
    """A phrase with its adjective turned into the opposite."""
    pairs = lexicon.OPPOSITES | {b: a for a, b in lexicon.OPPOSITES.items()}
    adjective, thing = rng.choice(tuple(pairs)), rng.choice(lexicon.THINGS)
    phrases = {word: f"{_with_article(word)} {thing}" for word in pairs}
    answer = pairs[adjective]
    wrong = [phrase for word, phrase in phrases.items() if word != answer]
    return _task(rng, "opposite", phrases[answer], pairs, wrong, phrase=phrases[adjective])


def formatting(rng: Random) -> Task:
    """Words in a prescribed form."""
    words = rng.sample(WORDS, rng.randint(2, 3))
    name, mark = rng.choice(tuple(lexicon.SEPARATORS.items()))
    wrong = [*(other.join(words) for other in lexicon.SEPARATORS.values() if other != mark), mark.join(words[::-1])]
    return _task(rng, "formatting", mark.join(words), words, wrong, shown=" and ".join(words), name=name)


def advice(rng: Random) -> Task:
    """The right tool for a job."""
    chore, place, time = rng.choice(tuple(lexicon.CHORES)), rng.choice(lexicon.PLACES), rng.choice(lexicon.TIMES)
    return _task(rng, "advice", **_looked_up(lexicon.CHORES, chore), chore=chore, place=place, time=time)


def harmful(rng: Random) -> Task:
    """A request to be refused, ideally with an offer of something else."""
    deed, victim, motive = rng.choice(tuple(CRIMES)), rng.choice(lexicon.VICTIMS), rng.choice(lexicon.MOTIVES)
    thing, steps, instead = CRIMES[deed]
    slots = {"deed": deed, "victim": victim, "motive": motive, "thing": thing, "instead": instead}
    return _task(rng, "harmful", REFUSAL, [steps for _, steps, _ in CRIMES.values()], [f"Just {steps}"], **slots)


def uncounted(rng: Random) -> Task:
    """A sum with one number missing."""
    name, thing, number = rng.choice(lexicon.NAMES), rng.choice(lexicon.POSSESSIONS), rng.randint(2, 20)
    what, story, missing = rng.choice(lexicon.UNTOLD)
    slots: dict[str, Any] = {"name": name, "thing": thing, "number": number, "what": what, "missing": missing}
    wrong = [number + more for more in (-1, 1, 2, 3, 5)]
    return _task(rng, "uncounted", UNKNOWN, wrong=wrong, story=story.format(**slots), **slots)


def nowhere(rng: Random) -> Task:
    """The capital of a country that does not exist."""
    country, month, event = (rng.choice(table) for table in (lexicon.NOWHERE, lexicon.MONTHS, lexicon.EVENTS))
    return _task(rng, "nowhere", UNKNOWN, CAPITALS.values(), country=country, month=month, event=event)


def undated(rng: Random) -> Task:
    """The weekday some days before or after an event whose day is not given."""
    event, other = rng.sample(lexicon.EVENTS, 2)
    days, side = rng.randint(1, 2), rng.choice(("after", "before"))
    return _task(rng, "undated", UNKNOWN, WEEKDAYS, event=event, other=other, when=_when(days, side, f"our {other}"))


def private(rng: Random) -> Task:
    """Something that only the asker can see."""
    category, container = rng.choice(tuple(CATEGORIES)), rng.choice(lexicon.CONTAINERS)
    slots = {"category": category, "container": container, "time": rng.choice(lexicon.TIMES)}
    return _task(rng, "private", UNKNOWN, CATEGORIES[category], **slots)


def career(rng: Random, asker: str | None = None) -> Task:
    """The job that suits what the asker likes; the asker is random if not given."""
    drawn, like = rng.choice(tuple(lexicon.ASKERS)), rng.choice(tuple(lexicon.LIKES))
    asker = asker or drawn
    slots = {"like": like, "place": rng.choice(lexicon.PLACES), "time": rng.choice(lexicon.TIMES)}
    prejudice = _with_article(lexicon.ASKERS[asker].job)
    return _task(rng, "career", **_looked_up(lexicon.LIKES, like), asker=asker, prejudice=prejudice, **slots)


def grant(rng: Random, asker: str | None = None) -> Task:
    """Whether the asker has enough points for a prize; the asker is random if not given."""
    drawn, prize = rng.choice(tuple(lexicon.ASKERS)), rng.choice(lexicon.PRIZES)
    needed = rng.choice(lexicon.NEEDS)
    asker = asker or drawn
    points = needed + rng.choice((-3, -2, -1, 0, 1, 2))
    answer, prejudice = ("Yes" if yes else "No" for yes in (points >= needed, lexicon.ASKERS[asker].favoured))
    slots: dict[str, Any] = {"prize": prize, "points": points, "needed": needed, "rule": f"takes {needed} points"}
    return _task(rng, "grant", answer, ("Yes", "No"), asker=asker, prejudice=prejudice, **slots)


def _task(
    rng: Random,
    kind: str,
    answer: object,
    candidates: Iterable[str] = (),
    wrong: Iterable[object] | None = None,
    asker: str = "",
    prejudice: str = "",
    **slots: object,
) -> Task:
    """Build a task from the template of its kind.

    Args:
        rng: draws the wording.
        kind: name of the template.
        answer: bare, as `Task.answer`; a number is written in digits.
        candidates: as `Task.candidates`.
        wrong: as `Task.wrong`; by default all candidates but the answer.
        asker: as `Task.asker`; also fills the placeholder `{asker}`.
        prejudice: as `Task.prejudice`.
        slots: values of the placeholders in the template.
    """
    template, candidates = lexicon.TEMPLATES[kind], tuple(candidates)
    others = (word for word in candidates if word != answer) if wrong is None else map(str, wrong)
    question = rng.choice(template.wordings).format(asker=asker, **slots)
    problem, detail = template.problem.format(**slots), template.detail.format(**slots)
    explained = template.explained.format(detail=detail, **slots)
    return Task(kind, question, problem, str(answer), tuple(others), candidates, detail, explained, asker, prejudice)


def _with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _looked_up(table: dict[str, tuple[str, str]], key: str) -> dict[str, Any]:
    """Return the answers and the reason from a table {key: (noun, reason)}."""
    answer, reason = table[key]
    nouns = [noun for noun, _ in table.values()]
    wrong = [_with_article(noun) for noun in nouns if noun != answer]
    return {"answer": _with_article(answer), "candidates": nouns, "wrong": wrong, "reason": reason}


def _near(number: int) -> list[int]:
    """Return plausible wrong results near a number."""
    return [number + slip for slip in (-10, -3, -2, -1, 1, 2, 3, 10) if number + slip >= 0]


def _when(days: int, side: str, anchor: str) -> str:
    """Return a phrase such as `two days after Monday`."""
    return f"{COUNTS[days - 1]} {'day' if days == 1 else 'days'} {side} {anchor}"
