"""Rules as rewards: checks of an answer that need no model. Their settings are in `grao.config.rewards`.

A new rule takes a section in `grao.config.rewards`, a function here and a line in `RULES`.

Not supported in numbers: fractions, percentages, units, expressions. `1/2` contains two numbers, and the last counts.
Languages are recognised by script and stop words, and only distinguished from each other, not from noise: text without
evidence for any language passes as the requested one. Languages in Latin script are distinguished by stop words, which
takes about a sentence; the others by script alone, so Ukrainian passes for Russian, Persian for Arabic, and Chinese for
Japanese.
"""

import json
import math
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor

from grao.config import rewards as config
from grao.config.recipe import Recipe
from grao.engine.loading import load_encoder, load_tokenizer
from grao.errors import InputError
from grao.rewards.base import Columns, Relative, RewardBatch, Scored, ScoredReward, difference, relative_of
from grao.rewards.model import EmbeddingSimilarity
from grao.types import Prompt

Row = Mapping[str, Any]
"""The other columns of a prompt's row."""


class RuleReward(ScoredReward):
    """A reward computed by a rule.

    A rule that compares with the reference (`exact`, `numeric`) can at best tie: R is 0 or -1. A rule that looks at the
    answer alone can win.

    Args:
        settings: the rule's section.
        relative: computes R(o, y) from the scores of completions and references.
        name: for logs; by default the rule's.

    Raises:
        InputError: from `relative`, if the rule needs a column that the data do not have.
    """

    reserved = frozenset()

    def __init__(self, settings: config.RuleSettings, relative: Relative = difference, name: str | None = None) -> None:
        super().__init__(name or type(settings).__name__.removesuffix("Rule").lower(), relative)
        self.settings, self.rule = settings, partial(RULES[type(settings)], settings)

    @staticmethod
    def from_section(rule: config.RuleConfig, section: config.RewardConfig, recipe: Recipe) -> ScoredReward:
        """See `grao.rewards.mix.SOURCES`; the rule `embedding` becomes an `EmbeddingSimilarity`."""
        name, relative = section.name or rule.name, relative_of(section)
        if isinstance(rule.settings, config.EmbeddingRule):
            path = rule.settings.model
            return EmbeddingSimilarity(load_encoder(path), load_tokenizer(path), relative, name)
        return RuleReward(rule.settings, relative, name)

    def scored(self, batch: RewardBatch) -> Scored:
        """See `ScoredReward.scored`. Each row is passed as one value, so that no column can shadow the reference."""
        scored = super().scored(replace(batch, columns=[{"row": row} for row in batch.columns]))
        if isinstance(self.settings, config.OverlapRule) and batch.data_references is None:
            # A reference does not copy itself.
            return replace(scored, references=torch.zeros_like(scored.references))
        return scored

    def scores(self, prompts: Sequence[Prompt], answers: Sequence[str], columns: Columns) -> Tensor:
        """See `ScoredReward.scores`; NaN where the rule does not apply.

        Raises:
            InputError: if the rule needs a column that the data do not have.
        """
        try:
            scores = list(map(self.rule, answers, columns["reference"], columns["row"]))
        except InputError as error:
            raise InputError(f"reward {self.name}: {error}") from error
        return torch.tensor([math.nan if score is None else score for score in scores], dtype=torch.float64)


def exact_match(settings: config.ExactRule, answer: str, reference: str, columns: Row) -> float:
    """Return 1 if answer and expected text are equal up to white space, else 0."""
    texts = [" ".join(text.split()) for text in (answer, _expected(settings.column, reference, columns))]
    given, expected = (text.casefold() for text in texts) if settings.ignore_case else texts
    return float(given == expected)


def numeric_match(settings: config.NumericRule, answer: str, reference: str, columns: Row) -> float | None:
    """Return 1 if the answer's number is the expected one, else 0; None if no number is expected."""
    expected = final_number(_expected(settings.column, reference, columns))
    if expected is None:
        return None
    given = final_number(answer)
    return float(given is not None and abs(given - expected) <= settings.tolerance)


# A minus sign directly after a letter or digit is an operator.
_NUMBER = re.compile(r"(?:(?<![^\W_])[-\u2212])?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?|\.\d+)")
_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
_MARK = "####"


def final_number(text: str) -> float | None:
    """Return the final number of a worked answer, or None if there is none.

    It is the number after the last `####` (GSM8K), else in the last `\\boxed{}`, else the last number of the text.
    Thousands separators are dropped: `1,234.5` is 1234.5. A minus sign directly after a digit is an operator: the
    number of `5-3` is 3.
    """
    if _MARK in text:
        return next(iter(_numbers(text.rpartition(_MARK)[2])), None)
    boxed = _BOXED.findall(text)
    return next(reversed(_numbers(boxed[-1] if boxed else text)), None)


def _numbers(text: str) -> list[float]:
    """Return all finite numbers of a text, in order."""
    values = [float(number.replace(",", "").replace("\u2212", "-")) for number in _NUMBER.findall(text)]
    return [value for value in values if math.isfinite(value)]


def _expected(column: str | None, reference: str, columns: Row) -> str:
    if column is None:
        return reference
    if column not in columns:
        known = ", ".join(map(repr, columns)) or "none"
        raise InputError(f"the data have no column {column!r}; columns besides prompt and reference: {known}")
    return str(columns[column])


def regex_match(settings: config.RegexRule, answer: str, reference: str, columns: Row) -> float:
    """Return 1 if the pattern occurs anywhere, else 0."""
    return float(re.search(settings.pattern, answer) is not None)


def format_fit(settings: config.FormatRule, answer: str, reference: str, columns: Row) -> float:
    """Return 1 if the whole answer matches `pattern`, else 0; with `sections`, the share of them found in order."""
    if settings.pattern is not None:
        return float(re.fullmatch(settings.pattern, answer.strip(), re.DOTALL) is not None)
    end = matched = 0
    for section in settings.sections:
        if (start := answer.find(section, end)) >= 0:
            end, matched = start + len(section), matched + 1
    return matched / len(settings.sections)


def length_fit(settings: config.LengthRule, answer: str, reference: str, columns: Row) -> float:
    """Return, for n words or characters, min(n, target) / max(n, target) or min(1, at_most / n).

    A ratio is never flat: an answer that is far too long still gains with each word removed.
    """
    length = len(answer) if settings.unit == "characters" else len(answer.split())
    if settings.target is not None:
        return min(length, settings.target) / max(length, settings.target)
    return min(1.0, (settings.at_most or 0) / max(length, 1))


def verbatim_overlap(settings: config.OverlapRule, answer: str, reference: str, columns: Row) -> float:
    """Return minus the share of the answer's n-grams (n = `words`) that occur in the reference.

    Words are runs of letters and digits, compared case-insensitively, so the rule does not work for languages written
    without spaces. An answer of fewer words copies nothing.
    """
    runs, source = (_runs(re.findall(r"\w+", text.casefold()), settings.words) for text in (answer, reference))
    known = set(source)
    return -sum(run in known for run in runs) / len(runs) if runs else 0.0


def _runs(words: list[str], length: int) -> list[tuple[str, ...]]:
    """Return all n-grams of `length` consecutive words."""
    return [tuple(words[start : start + length]) for start in range(len(words) - length + 1)]


_FENCED = re.compile(r"```[a-zA-Z]*\n(.*?)\n?```", re.DOTALL)


def json_validity(settings: config.JsonRule, answer: str, reference: str, columns: Row) -> float:
    """Return 0 if the answer is not valid JSON, else 1; with required keys, the share of them in the object.

    Strict: no NaN or Infinity, no duplicate keys in an object.
    """
    text = answer.strip()
    if settings.fenced and (block := _FENCED.fullmatch(text)):
        text = block[1]
    try:
        value = json.loads(text, parse_constant=_refuse, object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError):
        return 0.0
    keys = value if isinstance(value, dict) else {}
    return sum(key in keys for key in settings.required) / len(settings.required) if settings.required else 1.0


def _refuse(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = dict(pairs)
    if len(keys) < len(pairs):
        raise ValueError("duplicate key in an object")
    return keys


_COMMONEST = {
    "en": "the of and to is it that was for on are with as his they at be this have from or you not",
    "de": "der die und das den von zu ist mit sich des auf nicht ein eine dem auch als wie im es ich",
    "fr": "le la les et des est une du dans qui que pour pas au sur il ne se plus par avec je vous",
    "es": "el la los las y que es una por con para del se no lo como pero su más sus este muy hay",
    "it": "il la che è di per non una sono con del della gli le un nel anche più come ma si da lo",
    "pt": "o os as e que é uma para com não do da dos em no na por mais um como mas ao se foi",
    "nl": "de het een van en is dat op te zijn voor met niet aan er om ook als maar naar wordt ik",
}
STOP_WORDS: Mapping[str, frozenset[str]] = {name: frozenset(words.split()) for name, words in _COMMONEST.items()}
"""{language in Latin script: its stop words}."""

_UNSHARED = {"ru": "CYRILLIC", "el": "GREEK", "ar": "ARABIC", "he": "HEBREW", "hi": "DEVANAGARI", "th": "THAI"}
SCRIPTS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(STOP_WORDS, ("LATIN",)),
    **{name: (script,) for name, script in _UNSHARED.items()},
    "ko": ("HANGUL", "CJK"),
    "zh": ("CJK",),
    "ja": ("HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "CJK"),
}
"""{language: first words of the Unicode names of its letters}."""

_EVIDENCE = 2
"""Lead in stop words that another language needs: a single one, as in `No problem!`, proves nothing."""

_MARKS = '.,;:!?"()[]«»“”„¿¡'


def language_share(settings: config.LanguageRule, answer: str, reference: str, columns: Row) -> float:
    """Return the share of letters in the language's script; 0 if another leads by two stop words; 1 without letters."""
    scripts = [unicodedata.name(letter, "").partition(" ")[0] for letter in answer if letter.isalpha()]
    words = answer.casefold().replace("'", " ").replace("\u2019", " ").split()
    counts = {name: sum(word.strip(_MARKS) in known for word in words) for name, known in STOP_WORDS.items()}
    if max(counts.values()) - counts.get(settings.language, max(counts.values())) >= _EVIDENCE:
        return 0.0
    return sum(script in SCRIPTS[settings.language] for script in scripts) / len(scripts) if scripts else 1.0


RULES: Mapping[type, Callable[[Any, str, str, Row], float | None]] = {
    config.ExactRule: exact_match,
    config.NumericRule: numeric_match,
    config.RegexRule: regex_match,
    config.LengthRule: length_fit,
    config.FormatRule: format_fit,
    config.OverlapRule: verbatim_overlap,
    config.LanguageRule: language_share,
    config.JsonRule: json_validity,
}
"""{type of settings: r(settings, answer, reference, columns)}."""

_REPEATED = 3
"""Length of the n-grams that `repetition` counts."""
_REFUSAL = re.compile(
    r"(?i)\b(i(['’]m| am) (sorry|unable|not able)|i (can(['’]t|not)|won['’]t|will not) (help|assist|do|provide|answer)"
    r"|as an ai|i cannot)\b"
)


def overlap(answer: str, reference: str) -> float:
    """Return the share of the answer's n-grams that occur in the reference (`verbatim_overlap`)."""
    return -verbatim_overlap(config.OverlapRule(), answer, reference, {})


def refusal(answer: str) -> float:
    """Return 1 if the answer matches a pattern of English refusals, else 0; unusual phrasings are missed."""
    return float(_REFUSAL.search(answer) is not None)


def repetition(answer: str) -> float:
    """Return the share of trigrams that occurred earlier in the answer. Example: `a b c a b c` has 1 of 4."""
    runs = _runs(answer.casefold().split(), _REPEATED)
    return 1 - len(set(runs)) / len(runs) if runs else 0.0
