"""Checks of answers as text, without a reward: repetition, unknown words, and whether they relate to their prompt.

Every measure is also taken on the references and only interpreted relative to them, because good answers look like the
texts of their task. Words are runs of letters and digits. Languages written without spaces yield too few of them, and
the callers then draw no conclusion.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

from grao.evaluation.inference import share_of
from grao.records.numbers import Estimate

_RUN = 3
"""Length of the word sequences that are checked for repetition."""


def words(text: str) -> list[str]:
    """Split a text into case-folded words."""
    return re.findall(r"\w+", text.casefold())


def repetition(text: str) -> float:
    """Share of a text's three-word sequences that occurred in it before; 0 for a text of fewer than three words.

    Example: `a b c a b c` has the sequences abc, bca, cab, abc: 1 of 4.
    """
    said = words(text)
    runs = list(zip(*(said[start:] for start in range(_RUN)), strict=False))
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def mean_repetition(texts: Sequence[str]) -> float:
    """Mean `repetition` of at least one text."""
    return sum(map(repetition, texts)) / len(texts)


def unknown_words(texts: Sequence[str], prompts: Sequence[str], references: Sequence[str]) -> tuple[int, int]:
    """Count the words of N answers that occur nowhere else.

    A word is known if it occurs in the answer's own prompt, in the prompt or reference of another item, or in another
    answer. So a real word that is missing from the data is known if two answers use it.

    Args:
        texts: N answers, or the references themselves.
        prompts: N prompts.
        references: N references.

    Returns:
        (unknown words, all words).
    """
    columns = [[set(words(text)) for text in column] for column in (texts, prompts, references)]
    rows = [(answer, prompt | reference) for answer, prompt, reference in zip(*columns, strict=True)]
    in_answers = Counter(word for answer, _ in rows for word in answer)
    in_data = Counter(word for _, data in rows for word in data)
    unknown = total = 0
    for text, prompt, (_, data) in zip(texts, columns[1], rows, strict=True):
        said = words(text)
        total += len(said)
        once = [word for word in said if word not in prompt and in_answers[word] == 1]
        unknown += sum(in_data[word] <= (word in data) for word in once)
    return unknown, total


def follows(
    texts: Sequence[str], prompts: Sequence[str], references: Sequence[str], confidence: float = 0.95
) -> Estimate | None:
    """Share of answers that have more words in common with their own prompt than with an average other prompt.

    Answers that ignore the prompt reach at most about one half. Excluded are answers with equally many words in common,
    and answers less than half as long as their reference: a bare number may well be right.

    Args:
        texts: N answers.
        prompts: N prompts.
        references: N references.
        confidence: nominal coverage of the interval.

    Returns:
        None if all answers are excluded.
    """
    prompt_words, closer = [set(words(prompt)) for prompt in prompts], list[bool]()
    distinct = {frozenset(prompt) for prompt in prompt_words}
    prompts_with = Counter(word for prompt in distinct for word in prompt)
    for text, prompt, reference in zip(texts, prompt_words, references, strict=True):
        answer = set(words(text))
        shared, n = len(answer & prompt), len(distinct) - 1
        with_others = (sum(prompts_with[word] for word in answer) - shared) / n if n else shared
        if shared != with_others and 2 * len(words(text)) >= len(words(reference)):
            closer.append(shared > with_others)
    return share_of(closer, confidence)


def broken(text: str) -> bool:
    """Whether a text contains control, private-use, surrogate or replacement characters."""
    return any(
        character == "\N{REPLACEMENT CHARACTER}" or unicodedata.category(character) in ("Cc", "Co", "Cs")
        for character in text
        if character not in "\t\n\r\f"
    )
