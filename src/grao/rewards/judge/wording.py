"""What a judge is asked and what it answers: the words of `wording.yaml`, and three verdicts to choose from.

The structure of the question is the paper's (task, criterion, context, two texts), the words are ours. A judge reads
texts that a model in training wrote, and training rewards whatever turns its verdict. So context and texts stand
between tags with a mark that follows from the texts themselves: no text can hold the mark of the question it will be
part of, and what looks like a frame, an instruction or a verdict inside a text is visibly inside it.

Left out: a system message, which some chat templates refuse.
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
"""Shipped criteria by name; `domain` has a field to fill in."""
_LARGEST = 1 << 20
"""Bytes of the largest template."""
_SHOWN = 60
"""Longest criterion that is repeated in a message, in characters."""
_FIELDS = ("context", "text_1", "text_2")


class PairVerdict(StrEnum):
    """Which of two texts is the better one, in the words that a judge is asked for."""

    FIRST = "1 > 2"
    TIE = "1 = 2"
    SECOND = "1 < 2"

    @property
    def reward(self) -> float:
        """1 for the first text, 0 for a tie, -1 for the second (paper, section 4)."""
        return {PairVerdict.FIRST: 1.0, PairVerdict.TIE: 0.0, PairVerdict.SECOND: -1.0}[self]

    @property
    def mirrored(self) -> "PairVerdict":
        """The same verdict with the two texts exchanged."""
        return PairVerdict(self.translate(str.maketrans("<>", "><")))


@dataclass(frozen=True)
class Template:
    """The wording of a question to a judge."""

    name: str
    """For logs and the ledger."""
    text: str
    """With `{context}`, `{text_1}` and `{text_2}`, each once."""

    def render(self, context: str, text_1: str, text_2: str) -> str:
        """The question about two texts, to be sent as the user's only message."""
        texts = dict(zip(_FIELDS, (context, text_1, text_2), strict=True))
        mark = _mark(context, text_1, text_2)

        def enclosed(match: re.Match[str]) -> str:
            tag = f"{match[1].replace('_', '-')}-{mark}"
            return f"<{tag}>\n{texts[match[1]]}\n</{tag}>"

        return re.sub(rf"\{{({'|'.join(_FIELDS)})\}}", enclosed, self.text)


def _mark(context: str, text_1: str, text_2: str) -> str:
    """Eight hex digits that occur in none of the texts; the same for both orders of two texts."""
    joined = "\0".join([context, *sorted([text_1, text_2])])
    mark = hashlib.sha256(joined.encode()).hexdigest()[:8]
    while mark in joined:
        mark = hashlib.sha256(mark.encode()).hexdigest()[:8]
    return mark


def load_template(criterion: str, domain: str | None = None) -> Template:
    """A shipped criterion in the frame, or a user's own template.

    Args:
        criterion: a name in `CRITERIA`, or a text file that holds `{context}`, `{text_1}` and `{text_2}` once each and
            asks for the three verdicts.
        domain: the field that criterion `domain` speaks of.

    Raises:
        InputError: if there is neither, the file lacks something, or the field is not given where it is needed or
            given where it is not.
    """
    if (criterion == "domain") != (domain is not None):
        example = "criterion: domain, domain: contract law"
        raise InputError(f"criterion domain needs a field and no other takes one: {example}")
    if criterion in CRITERIA:
        words = CRITERIA[criterion].replace("{domain}", domain or "")
        return Template(criterion, _WORDING["frame"].replace("{criterion}", words))
    path = Path(os.path.expanduser(criterion))
    if not os.path.isfile(path):
        shown = criterion if len(criterion) <= _SHOWN else f"{criterion[:_SHOWN]}..."
        raise InputError(f"{shown!r} is no criterion ({', '.join(CRITERIA)}) and there is no such file")
    try:
        text = (read_text(path, _LARGEST) or "").strip()
    except InputError as error:
        raise InputError(f"{criterion} cannot be read as UTF-8 text; give a template as a text file") from error
    for name in _FIELDS:
        if (count := text.count(f"{{{name}}}")) != 1:
            raise InputError(f"{criterion} holds {{{name}}} {count} times; a template holds it once")
    for verdict in PairVerdict:
        if verdict not in text:
            choices = ", ".join(f"`{each}`" for each in PairVerdict)
            raise InputError(f"{criterion} does not mention {verdict.value!r}; ask for exactly one of {choices}")
    return Template(path.stem, text)


def context_text(prompt: Prompt) -> str:
    """A prompt as a judge reads it: a text as it is, chat messages as turns, `User: ...`."""
    if isinstance(prompt, str):
        return prompt.strip()
    return "\n\n".join(f"{turn['role'].capitalize()}: {turn_text(turn).strip()}" for turn in prompt)


_STATED = re.compile(r"(?i)(?<![a-z0-9.])(?=([12])\s*(>{1,2}|<{1,2}|={1,2})\s*(?:text\s+)?([12])(?![a-z0-9]|\.\d))")
"""Left number, sign and right number of a comparison; as it consumes no digit, both of `1 > 2 > 1` are found."""
_WEIGHING = re.compile("think|thought|reason|rationale|analysis|explan|justif|critique|comment", re.IGNORECASE)
"""Names of JSON fields in which a judge thinks."""


def parse_verdict(text: str, cut: bool = False) -> PairVerdict | None:
    """The verdict that a judge's answer states, None if it states none or contradicts itself.

    Prose, code fences, bold type, full-width signs, JSON and `2 < 1` for `1 > 2` are all read; the same verdict twice
    is one verdict. Thoughts do not count: see `answer_after`, and the fields of JSON that explain.

    Args:
        text: what the judge wrote.
        cut: it was cut off at the token limit. Then it may have stopped in the middle of weighing one verdict
            against another, so it counts only if nothing but a verdict stands there.
    """
    answer = answer_after(_plain(text))
    if answer is None or (cut and len(answer.strip(" \n`*\"'")) > len(PairVerdict.TIE)):
        return None
    said = re.sub(r"[\\*`]", " ", _without_explanations(answer))
    stated = {(left, PairVerdict(f"1 {sign[0]} 2")) for left, sign, right in _STATED.findall(said) if left != right}
    verdicts = {verdict if left == "1" else verdict.mirrored for left, verdict in stated}
    return verdicts.pop() if len(verdicts) == 1 else None


def _plain(text: str) -> str:
    """Without invisible signs and escapes, other forms of a sign as the usual one; in linear time, unlike NFKC."""
    signs = {
        ord(sign): "" if unicodedata.category(sign) == "Cf" else unicodedata.normalize("NFKC", sign)
        for sign in set(text)
        if not sign.isascii()
    }
    return html.unescape(text.translate(signs)).replace("\\gt", ">").replace("\\lt", "<")


def _without_explanations(answer: str) -> str:
    """An answer that holds a JSON object, without the fields that explain."""
    start, end = answer.find("{"), answer.rfind("}") + 1
    try:
        fields = json.loads(answer[start:end], object_pairs_hook=tuple)  # pairs, for a field may stand there twice
        return "; ".join([answer[:start], *_texts(fields), answer[end:]])
    except (ValueError, RecursionError):
        return answer


def _texts(value: Any) -> list[str]:
    if isinstance(value, tuple):
        return [text for name, inner in value if not _WEIGHING.search(name) for text in [name, *_texts(inner)]]
    return [text for inner in value for text in _texts(inner)] if isinstance(value, list) else [str(value)]
