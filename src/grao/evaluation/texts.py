"""What can be said of answers as text, without any reward: do they repeat themselves, are they words, do they follow.

Everything is measured on the references too, and only set against them: whatever a task's texts look like, good answers
look like that. Words are runs of letters and digits; a script that puts no spaces between them yields too few to say
anything, and nothing is said then.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

from grao.evaluation.inference import share_of
from grao.records.numbers import Estimate

_RUN = 3
"""Words in a row that count as repeated."""


def words(text: str) -> list[str]:
    """In small letters."""
    return re.findall(r"\w+", text.casefold())


def repetition(text: str) -> float:
    """Share of a text's runs of three words that stood in it before; 0 of a text that is shorter.

    Example: `a b c a b c` has the runs abc, bca, cab, abc: 1 of 4.
    """
    said = words(text)
    runs = list(zip(*(said[start:] for start in range(_RUN)), strict=False))
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def mean_repetition(texts: Sequence[str]) -> float:
    """Of N texts, at least one."""
    return sum(map(repetition, texts)) / len(texts)


def unknown_words(texts: Sequence[str], prompts: Sequence[str], references: Sequence[str]) -> tuple[int, int]:
    """How many words of N answers occur nowhere else, and how many there are in all.

    Elsewhere: in the answer's own prompt, in other prompts and references, in other answers. So a real word that the
    data lack is known if the model uses it twice.

    Args:
        texts: N answers, or the references themselves.
        prompts: N.
        references: N.
    """
    answers, asked, right = ([set(words(text)) for text in column] for column in (texts, prompts, references))
    rows = [(answer, prompt | reference) for answer, prompt, reference in zip(answers, asked, right, strict=True)]
    among = Counter(word for answer, _ in rows for word in answer)
    given = Counter(word for _, both in rows for word in both)
    unknown = total = 0
    for text, prompt, (_, both) in zip(texts, asked, rows, strict=True):
        said = words(text)
        total += len(said)
        unknown += sum(word not in prompt and among[word] == 1 and given[word] <= (word in both) for word in said)
    return unknown, total


def follows(
    texts: Sequence[str], prompts: Sequence[str], references: Sequence[str], confidence: float = 0.95
) -> Estimate | None:
    """Share of answers that have more words in common with their own prompt than with the others on average.

    About one half at most is what answers reach that do not look at the prompt. Left out are those that have as many
    in common, and those less than half as long as their reference: a bare number may well be right.

    Args:
        texts: N.
        prompts: N.
        references: N.
        confidence: nominal coverage.

    Returns:
        None if all are left out.
    """
    asked, closer = [set(words(prompt)) for prompt in prompts], list[bool]()
    distinct = {frozenset(prompt) for prompt in asked}
    holding = Counter(word for prompt in distinct for word in prompt)
    for text, prompt, reference in zip(texts, asked, references, strict=True):
        said = set(words(text))
        own, n = len(said & prompt), len(distinct) - 1
        foreign = (sum(holding[word] for word in said) - own) / n if n else own
        if own != foreign and 2 * len(words(text)) >= len(words(reference)):
            closer.append(own > foreign)
    return share_of(closer, confidence)


def broken(text: str) -> bool:
    """Whether it holds what is no character of a text: controls, private ones, the mark of what cannot be decoded."""
    return any(
        character == "\N{REPLACEMENT CHARACTER}" or unicodedata.category(character) in ("Cc", "Co", "Cs")
        for character in text
        if character not in "\t\n\r\f"
    )
