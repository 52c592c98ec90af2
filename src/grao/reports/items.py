"""The answers on a page: the examples to read first, the changes of outcomes, and all answers, packed for `browser.js`.

Items are embedded as gzip in base64. Texts are limited to `LONGEST` characters, or to fewer if all items together would
exceed `LARGEST` bytes. Longer texts lose their middle, and the page says so.
"""

import base64
import gzip
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median_high
from typing import Any, NamedTuple

from grao.records.run import Item, RecordedAnswer, RewardVerdict
from grao.records.samples import Sample, SampledGroup
from grao.reports.parts import Badge, Column, Example
from grao.reports.tables import Table, plain_table, signed
from grao.visible import visible

LONGEST, SHORTEST = 20_000, 150
"""Limit on the characters of one embedded text, and the lowest value to which it may be reduced."""
LARGEST = 7 << 20
"""Limit on the bytes of all packed items."""
_AGAINST_REFERENCE = {"win": "wins", "tie": "ties", "loss": "loses", "missing": "no verdict"}
_AGAINST_OTHER = {"win": "better than", "tie": "as good as", "loss": "worse than", "missing": "not compared with"}


class Packed(NamedTuple):
    """All items of a page, packed for the list of answers."""

    models: list[str]
    first: str
    """The model whose answers are shown on the left of those of `second`."""
    second: str
    data: str
    """Gzip in base64; `_packed` documents the content."""
    longest: int | None
    """Characters kept of each text; None if nothing was cut."""
    file: str
    """File or folder with the full texts."""


def outcome(reward: float | None) -> str:
    """Return the verdict that R(o, y) stands for: `win` above 0, `tie` at 0, `loss` below 0, `missing` for None."""
    if reward is None:
        return "missing"
    return "win" if reward > 0 else "loss" if reward < 0 else "tie"


def models_to_compare(models: Mapping[str, Any] | Sequence[str]) -> tuple[str, str]:
    """Choose the two models that a page compares, (first, second): `before` and `after`, or the last two.

    With a single model, the first is empty; without any, both are.
    """
    names = list(models)
    if {"before", "after"} <= set(names):
        return "before", "after"
    return (names[-2] if len(names) > 1 else "", names[-1] if names else "")


def read_first(items: Sequence[Item], first: str, second: str) -> list[tuple[str, str, Example]]:
    """Choose up to three examples by a fixed rule: the largest gain, the largest regression and the median.

    The gain is the item whose R(o, y) rises most from `first` to `second`, the regression the item whose R(o, y) falls
    most; ties go to the first in evaluation order. The median example has the median R(o, y) of `second`; among several
    it is one not chosen yet. With a single model (`first` empty), its best and its worst answer replace gain and
    regression.

    Args:
        items: in evaluation order.
        first: model to compare with, or empty.
        second: model whose answers are shown.

    Returns:
        (title, rule, example) for each.
    """
    scored = [item for item in items if _reward(item, second) is not None]
    if not scored:
        return []
    comparable = [item for item in scored if not first or _reward(item, first) is not None]
    changes = [_change(item, first, second) for item in comparable]
    chosen = []
    if first:
        rules = (max, "Largest gain", "increase in reward"), (min, "Largest regression", "decrease in reward")
    else:
        rules = (max, "Best answer", "reward"), (min, "Worst answer", "reward")
    for pick, title, rule in rules:
        if comparable and (not first or pick(changes) * (1 if pick is max else -1) > 0):
            item = comparable[changes.index(pick(changes))]
            extreme = "Highest" if pick is max and not first else "Lowest" if not first else "Largest"
            models = f" from {first} to {second}" if first else ""
            chosen.append((title, f"{extreme} {rule}{models}: {_shown_rewards(item, first, second)}.", item))
    median = median_high(reward for item in scored if (reward := _reward(item, second)) is not None)
    shown = [item for _, _, item in chosen]
    with_median = [item for item in scored if _reward(item, second) == median]
    middle = next((item for item in with_median if item not in shown), with_median[0])
    chosen.append(("Median answer", f"Median reward of {second}: {_shown_rewards(middle, '', second)}.", middle))
    return [(title, rule, example(item, first, second)) for title, rule, item in chosen]


def transitions(items: Sequence[Item], first: str, second: str) -> Table:
    """Count the items by their outcomes: one row per outcome of `first`, one column per outcome of `second`."""
    kinds = ("win", "tie", "loss", "missing")
    counts = Counter(
        (outcome(item.answers[first].reward), outcome(item.answers[second].reward))
        for item in items
        if first in item.answers and second in item.answers
    )
    used = [kind for kind in kinds if any(kind in pair for pair in counts)]
    rows = [[_AGAINST_REFERENCE[row], *(f"{counts[row, column]:,}" for column in used)] for row in used]
    corner = f"{first} (rows), {second} (columns)"
    return plain_table("", [corner, *(_AGAINST_REFERENCE[column] for column in used)], rows)


def example(item: Item, first: str, second: str) -> Example:
    """An item with the answers of two models next to the reference."""
    shown = {name: item.answers[name] for name in (first, second) if name in item.answers}
    gain, loss = (item.comparisons.get(pair) for pair in (f"{second}|{first}", f"{first}|{second}"))
    gain = gain if loss is None else -loss
    columns = [_column(name, answer, first, gain if name == second else None) for name, answer in shown.items()]
    return Example(item.id, item.prompt, [*columns, Column("reference", item.reference)])


def sampled_example(group: SampledGroup) -> Example:
    """A training group: its best and its worst completion next to the reference, with their weights."""
    known = [sample for sample in group.samples if sample.reward is not None] or group.samples
    ranked = sorted(known, key=lambda sample: -(sample.reward or 0.0))
    chosen = {"best": ranked[0], "worst": ranked[-1]} if len(ranked) > 1 else {"completion": ranked[0]}
    columns = [
        _column(f"{name} of {len(group.samples)}", sample, "", None, f" · weight {signed(sample.weight)}")
        for name, sample in chosen.items()
    ]
    reference = Column("reference", group.reference, footer=f"weight {signed(group.reference_weight)}")
    return Example(group.id, group.prompt, [*columns, reference])


def pack(items: Sequence[Item], first: str, second: str, file: str) -> Packed | None:
    """Pack all items for the list of answers; None without items.

    Args:
        items: in evaluation order.
        first: model to compare with, or empty.
        second: model whose rewards the list shows and sorts by.
        file: file or folder with the full texts, as named on the page.
    """
    if not items:
        return None
    models = list(dict.fromkeys(name for item in items for name in item.answers))
    longest, limit = max(map(len, (text for item in items for text in _texts(item)))), LONGEST
    while len(data := _packed(items, models, limit)) > LARGEST and limit > SHORTEST:
        limit //= 2
    return Packed(models, first, second, data, limit if longest > limit else None, file)


def _packed(items: Sequence[Item], models: Sequence[str], limit: int) -> str:
    """Pack {models, rewards, items: [{i: id, p: prompt, r: reference, a: answers by model, c: comparisons}]}.

    An answer is {t: text, n: tokens, c: truncated, v: reward, s: verdicts}, a verdict [index of the reward, value,
    orders], an order [which text was shown first, value, reply].
    """
    answers = [answer for item in items for answer in item.answers.values()]
    rewards = list(dict.fromkeys(said.reward for answer in answers for said in answer.said))

    def cut(text: str) -> str:
        text = visible(text.replace("\r\n", "\n"))
        if len(text) <= limit:
            return text
        head, tail = limit - limit // 3, limit // 3
        return f"{text[:head]}\n[... {len(text) - limit:,} characters omitted ...]\n{text[-tail:]}"

    def reading(said: RewardVerdict) -> list[Any]:
        orders = [[order.first, _finite(order.value), cut(order.text)] for order in said.orders]
        return [rewards.index(said.reward), _finite(said.value), orders]

    def packed(answer: RecordedAnswer | None) -> dict[str, Any] | None:
        if answer is None:
            return None
        values = {"t": cut(answer.text), "n": answer.tokens, "c": int(answer.truncated), "v": _finite(answer.reward)}
        return {**values, "s": list(map(reading, answer.said))} if answer.said else values

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
    replies = (order.text for answer in answers for said in answer.said for order in said.orders)
    return [item.prompt, item.reference, *(answer.text for answer in answers), *replies]


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")


def _reward(item: Item, model: str) -> float | None:
    return item.answers[model].reward if model in item.answers else None


def _change(item: Item, first: str, second: str) -> float:
    """Change of R(o, y) from `first` to `second`; R(o, y) itself if `first` is empty."""
    return (_reward(item, second) or 0.0) - ((_reward(item, first) or 0.0) if first else 0.0)


def _shown_rewards(item: Item, first: str, second: str) -> str:
    rewards = [_reward(item, name) for name in (first, second) if name]
    return " to ".join("none" if reward is None else signed(reward) for reward in rewards)


def _column(name: str, answer: RecordedAnswer | Sample, other: str, gain: float | None, more: str = "") -> Column:
    against = outcome(answer.reward)
    compared = [] if gain is None else [Badge(outcome(gain), f"{_AGAINST_OTHER[outcome(gain)]} {other}")]
    cut = ", truncated" if answer.truncated else ""
    reward = "" if answer.reward is None else f" · reward {signed(answer.reward)}"
    badges = [Badge(against, _AGAINST_REFERENCE[against]), *compared]
    said = answer.said if isinstance(answer, RecordedAnswer) else ()
    return Column(name, answer.text, badges, f"{answer.tokens:,} tokens{cut}{reward}{more}", said)
