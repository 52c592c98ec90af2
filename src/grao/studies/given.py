"""What an evaluation is given: files of ready answers and of people's preferences, checked against the prompts before
anything is asked, and how often the judge is known to err."""

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
from grao.records.numbers import Agreed, Estimate
from grao.records.run import Item, RecordedAnswer
from grao.studies.prepare import token_ids
from grao.types import Encoded, Example

SIDES = {"answer": 1.0, "tie": 0.0, "reference": -1.0}
PAIR_SIDES = {"rejected": 1.0, "tie": 0.0, "reference": -1.0}
"""What people may prefer -> their R."""


def read_answers(
    path: str, items: Sequence[Encoded], tokenizer: PreTrainedTokenizerBase | None
) -> list[RecordedAnswer]:
    """The answers of a file in the order of the prompts.

    Args:
        path: rows with `answer`, and `id` (16 hex digits, as in items.jsonl) or `prompt`.
        items: the prompts; where one stands there several times, so do its answers, in the same order.
        tokenizer: counts tokens; without one, words are counted.

    Raises:
        InputError: naming the row that is not as it should be, or the first prompt that has no answer.
    """
    by_prompt: dict[str, list[str]] = {}
    wanted = Counter(item.example.id for item in items)
    for row in read_path(path, "train").rows:
        text, prompt = row.cell("answer"), _prompt_id(row)
        if not isinstance(text, str):
            raise InputError(f"{row.at}: answer must be text, is {type(text).__name__}; a row is an id and an answer")
        if prompt not in wanted:
            problem = f"its prompt is none of the {len(items):,} that are evaluated on"
            raise InputError(f"{row.at}: {problem}; take ids or prompts from items.jsonl of an evaluation on them")
        if len(by_prompt.setdefault(prompt, [])) == wanted[prompt]:
            raise InputError(f"{row.at}: a second answer to the prompt {prompt}; give one each")
        by_prompt[prompt].append(text)
    missing = [prompt for prompt, count in wanted.items() if len(by_prompt.get(prompt, [])) < count]
    if missing:
        problem = f"{len(missing):,} of {len(wanted):,} prompts have no answer"
        raise InputError(f"{path}: {problem}, the first is {missing[0]}")
    texts = [by_prompt[item.example.id].pop(0) for item in items]
    return [
        RecordedAnswer(text, len(tokens) if tokenizer else len(text.split()), False, None, list(tokens))
        for text, tokens in zip(texts, closed_ids(tokenizer, texts), strict=True)
    ]


def closed_ids(tokenizer: PreTrainedTokenizerBase | None, texts: Sequence[str]) -> list[tuple[int, ...]]:
    """Token ids of N texts with an end token, as sampled answers have one; empty without a tokenizer."""
    end = [tokenizer.eos_token_id] if tokenizer and tokenizer.eos_token_id is not None else []
    return [(*ids, *end) for ids in token_ids(tokenizer, texts)]


class Label(NamedTuple):
    """What somebody preferred."""

    preferred: float
    """1 the answer, 0 neither, -1 the reference."""
    answer: str | None
    """That was read, None where the file does not say."""
    at: str
    """Where it stands."""


Labels = dict[str, dict[str, Label]]
"""By model and id of the prompt."""


def read_labels(path: str, ids: Sequence[str], models: Sequence[str], sides: Mapping[str, float] = SIDES) -> Labels:
    """People's preferences.

    Args:
        path: rows with `preferred` (answer, reference or tie), `id` or `prompt`, `model` where several are judged, and
            if they like `answer`, the text that was read.
        ids: of the prompts.
        models: their names.
        sides: what may be preferred, and its R.

    Raises:
        InputError: naming the row that is not as it should be.
    """
    labels: Labels = {}
    known = set(ids)
    for row in read_path(path, "train").rows:
        prompt, said = _prompt_id(row), row.cell("preferred")
        model = row.cell("model") if len(models) > 1 or row.cell("model") else models[0]
        if said not in sides:
            raise InputError(f"{row.at}: preferred must be {', '.join(sides)}, is {said!r}")
        if model not in models:
            raise InputError(f"{row.at}: model must be one of {', '.join(models)}, is {model!r}")
        if prompt not in known:
            raise InputError(f"{row.at}: its prompt is none of the {len(known):,} that are evaluated on")
        if prompt in labels.setdefault(model, {}):
            raise InputError(f"{row.at}: a second preference on {model!r} and the prompt {prompt}; give one each")
        answer = row.cell("answer")
        labels[model][prompt] = Label(sides[said], answer if isinstance(answer, str) else None, row.at)
    return labels


def check_labelled(labels: Labels, answers: Mapping[str, Mapping[str, str]]) -> None:
    """Makes sure that the labels are about the answers that are judged, by model and id of the prompt.

    Raises:
        InputError: naming a row that is about another text.
    """
    for model, preferred in labels.items():
        for prompt, label in preferred.items():
            text = answers[model].get(prompt)
            if None not in (label.answer, text) and str(label.answer).strip() != str(text).strip():
                raise InputError(
                    f"{label.at}: answer is another text than the one that is judged; label the answers of items.jsonl "
                    "and judge them again with --run"
                )


def agreed(items: Sequence[Item], labels: Labels, confidence: float) -> list[Agreed]:
    """How far each reward agrees with the labels."""
    pairs: dict[str, list[tuple[float | None, float]]] = {}
    for model, preferred in labels.items():
        for item in items:
            for said in item.answers[model].said if item.id in preferred else ():
                pairs.setdefault(said.reward, []).append((said.value, preferred[item.id].preferred))
    found = []
    for name, both in pairs.items():
        kappa = cohens_kappa(agreement_table(*zip(*both, strict=True)), confidence)
        fine = any(value not in (None, -1.0, 0.0, 1.0) for value, _ in both)
        decided = [value if human > 0 else -value for value, human in both if value is not None and human]
        found.append(Agreed(name, kappa, calibration(bradley_terry(decided), confidence) if fine else None))
    return found


def judge_error(told: str | None) -> Estimate | None:
    """The judge's share of wrong verdicts, as told, or as an audit measured it on its pairs.

    Raises:
        InputError: if it is no share below one half, or the audit has no accuracy.
    """
    if told is None:
        return None
    audit = read_audit(Path(told)) if os.path.isdir(told) else None
    if audit:
        right = next((each.accuracy.half_ties for each in audit.rewards if each.accuracy), None)
        if right is None:
            raise InputError(f"--judge-error: the audit in {told} has no accuracy; it needs data.rejected")
        error = Estimate(1 - right.value, 1 - right.high, 1 - right.low, right.n)
    else:
        try:
            share = float(told)
            error = Estimate(share, share, share, 0)
        except ValueError:
            raise InputError(f"--judge-error: {told!r} is neither a share nor the folder of an audit") from None
    if not 0 <= error.value < 0.5:
        raise InputError(
            f"--judge-error: {error.value:g} must be at least 0 and below 0.5: nothing else can be corrected"
        )
    return error


def _prompt_id(row: Row) -> str:
    """The prompt's id, as it stands there or from the prompt itself."""
    given: Any = row.cell("id") if row.cell("id") is not None else row.cell("prompt")
    if row.cell("id") is None and isinstance(given, str | list):
        return Example(given, "", None, {}, 0).id
    if not isinstance(given, str):
        raise InputError(f"{row.at}: has neither id nor prompt; give the id of its prompt, or the prompt")
    return given
