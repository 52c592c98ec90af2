"""The answers that a study keeps, so that they can be read arm by arm: `answers/` in its folder.

prompts.jsonl   the held-out prompts and references, once for all runs
NAME.jsonl      a run's answers to them, before and after training

They are there to be read; no number rests on them, and they may be deleted. So that a study stays small only the runs
that count keep theirs, of the first `MOST` prompts, and long texts lose their end.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pydantic.dataclasses import dataclass

from grao.records.files import Record
from grao.records.run import Item, Prompted, RecordedAnswer
from grao.records.study import Key, StudyResult

MOST, LONGEST = 300, 2_000
"""Prompts of a run, and characters of a text."""


@dataclass(frozen=True)
class Kept:
    """What a run answered to one prompt."""

    id: str
    """Of the prompt."""
    after: RecordedAnswer
    before: RecordedAnswer | None = None
    gain: float | None = None
    """R of the answer after training against the one before."""


_PROMPTS = Record("answers/prompts.jsonl", Prompted)


def keep_answers(
    folder: Path,
    key: Key,
    prompts: Sequence[Prompted],
    after: Sequence[RecordedAnswer],
    before: Sequence[RecordedAnswer] = (),
    gains: Sequence[float | None] = (),
) -> None:
    """Writes the answers of one run, in place of those that it left before.

    Args:
        folder: of the study.
        key: of the run.
        prompts: that were held out, N of them.
        after: N answers of the trained model.
        before: N answers of the model before, or none.
        gains: N rewards of the one against the other, or none.
    """
    asked = [Prompted(each.id, cut(each.prompt), cut(each.reference)) for each in prompts[:MOST]]
    firsts: Sequence[RecordedAnswer | None] = before or [None] * len(prompts)
    kept = [
        Kept(prompt.id, _short(last), first and _short(first), gain)
        for prompt, last, first, gain in zip(asked, after, firsts, gains or [None] * len(prompts), strict=False)
    ]
    if _PROMPTS.read_lines(folder) != asked:
        _PROMPTS.write_lines(folder, asked)
    _of(key).write_lines(folder, kept)


def drop_answers(folder: Path, key: Key) -> None:
    """Removes the answers of a run that is done again."""
    (folder / _of(key).name).unlink(missing_ok=True)


def read_answers(folder: Path, result: StudyResult) -> list[Item]:
    """The kept prompts with the answers of every arm, of the seed that most arms have; none where none were kept.

    The answers of the model before training are among them, as `before`, where they are the same for all arms.

    Raises:
        InputError: naming file and line, if one cannot be read.
    """
    prompts = _PROMPTS.read_lines(folder)
    seeds = Counter(seed for arm in result.arms for seed in arm.seeds)
    if not prompts or not seeds:
        return []
    seed = max(sorted(seeds), key=lambda each: seeds[each])
    arms = {
        arm.arm: _by_place(prompts, _of(Key(arm.arm, "final", arm.learning_rate, seed)).read_lines(folder))
        for arm in result.arms
        if seed in arm.seeds
    }
    arms = {name: kept for name, kept in arms.items() if kept}
    befores = {tuple(kept.before and kept.before.text for kept in answers.values()) for answers in arms.values()}
    alike = len(befores) == 1
    return [_item(prompt, place, arms, alike) for place, prompt in enumerate(prompts)] if arms else []


def _by_place(prompts: Sequence[Prompted], kept: Sequence[Kept]) -> dict[int, Kept]:
    """Answers by the place of their prompt, for a prompt may come twice; without those to other prompts."""
    pairs = enumerate(zip(prompts, kept, strict=False))
    return {place: answered for place, (prompt, answered) in pairs if answered.id == prompt.id}


def _item(prompt: Prompted, place: int, arms: Mapping[str, Mapping[int, Kept]], alike: bool) -> Item:
    answered = {name: kept[place] for name, kept in arms.items() if place in kept}
    before = next((kept.before for kept in answered.values() if kept.before), None) if alike else None
    answers = {"before": before} if before else {}
    gains = {f"{name}|before": kept.gain for name, kept in answered.items()} if before else {}
    after = {name: kept.after for name, kept in answered.items()}
    return Item(prompt.id, prompt.prompt, prompt.reference, answers | after, gains)


def _of(key: Key) -> Record[Kept]:
    return Record(f"answers/{key.name}.jsonl", Kept, remedy="delete the file")


def _short(answer: RecordedAnswer) -> RecordedAnswer:
    """Without what is not read: tokens, and the end of a long text."""
    return replace(answer, text=cut(answer.text), token_ids=[])


def cut(text: str) -> str:
    """A text of more than `LONGEST` characters loses its end, and says so."""
    left_out = len(text) - LONGEST
    return f"{text[:LONGEST]}\n[... {left_out:,} characters left out ...]" if left_out > 0 else text
