"""The section of a rule: what can be said of an answer without a model. Each rule has its settings in its own section.

A rule scores an answer with a number between 0 and 1 (`overlap`: between -1 and 0); `grao.rewards.rules` computes it.
"""

import re
from dataclasses import fields
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from grao.config.basics import STRICT, NonNegativeFloat, PositiveInt

Language = Literal[
    "en", "de", "fr", "es", "it", "pt", "nl", "ru", "el", "ar", "he", "hi", "th", "ko", "zh", "ja"
]  # fmt: skip


@dataclass(config=STRICT, frozen=True)
class ExactRule:
    """1 if the answer is the reference, white space aside."""

    column: str | None = None
    """Compare with this column of the data instead of the reference."""
    ignore_case: bool = False
    """Small and capital letters are the same."""


@dataclass(config=STRICT, frozen=True)
class NumericRule:
    """1 if the answer's number is the reference's: behind the last ####, in the last \\boxed{}, else the last one."""

    column: str | None = None
    """Compare with this column of the data instead of the reference."""
    tolerance: NonNegativeFloat = 1e-6
    """Largest difference of two numbers that count as equal."""


@dataclass(config=STRICT, frozen=True)
class RegexRule:
    """1 if the pattern occurs in the answer. For what must not occur, give the reward a negative weight."""

    pattern: Annotated[str, Field(min_length=1, examples=["(?i)thank you"])]
    """A regular expression of Python's re."""

    def __post_init__(self) -> None:
        _check_pattern(self.pattern)


@dataclass(config=STRICT, frozen=True)
class LengthRule:
    """1 at the wanted length, and less the further the answer is from it, as a ratio; exactly one of the first two."""

    target: PositiveInt | None = None
    """This long: twice or half of it is worth 0.5."""
    at_most: PositiveInt | None = None
    """No longer than this: twice as long is worth 0.5."""
    unit: Literal["words", "characters"] = "words"
    """What is counted."""

    def __post_init__(self) -> None:
        if (self.target is None) == (self.at_most is None):
            raise ValueError("give either target or at_most")


@dataclass(config=STRICT, frozen=True)
class FormatRule:
    """The form of the whole answer: exactly one of the two."""

    pattern: Annotated[str, Field(min_length=1)] | None = None
    """A regular expression that the whole answer must match (a dot matches line breaks too)."""
    sections: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Texts such as headings that must occur in this order; the share that does is the score."""

    def __post_init__(self) -> None:
        if (self.pattern is None) == (not self.sections):
            raise ValueError("give either pattern or sections")
        _check_pattern(self.pattern or "")


@dataclass(config=STRICT, frozen=True)
class OverlapRule:
    """Minus the share of the answer that is copied from the reference word for word; the reference scores 0."""

    words: PositiveInt = 5
    """Length of the runs of words that are compared."""


@dataclass(config=STRICT, frozen=True)
class LanguageRule:
    """The share of letters in the language's script, 0 if the words speak for another language of that script."""

    language: Annotated[Language, Field(examples=["en"])]
    """Its code."""


@dataclass(config=STRICT, frozen=True)
class JsonRule:
    """1 if the answer is JSON; where keys are required, the share of them that an object has."""

    required: tuple[str, ...] = ()
    """Keys that the object must have at its top level."""
    fenced: bool = False
    """Also take an answer that is one fenced block of code."""


@dataclass(config=STRICT, frozen=True)
class EmbeddingRule:
    """Similarity in meaning to the reference: the cosine of mean-pooled vectors of an encoder."""

    model: Annotated[str, Field(min_length=1, examples=["sentence-transformers/all-MiniLM-L6-v2"])]
    """A model folder or hub id (safetensors only)."""


RuleSettings = (
    ExactRule
    | NumericRule
    | RegexRule
    | LengthRule
    | FormatRule
    | OverlapRule
    | LanguageRule
    | JsonRule
    | EmbeddingRule
)
"""Of one rule."""


@dataclass(config=STRICT, frozen=True)
class RuleConfig:
    """A rule: exactly one of these sections. One without settings is written `exact: {}`."""

    exact: ExactRule | None = None
    numeric: NumericRule | None = None
    regex: RegexRule | None = None
    length: LengthRule | None = None
    format: FormatRule | None = None
    overlap: OverlapRule | None = None
    language: LanguageRule | None = None
    json: JsonRule | None = None
    embedding: EmbeddingRule | None = None

    def __post_init__(self) -> None:
        if len(self._given()) != 1:
            known = ", ".join(item.name for item in fields(self))
            raise ValueError(f"a rule is exactly one of {known}; one without settings is written exact: {{}}")

    @property
    def name(self) -> str:
        """Of the rule that is given."""
        (name,) = self._given()
        return name

    @property
    def settings(self) -> RuleSettings:
        """Of the rule that is given."""
        (settings,) = self._given().values()
        return settings

    def _given(self) -> dict[str, RuleSettings]:
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {name: settings for name, settings in values.items() if settings is not None}


def _check_pattern(pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"pattern is no regular expression: {error}") from error
