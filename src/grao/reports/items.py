"""The answers on a page: three to read first, how outcomes moved, and all of them, packed for `browser.js`.

Items are embedded as gzip in base64. Their texts keep at most `LONGEST` characters, and fewer where a page would grow
beyond `LARGEST`: then all long texts lose their middle, and the page says so.
"""

import base64
import gzip
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from grao.records.run import Item, RecordedAnswer, Said
from grao.records.samples import Sample, SampledGroup
from grao.reports.parts import Badge, Column, Example
from grao.reports.tables import Table, number, plain_table, signed
from grao.visible import visible

LONGEST, SHORTEST = 20_000, 150
"""Characters of one embedded text: at most, and how far the limit may fall."""
LARGEST = 7 << 20
"""Bytes of all packed items."""
_AGAINST_REFERENCE = {"win": "wins", "tie": "ties", "loss": "loses", "missing": "no verdict"}
_AGAINST_OTHER = {"win": "better than", "tie": "as good as", "loss": "worse than", "missing": "not compared with"}


class Packed(NamedTuple):
    """All items for the list of a page."""

    models: list[str]
    first: str
    """The model whose answers are shown before those of `second`."""
    second: str
    data: str
    """Gzip in base64; see `_packed` for what is in it."""
    longest: int | None
    """Characters that were kept of a text, None where all were."""
    file: str
    """That holds the whole texts."""


def outcome(reward: float | None) -> str:
    """The verdict behind R(o, y): above 0 wins, 0 ties, below 0 loses."""
    if reward is None:
        return "missing"
    return "win" if reward > 0 else "loss" if reward < 0 else "tie"


def compared(models: Mapping[str, Any] | Sequence[str]) -> tuple[str, str]:
    """The two models that a page sets against each other, (first, second): `before` and `after`, or the last two."""
    names = list(models)
    if {"before", "after"} <= set(names):
        return "before", "after"
    return (names[-2] if len(names) > 1 else "", names[-1] if names else "")


def read_first(items: Sequence[Item], first: str, second: str) -> list[tuple[str, str, Example]]:
    """One gain, one regression and one ordinary answer, chosen by rule: (title, rule, example).

    The gain is the item whose R(o, y) rises most from `first` to `second`, the regression the one where it falls most;
    of equals the first in the order of the evaluation. The ordinary one has the median of R(o, y), of equals the one
    in the middle. With a single model, `first` empty, gain and regression are its best and its worst.
    """
    scored = [item for item in items if _reward(item, second) is not None]
    if not scored:
        return []
    both = [item for item in scored if not first or _reward(item, first) is not None]
    changes = [_change(item, first, second) for item in both]
    chosen = []
    if first:
        rules = (max, "A gain", "rises most"), (min, "A regression", "falls most")
    else:
        rules = (max, "The best", "is highest"), (min, "The worst", "is lowest")
    for pick, title, rule in rules:
        if both and (not first or pick(changes) * (1 if pick is max else -1) > 0):
            item = both[changes.index(pick(changes))]
            where = f" from {first} to {second}" if first else ""
            chosen.append((title, f"The reward {rule}{where}: {_told(item, first, second)}.", item))
    ranked = sorted(range(len(scored)), key=lambda index: (_reward(scored[index], second), index))
    middle = scored[ranked[len(ranked) // 2]]
    chosen.append(("The median", f"The reward in the middle of all: {_told(middle, '', second)}.", middle))
    return [(title, rule, example(item, first, second)) for title, rule, item in chosen]


def transitions(items: Sequence[Item], first: str, second: str) -> Table:
    """How many items went from which outcome to which: one row an outcome of `first`, one column one of `second`."""
    kinds = ("win", "tie", "loss", "missing")
    counts = Counter(
        (outcome(item.answers[first].reward), outcome(item.answers[second].reward))
        for item in items
        if first in item.answers and second in item.answers
    )
    used = [kind for kind in kinds if any(kind in pair for pair in counts)]
    rows = [[_AGAINST_REFERENCE[row], *(f"{counts[row, column]:,}" for column in used)] for row in used]
    return plain_table("", [f"{first}, then {second}:", *(_AGAINST_REFERENCE[column] for column in used)], rows)


def example(item: Item, first: str, second: str) -> Example:
    """An item with the answers of these models beside the reference."""
    shown = {name: item.answers[name] for name in (first, second) if name in item.answers}
    gain, loss = (item.comparisons.get(pair) for pair in (f"{second}|{first}", f"{first}|{second}"))
    gain = gain if loss is None else -loss
    columns = [_column(name, answer, first, gain if name == second else None) for name, answer in shown.items()]
    return Example(item.id, item.prompt, [*columns, Column("reference", item.reference)])


def sampled_example(group: SampledGroup) -> Example:
    """A group of the training: the best and the worst of its completions beside the reference, with their weights."""
    known = [sample for sample in group.samples if sample.reward is not None] or group.samples
    ranked = sorted(known, key=lambda sample: -(sample.reward or 0.0))
    chosen = {"best": ranked[0], "worst": ranked[-1]} if len(ranked) > 1 else {"completion": ranked[0]}
    columns = [
        _column(f"{name} of {len(group.samples)}", sample, "", None, f" · weight {number(sample.weight)}")
        for name, sample in chosen.items()
    ]
    reference = Column("reference", group.reference, footer=f"weight {number(group.reference_weight)}")
    return Example(group.id, group.prompt, [*columns, reference])


def pack(items: Sequence[Item], first: str, second: str, file: str) -> Packed | None:
    """All items for the list of a page, None for none.

    Args:
        items: in the order of the evaluation.
        first: a model, or empty.
        second: the model whose rewards order the list.
        file: that holds the whole texts.
    """
    if not items:
        return None
    models = list(dict.fromkeys(name for item in items for name in item.answers))
    longest, limit = max(map(len, (text for item in items for text in _texts(item)))), LONGEST
    while len(data := _packed(items, models, limit)) > LARGEST and limit > SHORTEST:
        limit //= 2
    return Packed(models, first, second, data, limit if longest > limit else None, file)


def _packed(items: Sequence[Item], models: Sequence[str], limit: int) -> str:
    """{models, rewards, items: [{i id, p prompt, r reference, a answers by model, c comparisons}]}.

    An answer is {t text, n tokens, c cut, v reward, s said}, said [reward's number, value, orders], an order
    [what came first, value, text].
    """
    every = [answer for item in items for answer in item.answers.values()]
    rewards = list(dict.fromkeys(said.reward for answer in every for said in answer.said))

    def cut(text: str) -> str:
        text = visible(text.replace("\r\n", "\n"))
        if len(text) <= limit:
            return text
        head, tail = limit - limit // 3, limit // 3
        return f"{text[:head]}\n[... {len(text) - limit:,} characters left out ...]\n{text[-tail:]}"

    def heard(said: Said) -> list[Any]:
        orders = [[order.first, _finite(order.value), cut(order.text)] for order in said.orders]
        return [rewards.index(said.reward), _finite(said.value), orders]

    def packed(answer: RecordedAnswer | None) -> dict[str, Any] | None:
        if answer is None:
            return None
        values = {"t": cut(answer.text), "n": answer.tokens, "c": int(answer.truncated), "v": _finite(answer.reward)}
        return {**values, "s": list(map(heard, answer.said))} if answer.said else values

    rows = [
        {
            "i": visible(item.id),
            "p": cut(item.prompt),
            "r": cut(item.reference),
            "a": [packed(item.answers.get(name)) for name in models],
            **({"c": {pair: _finite(gain) for pair, gain in item.comparisons.items()}} if item.comparisons else {}),
        }
        for item in items
    ]
    tree = {"models": models, "rewards": list(map(visible, rewards)), "items": rows}
    text = json.dumps(tree, ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode(errors="replace"), 6, mtime=0)).decode()


def _texts(item: Item) -> list[str]:
    answers = item.answers.values()
    said = (order.text for answer in answers for one in answer.said for order in one.orders)
    return [item.prompt, item.reference, *(answer.text for answer in answers), *said]


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")


def _reward(item: Item, model: str) -> float | None:
    return item.answers[model].reward if model in item.answers else None


def _change(item: Item, first: str, second: str) -> float:
    """By how much R(o, y) rises; of a single model R(o, y) itself."""
    return (_reward(item, second) or 0.0) - ((_reward(item, first) or 0.0) if first else 0.0)


def _told(item: Item, first: str, second: str) -> str:
    rewards = [_reward(item, name) for name in (first, second) if name]
    return " to ".join("none" if reward is None else signed(reward) for reward in rewards)


def _column(name: str, answer: RecordedAnswer | Sample, other: str, gain: float | None, more: str = "") -> Column:
    against = outcome(answer.reward)
    compared = [] if gain is None else [Badge(outcome(gain), f"{_AGAINST_OTHER[outcome(gain)]} {other}")]
    cut = ", cut at the limit" if answer.truncated else ""
    reward = "" if answer.reward is None else f" · reward {number(answer.reward)}"
    badges = [Badge(against, _AGAINST_REFERENCE[against]), *compared]
    said = answer.said if isinstance(answer, RecordedAnswer) else ()
    return Column(name, answer.text, badges, f"{answer.tokens:,} tokens{cut}{reward}{more}", said)
