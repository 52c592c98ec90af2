"""A rule as a reward: R(o, y) from what it says of the answer and of the reference."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from grao.config.rule import (
    ExactRule,
    FormatRule,
    JsonRule,
    LanguageRule,
    LengthRule,
    NumericRule,
    OverlapRule,
    RegexRule,
    RuleSettings,
)
from grao.errors import InputError
from grao.rewards.functions import Relative, difference
from grao.rewards.reward import RewardBatch
from grao.rewards.rules.form import format_fit, json_validity, regex_match
from grao.rewards.rules.language import language_share
from grao.rewards.rules.matching import exact_match, numeric_match
from grao.rewards.rules.measure import length_fit, verbatim_overlap

Rule = Callable[[str, str, Mapping[str, Any]], float | None]
"""r(answer, reference, columns of the row); None where it does not apply."""

RULES: Mapping[type, Callable[[Any, str, str, Mapping[str, Any]], float | None]] = {
    ExactRule: exact_match,
    NumericRule: numeric_match,
    RegexRule: regex_match,
    LengthRule: length_fit,
    FormatRule: format_fit,
    OverlapRule: verbatim_overlap,
    LanguageRule: language_share,
    JsonRule: json_validity,
}
"""Settings -> r(settings, answer, reference, columns). A new rule: a section of `grao.config.rule` and a line here."""

_OF_REFERENCE: Mapping[type, float] = {OverlapRule: 0.0}
"""Rules that cannot be asked about the reference itself, which is no copy: what it scores with them."""


class RuleReward:
    """A reward from a rule.

    One that compares with the reference (`exact`, `numeric`) can at best tie with it: R is 0 or -1. One that looks
    at the answer alone can win.

    Args:
        settings: which rule, and how.
        relative: how two scores become R(o, y).
        name: for logs; by default the rule's.

    Raises:
        InputError: from `relative`, if the rule wants a column that the data do not have.
    """

    def __init__(self, settings: RuleSettings, relative: Relative = difference, name: str | None = None) -> None:
        self.rule: Rule = partial(RULES[type(settings)], settings)
        self._of_reference = _OF_REFERENCE.get(type(settings))
        self._relative = relative
        self._name = name or type(settings).__name__.removesuffix("Rule").lower()

    @property
    def name(self) -> str:
        """Short name for logs."""
        return self._name

    def relative(self, batch: RewardBatch) -> Tensor:
        """See `Reward.relative`."""
        rows = zip(batch.completions, batch.references, batch.columns, strict=True)
        scores = [[*(self._score(answer, y, row) for answer in group), self._own(y, row)] for group, y, row in rows]
        table = torch.tensor(scores, dtype=torch.float64)  # (B, G + 1)
        return self._relative(table[:, :-1], table[:, -1:])

    def _score(self, answer: str, reference: str, columns: Mapping[str, Any]) -> float:
        try:
            score = self.rule(answer, reference, columns)
        except InputError as error:
            raise InputError(f"reward {self.name}: {error}") from error
        return math.nan if score is None else score

    def _own(self, reference: str, columns: Mapping[str, Any]) -> float:
        return self._score(reference, reference, columns) if self._of_reference is None else self._of_reference
