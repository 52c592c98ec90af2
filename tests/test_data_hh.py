"""Anthropic HH: dialogues into prompts and answers; quirks are counted, in made-up rows and in the real files."""

import json
from pathlib import Path
from typing import Any

import pytest

from grao.chat import dialogue_text
from grao.config.recipe import DataConfig
from grao.data.formats import Loaded, SkipReason, dialogue_messages
from grao.data.load import load_examples, load_split
from grao.errors import InputError
from grao.types import Example

ASK = "\n\nHuman: Hi\n\nAssistant:"
GOOD = {"chosen": f"{ASK} Hello ", "rejected": f"{ASK}  Go"}


def _load(folder: Path, *rows: dict[str, Any]) -> Loaded:
    path = folder / "hh.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return load_examples(DataConfig(path=str(path), format="hh"))


def test_dialogue_becomes_messages_and_answers(tmp_path: Path) -> None:
    prompt = "\n\nHuman:  What?  Human: no turn\n\nAssistant: That.\n\nHumans: text\n\nHuman: Why?\n\nAssistant:"
    loaded = _load(tmp_path, {"chosen": f"{prompt} A.\n\n1. B\n", "rejected": f"{prompt} C", "source": "x"})
    messages = (
        {"role": "user", "content": "What?  Human: no turn"},
        {"role": "assistant", "content": "That.\n\nHumans: text"},
        {"role": "user", "content": "Why?"},
    )
    assert loaded == Loaded([Example(messages, "A.\n\n1. B", "C", {"source": "x"}, 1)], {})


@pytest.mark.parametrize(
    ("chosen", "rejected", "quirk"),
    [
        ("Hello", "Hi", SkipReason.NO_DIALOGUE),
        ("", "", SkipReason.NO_DIALOGUE),
        ("\n\nHuman: Hi", "\n\nHuman: Hi", SkipReason.NO_DIALOGUE),
        ("\n\nAssistant: Hi", "\n\nAssistant: Ho", SkipReason.NO_DIALOGUE),
        (f"{ASK} a\n\nHuman: b\n\nAssistant: c", f"{ASK} d", SkipReason.DIFFERENT_PROMPTS),
        (f"{ASK} a\n\nAssistant: b", f"{ASK} a\n\nAssistant: c", SkipReason.TURN_ORDER),
        (f"\n\nHuman: a{ASK} b", f"\n\nHuman: a{ASK} c", SkipReason.TURN_ORDER),
        (f"{ASK} {ASK} b", f"{ASK} {ASK} c", SkipReason.EMPTY_TURN),
        (f"{ASK} a", f"{ASK} b\n\nHuman: c", SkipReason.FURTHER_TURNS),
        (f"{ASK} \n", f"{ASK} b", SkipReason.EMPTY_CHOSEN),
        (f"{ASK} a", ASK, SkipReason.EMPTY_REJECTED),
        (f"{ASK} a", f"{ASK}  a ", SkipReason.SAME_ANSWERS),
        (f"{ASK} a", f"{ASK} b", SkipReason.REPEATED_PROMPT),
    ],
)
def test_quirks_are_left_out_and_counted(tmp_path: Path, chosen: str, rejected: str, quirk: SkipReason) -> None:
    loaded = _load(tmp_path, GOOD, {"chosen": chosen, "rejected": rejected})
    assert loaded.skipped == {quirk.value: 1}
    assert [(e.reference, e.rejected, e.row) for e in loaded.examples] == [("Hello", "Go", 1)]


def test_rows_of_another_format_raise(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no row is in format 'hh': not a dialogue .* \(2\); try data\.format"):
        _load(tmp_path, {"chosen": "a", "rejected": "b"}, {"chosen": "a", "rejected": "b"})
    with pytest.raises(InputError, match="line 2, column 'rejected': must be a dialogue as one text, got a list"):
        _load(tmp_path, GOOD, {**GOOD, "rejected": []})
    with pytest.raises(InputError, match="has no column 'chosen' and no column 'rejected'; its columns are 'prompt'"):
        _load(tmp_path, {"prompt": "a"})
    with pytest.raises(InputError, match="line 1, column 'chosen': has an unpaired surrogate"):
        _load(tmp_path, {**GOOD, "chosen": ASK + "\ud800"})


def test_dialogue_text_is_the_inverse_of_dialogue_messages() -> None:
    text = "\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: What\n\nis it?\n\nAssistant:"
    assert dialogue_text(dialogue_messages(text)) == text
    assert dialogue_messages(text + " An answer")[-1] == {"role": "assistant", "content": "An answer"}
    assert dialogue_text(({"role": "system", "content": "Be kind."},)) == "\n\nSystem: Be kind.\n\nAssistant:"
    with pytest.raises(InputError, match="must begin with"):
        dialogue_messages("Hi\n\nAssistant: Hello")


@pytest.mark.parametrize(
    ("name", "rows", "skipped"),
    [
        (
            "hh-harmless-base",
            2312,
            {
                SkipReason.DIFFERENT_PROMPTS: 4,
                SkipReason.TURN_ORDER: 4,
                SkipReason.FURTHER_TURNS: 1,
                SkipReason.EMPTY_CHOSEN: 4,
                SkipReason.REPEATED_PROMPT: 2,
            },
        ),
        (
            "hh-helpful-base",
            2354,
            {
                SkipReason.DIFFERENT_PROMPTS: 2,
                SkipReason.TURN_ORDER: 7,
                SkipReason.EMPTY_TURN: 1,
                SkipReason.FURTHER_TURNS: 6,
                SkipReason.EMPTY_REJECTED: 3,
                SkipReason.SAME_ANSWERS: 2,
            },
        ),
        (
            "hh-helpful-rejection-sampled",
            2749,
            {
                SkipReason.DIFFERENT_PROMPTS: 1,
                SkipReason.FURTHER_TURNS: 2,
                SkipReason.SAME_ANSWERS: 32,
                SkipReason.REPEATED_PROMPT: 1,
            },
        ),
    ],
)
def test_released_files(shared: Path, name: str, rows: int, skipped: dict[SkipReason, int]) -> None:
    """Differing, empty chosen, equal and repeated rows as the data's own description counts them."""
    config = DataConfig(path=str(shared / "data" / name / "test.jsonl.gz"), format="hh")
    loaded = load_examples(config)
    assert loaded.skipped == {str(quirk): count for quirk, count in skipped.items()}
    assert len(loaded.examples) == rows - sum(skipped.values())

    split = load_split(config, seed=3)
    assert len(split.test) == 300
    assert len(split.train) == len(loaded.examples) - 300
    assert not {e.id for e in split.train} & {e.id for e in split.test}
    assert split.skipped == loaded.skipped
