"""Chat messages as data sets write them: what they become, and what the model and a judge are shown of them."""

import json
import re
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from transformers import PreTrainedTokenizerFast

from grao.chat import dialogue_text
from grao.config.recipe import DataConfig
from grao.data.encoding import encode_examples
from grao.data.load import examples_from_dataset, split_examples
from grao.errors import InputError
from grao.rewards.judge.wording import context_text
from grao.types import Example

USER = {"role": "user", "content": "Tide at Brest?"}
CALL = {"type": "function", "function": {"name": "tide", "arguments": {"port": "Brest"}}}
CALLING = {"role": "assistant", "content": "", "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": "high at 6", "tool_call_id": "c1"}
TOOLS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content or '' }}"
    "{% for c in m.tool_calls or [] %}[{{ c.function.name }} {{ c.function.arguments | tojson }}]{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _load(*rows: dict[str, Any], **fields: Any) -> list[Example]:
    return examples_from_dataset(rows, DataConfig(path="unused", **fields))


def _prompt(*messages: Any) -> Any:
    return _load({"prompt": [*messages], "reference": "Six."})[0].prompt


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ({"content": None, "tool_calls": [CALL]}, CALLING),
        ({"tool_calls": [{"function": {"name": "tide", "arguments": '{"port": "Brest"}'}}]}, CALLING),
        ({"content": "", "tool_calls": [{"name": "tide", "arguments": {"port": "Brest"}}]}, CALLING),
        ({"content": None, "tool_calls": json.dumps([CALL])}, CALLING),
        ({"content": None, "tool_calls": np.array([CALL], dtype=object)}, CALLING),
        ({"content": None, "function_call": {"name": "tide", "arguments": '{"port": "Brest"}'}}, CALLING),
        (
            {
                "content": "Let me see.",
                "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": ""}}],
            },
            {
                "role": "assistant",
                "content": "Let me see.",
                "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {}}}],
            },
        ),
    ],
)
def test_tool_calls_in_every_spelling(given: dict[str, Any], read: dict[str, Any]) -> None:
    assert _prompt(USER, {"role": "assistant", **given}, RESULT) == (USER, read, RESULT)


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ({"role": "user", "content": [{"type": "text", "text": "Tide "}, {"type": "text", "text": "at Brest?"}]}, USER),
        ({"role": "user", "content": ["Tide at Brest?"]}, USER),
        ({"role": "user", "content": [{"type": "text", "text": "Tide at Brest?", "image_url": None}]}, USER),
        ({"from": "human", "value": "Tide at Brest?"}, USER),
        ({"role": "User", "content": "Tide at Brest?", "tool_calls": []}, USER),
        ({"role": "user", "content": "Tide at Brest?", "tool_calls": [{"id": None, "function": None}]}, USER),
        ({**USER, "weight": 0.5, "train": False, "meta": {"a": [1, None], "b": None}}, {
            **USER, "weight": 0.5, "train": False, "meta": {"a": [1, None]}
        }),
        ({"role": "function", "name": "tide", "content": "6"}, {"role": "tool", "name": "tide", "content": "6"}),
        ({"from": "observation", "value": "6"}, {"role": "tool", "content": "6"}),
        ({"role": "developer", "content": "Brief."}, {"role": "developer", "content": "Brief."}),
    ],
)  # fmt: skip
def test_messages_of_other_kinds(given: dict[str, Any], read: dict[str, Any]) -> None:
    assert _prompt(given) == (read,)


def test_sharegpt_with_a_call() -> None:
    call = {"from": "function_call", "value": '{"name": "tide", "arguments": {"port": "Brest"}}'}
    talk = [{"from": "human", "value": "Tide at Brest?"}, call, {"from": "observation", "value": "high at 6"}]
    (example,) = _load({"conversations": [*talk, {"from": "gpt", "value": "At six."}]}, reference="conversations")
    assert example.prompt == (USER, CALLING, {"role": "tool", "content": "high at 6"})
    assert example.reference == "At six."


def test_arrow_fills_in_nothing() -> None:
    """Tables give every message all fields, and every call all arguments."""
    other = {"type": "function", "function": {"name": "wind", "arguments": {"knots": 7}}}
    chats = [[USER, CALLING, RESULT], [USER, {**CALLING, "tool_calls": [other]}, RESULT]]
    rows = Dataset.from_list([{"prompt": chat, "reference": "Six."} for chat in chats])
    assert [list(e.prompt) for e in examples_from_dataset(rows, DataConfig(path="unused"))] == chats


@pytest.mark.parametrize("written", [json.dumps, str, lambda chat: "  " + json.dumps(chat, indent=1) + "\n"])
def test_messages_as_text(written: Any) -> None:
    rows = [{"prompt": written([USER]), "reference": written([{"role": "assistant", "content": 'It\'s "six".'}])}]
    (example,) = _load(*rows)
    assert (example.prompt, example.reference) == ((USER,), 'It\'s "six".')


@pytest.mark.parametrize("text", ["[{x}] is a set", '[{"a": 1}]', "[1, 2]", "{'role': 1}", "[{'a'}]", "[{"])
def test_text_that_only_looks_like_messages(text: str) -> None:
    assert _load({"prompt": text, "reference": text})[0].prompt == text


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([{"role": "user", "content": [{"type": "image", "image": "a.png"}]}], "got a list with 'image'; only parts"),
        ([{"role": "user", "content": [{"type": "image_url", "text": None}]}], "got a list with 'image_url'; only"),
        ([{"role": "assistant", "content": None}, USER], "message 1: has no 'content'"),
        ([{"role": "assistant", "content": None, "tool_calls": []}, USER], "message 1: has no 'content'"),
        ([{**CALLING, "tool_calls": [{"id": "1"}]}, RESULT], "message 1, 'tool_calls': each call must be a function"),
        ([{**CALLING, "tool_calls": "tide()"}, RESULT], "'tool_calls': must be a list of tool calls, got text"),
        ([{**CALLING, "tool_calls": [{"name": "\ud800"}]}, RESULT], "'tool_calls': has an unpaired surrogate"),
        ([{**USER, "a": {"b": [b"x"]}}], "message 1, 'a': must be text, a number, a list or an object, got bytes"),
        ([{**USER, 7: "x"}], "message 1: must be named by text, got a number (7)"),
        ([{"from": "human"}], "message 1: has no 'content'"),
        ([USER, CALLING], "ends with an assistant message; remove it, or set data.reference: prompt"),
        ("[{'role': 'user', 'content': 'Hi'} {'role': 'user'}]", "looks like chat messages but is not valid JSON"),
        ('[{“role”: “user”, “content”: “Hi”}]', "looks like chat messages but is not valid JSON"),
    ],
)  # fmt: skip
def test_messages_that_cannot_be_read(messages: Any, message: str) -> None:
    with pytest.raises(InputError) as raised:
        _load({"prompt": messages, "reference": "a"})
    assert str(raised.value).startswith("the data set, row 1, column 'prompt'")
    assert message in str(raised.value)


def test_messages_without_end() -> None:
    deep: Any = "x"
    for _ in range(200):
        deep = {"a": deep}
    with pytest.raises(InputError, match="message 1, 'b': is nested more than 50 levels deep"):
        _prompt({**USER, "b": deep})


ANSWER, WORSE = {"role": "assistant", "content": "At six."}, {"role": "assistant", "content": "At nine."}
PAIR = {"data_source": "x", "chosen": [USER, ANSWER], "rejected": [USER, WORSE]}


@pytest.mark.parametrize(
    "row",
    [
        PAIR,
        {**PAIR, "prompt": "Tide at Brest?"},
        {**PAIR, "prompt": None},
        {**PAIR, "prompt": [USER]},
        {**PAIR, "prompt": [USER, ANSWER]},
        {**PAIR, "prompt": [USER], "chosen": [ANSWER]},
        {**PAIR, "rejected": [WORSE]},
        {**PAIR, "rejected": "At nine."},
        {**PAIR, "chosen": json.dumps(PAIR["chosen"])},
    ],
)
def test_pairs_of_conversations(row: dict[str, Any]) -> None:
    (example,) = _load(row, reference="chosen", rejected="rejected")
    assert (example.prompt, example.reference, example.rejected) == ((USER,), "At six.", "At nine.")
    assert example.columns == {"data_source": "x"}


def test_pairs_as_trl_extracts_them() -> None:
    trl = pytest.importorskip("trl")
    system = {"role": "system", "content": "Brief."}
    pair = {"chosen": [system, USER, ANSWER], "rejected": [system, USER, WORSE]}
    expected = trl.extract_prompt(pair)
    (example,) = _load(pair, reference="chosen", rejected="rejected")
    assert list(example.prompt) == expected["prompt"]
    assert [example.reference, example.rejected] == [expected[side][0]["content"] for side in ("chosen", "rejected")]


def test_pairs_of_texts_that_begin_with_the_prompt() -> None:
    rows = [{"prompt": f"Q{i}?", "chosen": f"Q{i}? Yes.", "rejected": f"Q{i}? No."} for i in range(3)]
    examples = _load(*rows, reference="chosen", rejected="rejected")
    assert {(e.prompt, e.reference, e.rejected) for e in examples} == {(f"Q{i}?", " Yes.", " No.") for i in range(3)}
    rows[1]["rejected"] = "No."
    assert _load(*rows, reference="chosen", rejected="rejected")[0].reference == "Q0? Yes."
    assert _load(*rows, reference="chosen")[0].reference == "Q0? Yes."


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"rejected": [{**USER, "content": "Hm?"}, WORSE]},
            "columns 'chosen' and 'rejected': the conversations differ",
        ),
        (
            {"chosen": [USER, ANSWER, USER]},
            "or a conversation that ends with one, got a list with roles user, assistant, user",
        ),
        ({"prompt": [{**USER, "content": "Hm?"}]}, "column 'prompt': is not the beginning of the conversation"),
        ({"chosen": [USER, CALLING]}, "column 'chosen': ends with a tool call; an answer must be text"),
        ({"chosen": [USER, ANSWER, ANSWER]}, "ends with an assistant message"),
        ({"chosen": [{**USER, "content": ""}, ANSWER]}, "the last message is empty"),
        ({"chosen": "At six."}, "column 'prompt': is missing (null)"),
    ],
)
def test_pairs_that_cannot_be_read(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as raised:
        _load({**PAIR, "prompt": None}, {**PAIR, "prompt": None, **change}, reference="chosen", rejected="rejected")
    assert str(raised.value).startswith("the data set, row 2, ")
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("row", "fields", "remedy"),
    [
        ({"messages": [USER, ANSWER]}, {}, "set data.reference: messages"),
        ({"conversations": []}, {"prompt": "conversations"}, "set data.reference: conversations"),
        ({"chosen": [USER, ANSWER]}, {}, "set data.reference: chosen"),
        ({"chosen": "\n\nHuman: Hi\n\nAssistant: Yes"}, {"reference": "chosen"}, "data.format: hh"),
        ({"prompt": "a", "extra": {"gold": "b"}}, {"reference": "gold"}, "did you mean 'extra.gold'?"),
        ({"promt": "a"}, {}, "did you mean 'promt'?"),
    ],
)
def test_missing_columns_name_the_way(row: dict[str, Any], fields: dict[str, str], remedy: str) -> None:
    with pytest.raises(InputError, match="the data set: has no column") as raised:
        _load(row, **fields)
    assert remedy in str(raised.value)


def test_nested_columns() -> None:
    row = {"extra": {"asked": "a", "gold": {"text": "b"}}, "a.b": "c"}
    (example,) = _load(row, prompt="extra.asked", reference="extra.gold.text", rejected="a.b")
    assert (example.prompt, example.reference, example.rejected) == ("a", "b", "c")
    assert example.columns == {"extra": row["extra"]}
    with pytest.raises(InputError, match=r"row 2, column 'extra\.gold\.text': is missing \(null\)"):
        _load(row, {**row, "extra": {"asked": "a", "gold": None}}, prompt="extra.asked", reference="extra.gold.text")
    with pytest.raises(InputError, match=r"row 2: has no column 'extra\.asked', but other rows do"):
        _load(row, {**row, "extra": "a"}, prompt="extra.asked", reference="a.b")


def test_tool_calls_reach_the_model_and_the_judge(chat_tokenizer: PreTrainedTokenizerFast) -> None:
    chat_tokenizer.chat_template = TOOLS
    examples = _load({"prompt": [USER, {**CALLING, "content": None}, RESULT], "reference": "Six."})
    (item,) = encode_examples(examples, chat_tokenizer, 2, 400, "drop").items
    assert '<|im_start|>assistant\n[tide {"port": "Brest"}]<|im_end|>' in item.prompt_text
    assert "<|im_start|>tool\nhigh at 6<|im_end|>" in item.prompt_text
    assert 'Assistant: tide({"port": "Brest"})\n\nTool: high at 6' in context_text(examples[0].prompt)
    assert 'Assistant: tide({"port": "Brest"})\n\nTool: high at 6' in dialogue_text(examples[0].prompt)


@pytest.mark.parametrize(
    ("shown", "messages", "left_out"),
    [
        ("m.role != 'tool'", (USER, CALLING, RESULT), "messages of the role tool"),
        ("not m.tool_calls", (USER, CALLING, RESULT), "tool calls"),
        ("m.content", (USER, CALLING, RESULT), "tool calls"),
        ("m.role != 'developer'", ({"role": "developer", "content": "Brief."}, USER), "messages of the role dev"),
        (
            "m.role in ('user', 'assistant')",
            ({"role": "system", "content": "Brief."}, USER),
            "messages of the role sys",
        ),
    ],
)
def test_template_that_leaves_out_messages(
    chat_tokenizer: PreTrainedTokenizerFast, shown: str, messages: tuple[Any, ...], left_out: str
) -> None:
    chat_tokenizer.chat_template = TOOLS.replace("messages %}", f"messages if {shown} %}}", 1)
    rows = [{"prompt": [USER], "reference": "a"}, {"prompt": [*messages], "reference": "b"}]
    with pytest.raises(InputError, match=f"row 2: the chat template omits {left_out}"):
        encode_examples(_load(*rows), chat_tokenizer, 2, 400, "drop")


def test_prompts_that_differ_in_white_space_stay_together() -> None:
    chats = [[{"role": "user", "content": content}] for content in ("e", "e\n")]
    prompts = ["a b", "a  b", "a b\n", "c", "c ", "d", *chats]
    examples = _load(*({"prompt": prompt, "reference": "x"} for prompt in prompts))
    for seed in range(5):
        split = split_examples(examples, 2, seed)
        train, test = ({re.sub(r"\\n|\s", "", str(e.prompt)) for e in side} for side in (split.train, split.test))
        assert not train & test
        assert len(test) == 2
