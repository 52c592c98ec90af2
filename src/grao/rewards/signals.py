"""What shows in answers when a reward is being hacked: copying, refusing, repeating. Shares, no judgement."""

import re

from grao.config.rule import OverlapRule
from grao.rewards.rules.measure import verbatim_overlap

_RUN = 3
"""Words that count as a repetition when they come again."""
_COPIED = OverlapRule()
_REFUSAL = re.compile(
    r"\b(i(['’]m| am) (sorry|unable|not able)|i (can(['’]t|not)|won['’]t|will not) (help|assist|do|provide|answer)"
    r"|as an ai|i cannot)\b",
    re.IGNORECASE,
)


def overlap(answer: str, reference: str) -> float:
    """Share of the answer's runs of words that stand in the reference too (`verbatim_overlap`)."""
    return -verbatim_overlap(_COPIED, answer, reference, {})


def refusal(answer: str) -> float:
    """1 if the answer says, in English, that it will not help; a pattern, so it misses what is put otherwise."""
    return float(_REFUSAL.search(answer) is not None)


def repetition(answer: str) -> float:
    """Share of the runs of three words that stood in the answer before. Example: `a b c a b c` has 1 of 4."""
    words = answer.casefold().split()
    runs = [tuple(words[at : at + _RUN]) for at in range(len(words) - _RUN + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0
