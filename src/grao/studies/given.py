"""Input files of an evaluation: answers and human preferences, checked against the prompts before anything is asked;
and the error rate of the judge."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from grao.data.rows import Row
from grao.data.sources import read_path
from grao.errors import InputError
from grao.evaluation.agreement import agreement_table, bradley_terry, calibration, cohens_kappa
from grao.records.audit import read_audit
from grao.records.numbers import Estimate, RewardAgreement
from grao.records.run import Item, RecordedAnswer
from grao.studies.prepare import token_ids
from grao.types import Encoded, Example

SIDES = {"answer": 1.0, "tie": 0.0, "reference": -1.0}
PAIR_SIDES = {"rejected": 1.0, "tie": 0.0, "reference": -1.0}
"""Possible preferences -> their R."""


def read_answers(
    path: str, items: Sequence[Encoded], tokenizer: PreTrainedTokenizerBase | None
) -> list[RecordedAnswer]:
    """Read the answers of a file, in the order of the prompts.

    Args:
        path: rows with `answer`, and `id` (16 hex digits, as in items.jsonl) or `prompt`.
        items: prompts; a repeated prompt needs as many answers, in the same order.
        tokenizer: counts tokens; if None, words are counted.

    Raises:
        InputError: naming the first invalid row, or the first prompt without an answer.
    """
    by_prompt: dict[str, list[str]] = {}
    counts = Counter(item.example.id for item in items)
    for row in read_path(path, "train").rows:
        text, prompt = row.cell("answer"), _prompt_id(row)
        if not isinstance(text, str):
            raise InputError(f"{row.at}: answer must be text, is {type(text).__name__}; a row is an id and an answer")
        if prompt not in counts:
            problem = f"its prompt is not among the {len(items):,} evaluated prompts"
            raise InputError(f"{row.at}: {problem}; use ids or prompts from items.jsonl of an evaluation on them")
        if len(by_prompt.setdefault(prompt, [])) == counts[prompt]:
            raise InputError(f"{row.at}: a second answer to the prompt {prompt}; give one each")
        by_prompt[prompt].append(text)
    missing = [prompt for prompt, count in counts.items() if len(by_prompt.get(prompt, [])) < count]
    if missing:
        problem = f"{len(missing):,} of {len(counts):,} prompts have no answer"
        raise InputError(f"{path}: {problem}, the first is {missing[0]}")
    texts = [by_prompt[item.example.id].pop(0) for item in items]
    return [
        RecordedAnswer(text, len(tokens) if tokenizer else len(text.split()), False, None, list(tokens))
        for text, tokens in zip(texts, closed_ids(tokenizer, texts), strict=True)
    ]


def closed_ids(tokenizer: PreTrainedTokenizerBase | None, texts: Sequence[str]) -> list[tuple[int, ...]]:
    """Return token ids of N texts, each with an end token like sampled answers; empty without a tokenizer."""
    end = [tokenizer.eos_token_id] if tokenizer and tokenizer.eos_token_id is not None else []
    return [(*ids, *end) for ids in token_ids(tokenizer, texts)]


class Label(NamedTuple):
    """A human preference."""

    preferred: float
    """1 for the answer, 0 for a tie, -1 for the reference."""
    answer: str | None
    """The answer that was labeled; None if the file does not contain it."""
    at: str
    """File and row, for messages."""


Labels = dict[str, dict[str, Label]]
"""Model -> prompt id -> label."""


def read_labels(path: str, ids: Sequence[str], models: Sequence[str], sides: Mapping[str, float] = SIDES) -> Labels:
    """Read human preferences.

    Args:
        path: rows with `preferred` (answer, reference or tie), `id` or `prompt`, `model` if several are judged, and
            optionally `answer`, the text that was labeled.
        ids: ids of the prompts.
        models: names of the models.
        sides: possible preferences and their R.

    Raises:
        InputError: naming the first invalid row.
    """
    labels: Labels = {}
    known = set(ids)
    for row in read_path(path, "train").rows:
        prompt, preferred = _prompt_id(row), row.cell("preferred")
        model = row.cell("model") if len(models) > 1 or row.cell("model") else models[0]
        if preferred not in sides:
            raise InputError(f"{row.at}: preferred must be one of {', '.join(sides)}, is {preferred!r}")
        if model not in models:
            raise InputError(f"{row.at}: model must be one of {', '.join(models)}, is {model!r}")
        if prompt not in known:
            raise InputError(f"{row.at}: its prompt is not among the {len(known):,} evaluated prompts; fix its id")
        if prompt in labels.setdefault(model, {}):
            raise InputError(f"{row.at}: a second preference on {model!r} and the prompt {prompt}; give one each")
        answer = row.cell("answer")
        labels[model][prompt] = Label(sides[preferred], answer if isinstance(answer, str) else None, row.at)
    return labels


def check_labels(labels: Labels, answers: Mapping[str, Mapping[str, str]]) -> None:
    """Check that the labels refer to the judged answers (model -> prompt id -> text).

    Raises:
        InputError: naming a row that refers to another text.
    """
    for model, preferred in labels.items():
        for prompt, label in preferred.items():
            text = answers[model].get(prompt)
            if None not in (label.answer, text) and str(label.answer).strip() != str(text).strip():
                raise InputError(
                    f"{label.at}: answer differs from the judged text; label the answers of items.jsonl "
                    "and judge them again with --run"
                )


def label_agreement(items: Sequence[Item], labels: Labels, confidence: float) -> list[RewardAgreement]:
    """Return the agreement of each reward with the labels."""
    pairs: dict[str, list[tuple[float | None, float]]] = {}
    for model, preferred in labels.items():
        for item in items:
            for verdict in item.answers[model].said if item.id in preferred else ():
                pairs.setdefault(verdict.reward, []).append((verdict.value, preferred[item.id].preferred))
    agreements = []
    for name, rated in pairs.items():
        kappa = cohens_kappa(agreement_table(*zip(*rated, strict=True)), confidence)
        graded = any(value not in (None, -1.0, 0.0, 1.0) for value, _ in rated)
        decided = [value if human > 0 else -value for value, human in rated if value is not None and human]
        calibrated = calibration(bradley_terry(decided), confidence) if graded else None
        agreements.append(RewardAgreement(name, kappa, calibrated))
    return agreements


def judge_error(option: str | None) -> Estimate | None:
    """Return the judge's share of wrong verdicts, given as a number or as the folder of an audit that measured it.

    Raises:
        InputError: if it is not a share below one half, or the audit has no accuracy.
    """
    if option is None:
        return None
    audit = read_audit(Path(option)) if os.path.isdir(option) else None
    if audit:
        right = next((reward.accuracy.half_ties for reward in audit.rewards if reward.accuracy), None)
        if right is None:
            raise InputError(f"--judge-error: the audit in {option} has no accuracy; audit with data.rejected")
        error = Estimate(1 - right.value, 1 - right.high, 1 - right.low, right.n)
    else:
        try:
            share = float(option)
            error = Estimate(share, share, share, 0)
        except ValueError:
            raise InputError(f"--judge-error: {option!r} is neither a number nor the folder of an audit") from None
    if not 0 <= error.value < 0.5:
        raise InputError(
            f"--judge-error: {error.value:g} must be at least 0 and below 0.5, or it cannot be corrected for"
        )
    return error


def _prompt_id(row: Row) -> str:
    """Return the prompt's id, from the column `id` or computed from the column `prompt`."""
    value: Any = row.cell("id") if row.cell("id") is not None else row.cell("prompt")
    if row.cell("id") is None and isinstance(value, str | list):
        return Example(value, "", None, {}, 0).id
    if not isinstance(value, str):
        raise InputError(f"{row.at}: has neither id nor prompt; add one of them")
    return value
