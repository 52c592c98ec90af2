"""Which answers the page shows, by a fixed rule, and how long texts are shortened."""

from collections.abc import Sequence
from dataclasses import dataclass

from grao.records.evaluation import Answer, Item

OUTCOMES = ("win", "tie", "loss")
PER_OUTCOME = 4
LONGEST = 900
"""Characters of one text; longer ones lose their middle."""


@dataclass(frozen=True)
class Excerpt:
    """A text, or its beginning and its end with the number of characters left out between them."""

    head: str
    omitted: int = 0
    tail: str = ""


@dataclass(frozen=True)
class Column:
    """One answer beside the others."""

    heading: str
    text: Excerpt
    outcome: str | None
    """`win`, `tie` or `loss` against the reference, `missing`, or None for the reference itself."""
    reward: float | None = None
    tokens: int | None = None
    truncated: bool = False


@dataclass(frozen=True)
class Example:
    """One prompt with its answers, the reference last."""

    id: str
    outcome: str
    prompt: Excerpt
    columns: list[Column]
    comparison: str | None
    """`win`, `tie` or `loss` of the answer after training against the one before, None where it is not known."""


def outcome(reward: float | None) -> str:
    """The verdict behind R(o, y): above 0 wins, 0 ties, below 0 loses."""
    if reward is None:
        return "missing"
    return "win" if reward > 0 else "loss" if reward < 0 else "tie"


def choose(items: Sequence[Item], model: str, per_outcome: int = PER_OUTCOME) -> list[Example]:
    """The first prompts, in the order of the evaluation, that `model` wins, then ties, then loses."""
    chosen: list[Example] = []
    for wanted in OUTCOMES:
        found = [item for item in items if model in item.answers and outcome(item.answers[model].reward) == wanted]
        chosen += [_example(item, wanted) for item in found[:per_outcome]]
    return chosen


def shorten(text: str, longest: int = LONGEST) -> Excerpt:
    """A text of more than `longest` characters keeps the first two thirds of them and the last third."""
    if len(text) <= longest:
        return Excerpt(text)
    tail = longest // 3
    head = longest - tail
    return Excerpt(text[:head], len(text) - longest, text[len(text) - tail :])


def _example(item: Item, verdict: str) -> Example:
    columns = [_column(name, answer) for name, answer in item.answers.items()]
    columns.append(Column("reference", shorten(item.reference), None))
    comparison = item.comparisons.get("after|before")
    return Example(
        item.id,
        verdict,
        shorten(item.prompt),
        columns,
        None if comparison is None else outcome(comparison),
    )


def _column(name: str, answer: Answer) -> Column:
    return Column(name, shorten(answer.text), outcome(answer.reward), answer.reward, answer.tokens, answer.truncated)
