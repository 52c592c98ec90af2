"""The three verdicts of a pairwise judge, and how they are read out of what it wrote."""

import re
import unicodedata
from enum import StrEnum


class Verdict(StrEnum):
    """Which of two texts is the better one, in the words that a judge is asked for."""

    FIRST = "1 > 2"
    TIE = "1 = 2"
    SECOND = "1 < 2"

    @property
    def reward(self) -> float:
        """1 for the first text, 0 for a tie, -1 for the second (paper, section 4)."""
        return {Verdict.FIRST: 1.0, Verdict.TIE: 0.0, Verdict.SECOND: -1.0}[self]

    @property
    def mirrored(self) -> "Verdict":
        """The same finding with the two texts exchanged."""
        return {Verdict.FIRST: Verdict.SECOND, Verdict.TIE: Verdict.TIE, Verdict.SECOND: Verdict.FIRST}[self]


_THOUGHT = re.compile(r"<(think|thinking|reasoning)>.*?</\1>", re.DOTALL | re.IGNORECASE)
_STATED = re.compile(
    r"(?<![a-z0-9.])(?=(?P<left>[12])\s*(?P<sign>>{1,2}|<{1,2}|={1,2})\s*(?:text\s+)?(?P<right>[12])(?![a-z0-9]|\.\d))",
    re.IGNORECASE,
)
"""One comparison of 1 and 2; as it consumes no digit, both of `1 > 2 > 1` are found."""
_SIGNS = {">": Verdict.FIRST, "=": Verdict.TIE, "<": Verdict.SECOND}


def parse_verdict(text: str, cut: bool = False) -> Verdict | None:
    """The verdict that a judge's answer states, None if it states none or contradicts itself.

    Reasoning before the verdict, code fences, bold type, full-width signs and `2 < 1` for `1 > 2` are all read; the
    same verdict twice is one verdict. What stands between `<think>` and `</think>` does not count.

    Args:
        text: what the judge wrote.
        cut: it was cut off at the token limit. Then it may have stopped in the middle of weighing one verdict
            against another, so it counts only if nothing but a verdict stands there.
    """
    plain = "".join(sign for sign in unicodedata.normalize("NFKC", text) if unicodedata.category(sign) != "Cf")
    plain = _THOUGHT.sub(" ", plain.replace("&gt;", ">").replace("&lt;", "<")).replace("\\", "")
    if "<think" in plain.lower():  # never closed: these are thoughts, and no verdict followed
        return None
    if cut and len(plain.strip(" \n`*\"'")) > len(Verdict.TIE):
        return None
    stated = {_stated(found) for found in _STATED.finditer(plain) if found["left"] != found["right"]}
    return stated.pop() if len(stated) == 1 else None


def _stated(found: re.Match[str]) -> Verdict:
    verdict = _SIGNS[found["sign"][0]]
    return verdict if found["left"] == "1" else verdict.mirrored
