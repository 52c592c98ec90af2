"""A reward for recipes that have no judge: readable, to the point, in the writer's own words.

A rule, not a judge of quality: it cannot tell true from false. Good enough to see a small model learn something that
one would want of it, and hard enough to cheat that copying the prompt or repeating a word does not pay.
"""

import re
from collections.abc import Mapping, Sequence

Prompt = str | Sequence[Mapping[str, str]]

_COMMON = frozenset(
    "about after again also because been before being could does doing down even ever every from have having here "
    "into just know like make many might more most much need only other over please really same should some such "
    "take tell than that their them then there these they thing think this those time upon very want well were what "
    "when where which while will with would your once named lived there".split()
)
_FEW, _MANY = 8, 80


def readable(prompts: Sequence[Prompt], completions: Sequence[Prompt]) -> list[float]:
    """0 to 1: 0.4 takes up the words of the prompt, 0.4 does not repeat itself, 0.2 comes to an end in time.

    A text of fewer than 8 words is worth 0, and what is copied from the prompt is taken off.
    """
    return [_score(_text(prompt), _text(completion)) for prompt, completion in zip(prompts, completions, strict=True)]


def _score(prompt: str, answer: str) -> float:
    words = _words(answer)
    if len(words) < _FEW:
        return 0.0
    topic = {word for word in _words(prompt) if len(word) > 3 and word not in _COMMON}
    touched = len(topic & set(words)) / min(3, len(topic)) if topic else 1.0
    pairs, quads = _runs(words, 2), _runs(words, 4)
    variety = len(set(pairs)) / len(pairs)
    finished = answer.rstrip().endswith((".", "!", "?", '"')) and len(words) <= _MANY
    copied = len(set(quads) & set(_runs(_words(prompt), 4))) / len(quads)
    return round(max(0.0, 0.4 * min(1.0, touched) + 0.4 * variety + 0.2 * finished - copied), 2)


def _text(value: Prompt) -> str:
    """The text, or of a conversation the last message."""
    return value if isinstance(value, str) else value[-1]["content"]


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


def _runs(words: Sequence[str], length: int) -> list[tuple[str, ...]]:
    return [tuple(words[at : at + length]) for at in range(len(words) - length + 1)]
