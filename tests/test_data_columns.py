"""Rows with one column for each field: what is accepted, and what each mistake is called."""

from typing import Any

import pytest

from grao.config.recipe import DataConfig
from grao.data.load import examples_from_dataset, fingerprint
from grao.errors import InputError
from grao.types import Example

CHAT = [{"role": "user", "content": "Hi"}]
CONFIG = DataConfig(path="unused", rejected="worse")


def _load(*rows: dict[str, Any]) -> list[Example]:
    return examples_from_dataset(rows, CONFIG)


def test_fields_are_kept_as_they_are() -> None:
    extra = {"numbers": [1, 2]}
    (example,) = _load({"prompt": " a ", "reference": " b\n", "worse": "c", "extra": extra})
    assert (example.prompt, example.reference, example.rejected) == (" a ", " b\n", "c")
    assert example.columns == {"extra": extra}
    assert example.columns["extra"] is extra


def test_columns_are_renamed() -> None:
    config = DataConfig(path="unused", prompt="question", reference="answer")
    (example,) = examples_from_dataset([{"question": "q", "answer": "a", "prompt": "another"}], config)
    assert (example.prompt, example.reference, example.rejected) == ("q", "a", None)
    assert example.columns == {"prompt": "another"}


def test_chat_messages_and_conversational_answers() -> None:
    (example,) = _load(
        {
            "prompt": [{"role": "user", "content": "Hi", "name": None}],
            "reference": [{"role": "assistant", "content": " yes"}],
            "worse": [{"role": "assistant", "content": "no"}],
        }
    )
    assert (example.prompt, example.reference, example.rejected) == (tuple(CHAT), " yes", "no")


@pytest.mark.parametrize("missing", [None, ""])
def test_rejected_may_be_missing(missing: str | None) -> None:
    assert _load({"prompt": "a", "reference": "b", "worse": missing})[0].rejected is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": 7}, "column 'prompt': must be text or a list of chat messages, got a number (7)"),
        ({"prompt": True}, "column 'prompt': must be text or a list of chat messages, got true or false"),
        ({"prompt": {"role": "user"}}, "column 'prompt': must be text or a list of chat messages, got an object"),
        ({"prompt": None}, "column 'prompt': is missing (null)"),
        ({"prompt": " \n"}, "column 'prompt': is empty"),
        ({"prompt": "a\ud800"}, "column 'prompt': has an unpaired surrogate at character 2"),
        ({"prompt": []}, "column 'prompt': must be at least one chat message, got an empty list"),
        ({"prompt": ["Hi"]}, "column 'prompt', message 1: must be an object with `role` and `content`, got text"),
        ({"prompt": [*CHAT, {"role": "user"}]}, "column 'prompt', message 2: has no 'content'"),
        ({"prompt": [{"content": "a"}]}, "column 'prompt', message 1: has no 'role'"),
        ({"prompt": [{"role": "user", "content": [1]}]}, "message 1, 'content': must be text, got a list"),
        (
            {"prompt": [{**CHAT[0], "name": b"Ann"}]},
            "message 1, 'name': must be text, a number, a list or",
        ),
        ({"prompt": [{"role": "user", "content": " "}]}, "column 'prompt': the last message is empty"),
        ({"prompt": [*CHAT, {"role": "assistant", "content": "a"}]}, "ends with an assistant message"),
        ({"reference": 1.5}, "column 'reference': must be text or a list of one assistant message, got a number"),
        ({"reference": None}, "column 'reference': is missing (null)"),
        ({"reference": "\t "}, "column 'reference': is empty"),
        (
            {"reference": CHAT},
            "must be one assistant message, or a conversation that ends with one, got a list with roles user",
        ),
        ({"reference": [{"role": "assistant", "content": ""}]}, "column 'reference': is empty"),
        ({"worse": 3}, "column 'worse': must be text or a list of one assistant message, got a number (3)"),
        ({"worse": "  "}, "column 'worse': is empty"),
    ],
)
def test_mistakes_in_a_row(change: dict[str, Any], message: str) -> None:
    good = {"prompt": "a", "reference": "b", "worse": "c"}
    with pytest.raises(InputError) as raised:
        _load(good, {**good, **change})
    assert str(raised.value).startswith("the data set, row 2, ")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_unknown_column_names_the_nearest() -> None:
    rows = [{"promt": "a", "answer": "b"}]
    with pytest.raises(InputError) as raised:
        examples_from_dataset(rows, DataConfig(path="unused"))
    expected = "the data set: has no column 'prompt' (data.prompt) and no column 'reference' (data.reference); "
    expected += "its columns are 'promt', 'answer'; did you mean 'promt'?"
    assert str(raised.value) == expected


def test_row_without_a_column_that_others_have() -> None:
    rows = [{"prompt": "a", "reference": "b"}, {"prompt": "a"}]
    with pytest.raises(InputError, match="row 2: has no column 'reference', but other rows do"):
        examples_from_dataset(rows, DataConfig(path="unused"))


def test_id_depends_on_the_prompt_alone() -> None:
    text, same, chat = (
        Example(prompt, reference, None, {}, row)
        for prompt, reference, row in (("Hi", "a", 1), ("Hi", "b", 2), (tuple(CHAT), "a", 1))
    )
    reordered = Example(({"content": "Hi", "role": "user"},), "a", None, {}, 1)
    assert text.id == same.id != chat.id
    assert chat.id == reordered.id
    assert text.id == "fdda60cb3869b17e"  # printf '"Hi"' | sha256sum


def test_fingerprint_sees_prompts_references_and_order() -> None:
    a, b = Example("p", "a", None, {}, 1), Example("p", "b", None, {}, 2)
    moved = Example("p", "a", "c", {"x": 1}, 9)
    assert fingerprint([a, b]) == fingerprint([moved, b])
    different = {fingerprint(examples) for examples in ([a, b], [b, a], [a], [b], [a, a], [])}
    assert len(different) == 6
