"""The `answers/` folder of a study: answers of its runs, for reading.

prompts.jsonl   held-out prompts and references, once for all runs
NAME.jsonl      the answers of a run before and after training

No number is based on these files, so they may be deleted. To keep a study small, only final runs are recorded, with the
first `MOST` prompts, and long texts are cut at the end.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pydantic.dataclasses import dataclass

from grao.records.files import Record
from grao.records.run import Item, PromptItem, RecordedAnswer
from grao.records.study import Key, StudyResult

MOST, LONGEST = 300, 2_000
"""Most prompts per run, and most characters per text."""


@dataclass(frozen=True)
class PromptAnswers:
    """The answers of a run to one prompt."""

    id: str
    """ID of the prompt."""
    after: RecordedAnswer
    before: RecordedAnswer | None = None
    gain: float | None = None
    """R of the answer after training against that before training."""


_PROMPTS = Record("answers/prompts.jsonl", PromptItem)


def keep_answers(
    folder: Path,
    key: Key,
    prompts: Sequence[PromptItem],
    after: Sequence[RecordedAnswer],
    before: Sequence[RecordedAnswer] = (),
    gains: Sequence[float | None] = (),
) -> None:
    """Write the answers of a run, replacing earlier ones.

    Args:
        folder: of the study.
        key: of the run.
        prompts: N held-out prompts.
        after: N answers of the trained model.
        before: N answers of the model before training, or empty.
        gains: N rewards of `after` against `before`, or empty.
    """
    short = [PromptItem(each.id, cut(each.prompt), cut(each.reference)) for each in prompts[:MOST]]
    befores: Sequence[RecordedAnswer | None] = before or [None] * len(prompts)
    kept = [
        PromptAnswers(prompt.id, _short(last), first and _short(first), gain)
        for prompt, last, first, gain in zip(short, after, befores, gains or [None] * len(prompts), strict=False)
    ]
    if _PROMPTS.read_lines(folder) != short:
        _PROMPTS.write_lines(folder, short)
    _record(key).write_lines(folder, kept)


def drop_answers(folder: Path, key: Key) -> None:
    """Delete the answers of a run that is repeated."""
    (folder / _record(key).name).unlink(missing_ok=True)


def read_answers(folder: Path, result: StudyResult) -> list[Item]:
    """Read the recorded prompts with the answers of every arm for a single seed, the one that most arms share.

    If all arms have the same answers before training, these are included as `before`.

    Args:
        folder: of the study.
        result: numbers of the study.

    Returns:
        One item per prompt; empty if no answers were recorded.

    Raises:
        InputError: if a file cannot be read; names the file and the line.
    """
    prompts = _PROMPTS.read_lines(folder)
    seeds = Counter(seed for arm in result.arms for seed in arm.seeds)
    if not prompts or not seeds:
        return []
    seed = max(sorted(seeds), key=lambda each: seeds[each])
    arms = {
        arm.arm: _by_index(prompts, _record(Key(arm.arm, "final", arm.learning_rate, seed)).read_lines(folder))
        for arm in result.arms
        if seed in arm.seeds
    }
    arms = {name: kept for name, kept in arms.items() if kept}
    befores = {tuple(kept.before and kept.before.text for kept in answers.values()) for answers in arms.values()}
    alike = len(befores) == 1
    return [_item(prompt, index, arms, alike) for index, prompt in enumerate(prompts)] if arms else []


def _by_index(prompts: Sequence[PromptItem], kept: Sequence[PromptAnswers]) -> dict[int, PromptAnswers]:
    """Answers by prompt index (a prompt may occur twice), without answers to other prompts."""
    pairs = enumerate(zip(prompts, kept, strict=False))
    return {index: answers for index, (prompt, answers) in pairs if answers.id == prompt.id}


def _item(prompt: PromptItem, index: int, arms: Mapping[str, Mapping[int, PromptAnswers]], alike: bool) -> Item:
    answered = {name: kept[index] for name, kept in arms.items() if index in kept}
    before = next((kept.before for kept in answered.values() if kept.before), None) if alike else None
    answers = {"before": before} if before else {}
    gains = {f"{name}|before": kept.gain for name, kept in answered.items()} if before else {}
    after = {name: kept.after for name, kept in answered.items()}
    return Item(prompt.id, prompt.prompt, prompt.reference, answers | after, gains)


def _record(key: Key) -> Record[PromptAnswers]:
    return Record(f"answers/{key.name}.jsonl", PromptAnswers, remedy="delete the file")


def _short(answer: RecordedAnswer) -> RecordedAnswer:
    """The answer without token ids and with its text cut."""
    return replace(answer, text=cut(answer.text), token_ids=[])


def cut(text: str) -> str:
    """Cut a text at `LONGEST` characters, followed by a note on the omission."""
    omitted = len(text) - LONGEST
    return f"{text[:LONGEST]}\n[... {omitted:,} characters omitted ...]" if omitted > 0 else text
