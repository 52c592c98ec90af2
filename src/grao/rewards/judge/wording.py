"""The question to a judge, worded in `wording.yaml`, and the three verdicts of its answer.

The structure of the question is the paper's (task, criterion, context, two texts); the wording is ours. A judge reads
texts written by a model in training, and training rewards anything that sways the verdict. Context and texts are
therefore enclosed in tags with a mark derived from the texts themselves: no text can contain the mark of its own
question, so anything in a text that looks like a frame, an instruction or a verdict is visibly part of that text.

There is no system message, because some chat templates reject it.
"""

import hashlib
import html
import json
import os
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml

from grao.chat import turn_text
from grao.errors import InputError
from grao.files import read_text
from grao.rewards.judge.thoughts import answer_after
from grao.types import Prompt

_WORDING = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
CRITERIA: Mapping[str, str] = _WORDING["criteria"]
"""{name: text} of the built-in criteria; `domain` contains a placeholder."""
_LARGEST = 1 << 20
"""Maximum size of a template in bytes."""
_SHOWN = 60
"""Characters of a criterion that an error message shows at most."""
_FIELDS = ("context", "text_1", "text_2")


class PairVerdict(StrEnum):
    """Which of two texts is better, in the notation that a judge is asked to use."""

    FIRST = "1 > 2"
    TIE = "1 = 2"
    SECOND = "1 < 2"

    @property
    def reward(self) -> float:
        """1 for the first text, 0 for a tie, -1 for the second (paper, section 4)."""
        return {PairVerdict.FIRST: 1.0, PairVerdict.TIE: 0.0, PairVerdict.SECOND: -1.0}[self]

    @property
    def mirrored(self) -> "PairVerdict":
        """The same verdict with the two texts swapped."""
        return PairVerdict(self.translate(str.maketrans("<>", "><")))


@dataclass(frozen=True)
class Template:
    """The wording of a question to a judge."""

    name: str
    """For logs and the ledger."""
    text: str
    """The template, with `{context}`, `{text_1}` and `{text_2}` once each."""

    def render(self, context: str, text_1: str, text_2: str) -> str:
        """Return the question about two texts, to be sent as the only user message."""
        texts = dict(zip(_FIELDS, (context, text_1, text_2), strict=True))
        mark = _mark(context, text_1, text_2)

        def enclosed(match: re.Match[str]) -> str:
            tag = f"{match[1].replace('_', '-')}-{mark}"
            return f"<{tag}>\n{texts[match[1]]}\n</{tag}>"

        return re.sub(rf"\{{({'|'.join(_FIELDS)})\}}", enclosed, self.text)


def _mark(context: str, text_1: str, text_2: str) -> str:
    """Return eight hex digits that occur in none of the texts; the same for both orders of the two texts."""
    joined = "\0".join([context, *sorted([text_1, text_2])])
    mark = hashlib.sha256(joined.encode()).hexdigest()[:8]
    while mark in joined:
        mark = hashlib.sha256(mark.encode()).hexdigest()[:8]
    return mark


def load_template(criterion: str, domain: str | None = None) -> Template:
    """Load the template of a built-in criterion, or a user's own template.

    Args:
        criterion: a name in `CRITERIA`, or a text file that contains `{context}`, `{text_1}` and `{text_2}` once each
            and asks for one of the three verdicts.
        domain: the field of expertise, for criterion `domain` only.

    Raises:
        InputError: if there is no such criterion or file, the file lacks a part, or `domain` is missing or superfluous.
    """
    if criterion == "domain" and domain is None:
        raise InputError("criterion: domain requires a field of expertise, such as domain: contract law")
    if criterion != "domain" and domain is not None:
        raise InputError(f"domain: {domain} applies only to criterion: domain; remove it or set that criterion")
    if criterion in CRITERIA:
        words = CRITERIA[criterion].replace("{domain}", domain or "")
        return Template(criterion, _WORDING["frame"].replace("{criterion}", words))
    path = Path(os.path.expanduser(criterion))
    if not os.path.isfile(path):
        shown = criterion if len(criterion) <= _SHOWN else f"{criterion[:_SHOWN]}..."
        raise InputError(f"{shown!r} is neither a criterion ({', '.join(CRITERIA)}) nor a file")
    try:
        text = (read_text(path, _LARGEST) or "").strip()
    except InputError as error:
        raise InputError(f"{criterion} cannot be read as UTF-8 text; a template must be a text file") from error
    for name in _FIELDS:
        if (count := text.count(f"{{{name}}}")) != 1:
            raise InputError(f"{criterion} contains {{{name}}} {count} times; a template must contain it once")
    for verdict in PairVerdict:
        if verdict not in text:
            choices = ", ".join(f"`{choice}`" for choice in PairVerdict)
            raise InputError(f"{criterion} does not mention {verdict.value!r}; ask for exactly one of {choices}")
    return Template(path.stem, text)


def context_text(prompt: Prompt) -> str:
    """Return a prompt as a judge reads it: text as it is, chat messages as turns (`User: ...`)."""
    if isinstance(prompt, str):
        return prompt.strip()
    return "\n\n".join(f"{turn['role'].capitalize()}: {turn_text(turn).strip()}" for turn in prompt)


_STATED = re.compile(r"(?i)(?<![a-z0-9.])(?=([12])\s*(>{1,2}|<{1,2}|={1,2})\s*(?:text\s+)?([12])(?![a-z0-9]|\.\d))")
"""Left number, sign and right number of a comparison. A lookahead, so both comparisons in `1 > 2 > 1` are found."""
_WEIGHING = re.compile("think|thought|reason|rationale|analysis|explan|justif|critique|comment", re.IGNORECASE)
"""Names of JSON fields with a judge's reasoning."""


def parse_verdict(text: str, cut: bool = False) -> PairVerdict | None:
    """Return the verdict in a judge's answer; None if there is none, or the answer contradicts itself.

    Prose, code fences, bold type, full-width signs, JSON, and `2 < 1` for `1 > 2` are all parsed; a repeated verdict
    counts once. Thoughts (`answer_after`) and explanatory JSON fields are ignored.

    Args:
        text: what the judge wrote.
        cut: whether the answer was cut off at the token limit. It may then have stopped while weighing verdicts, so it
            counts only if it consists of a verdict alone.
    """
    answer = answer_after(_plain(text))
    if answer is None or (cut and len(answer.strip(" \n`*\"'")) > len(PairVerdict.TIE)):
        return None
    comparisons = _STATED.findall(re.sub(r"[\\*`]", " ", _without_explanations(answer)))
    stated = {(left, PairVerdict(f"1 {sign[0]} 2")) for left, sign, right in comparisons if left != right}
    verdicts = {verdict if left == "1" else verdict.mirrored for left, verdict in stated}
    return verdicts.pop() if len(verdicts) == 1 else None


def _plain(text: str) -> str:
    """Remove invisible characters and escapes, and normalise variants of a character; linear time, unlike NFKC."""
    replacements = {
        ord(char): "" if unicodedata.category(char) == "Cf" else unicodedata.normalize("NFKC", char)
        for char in set(text)
        if not char.isascii()
    }
    return html.unescape(text.translate(replacements)).replace("\\gt", ">").replace("\\lt", "<")


def _without_explanations(answer: str) -> str:
    """Remove explanatory fields from a JSON object in an answer."""
    start, end = answer.find("{"), answer.rfind("}") + 1
    try:
        fields = json.loads(answer[start:end], object_pairs_hook=tuple)  # as pairs: keys may repeat
        return "; ".join([answer[:start], *_texts(fields), answer[end:]])
    except (ValueError, RecursionError):
        return answer


def _texts(value: Any) -> list[str]:
    if isinstance(value, tuple):
        return [text for name, inner in value if not _WEIGHING.search(name) for text in [name, *_texts(inner)]]
    return [text for inner in value for text in _texts(inner)] if isinstance(value, list) else [str(value)]
