"""Prompts and references into token ids and back, and what closes them, with real and made-up tokenizers."""

from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from grao.chat import token_ids
from grao.config.recipe import DataConfig
from grao.data.encoding import EncodedSet, decode_completion, encode_examples, end_token_id
from grao.data.load import load_examples
from grao.errors import InputError
from grao.types import Encoded, Example

USER = ({"role": "user", "content": "Once upon"},)
BOS, END = 1, 1
"""Of `stories`."""
ENDOFTEXT, IM_START, IM_END = 0, 1, 2
"""Of `chat_tokenizer`."""


@pytest.fixture(scope="module")
def stories(shared: Path) -> PreTrainedTokenizerBase:
    """Sentencepiece-like: BOS first, a leading space added to every text and stripped when decoding."""
    return AutoTokenizer.from_pretrained(shared / "models" / "stories260k")


def _one(
    tokenizer: PreTrainedTokenizerBase, prompt: str | tuple[dict[str, str], ...], reference: str, end_id: int
) -> Encoded:
    (item,) = encode_examples([Example(prompt, reference, None, {}, 1)], tokenizer, end_id, 4096, "drop").items
    return item


@pytest.mark.parametrize("pattern", ["<s> $A", "<s> $A </s>", "$A </s>", "$A"])
def test_text_prompt_has_bos_but_no_closing_eos(words: Callable, pattern: str) -> None:
    item = _one(words(pattern), "a b", " c d", end_id=1)
    assert item.prompt_ids == ((0, 3, 4) if "<s>" in pattern else (3, 4))
    assert item.reference_ids == (5, 6, 1)
    assert (item.prompt_text, item.reference_text) == ("a b", " c d")


def test_bos_that_is_also_eos_stays(words: Callable) -> None:
    tokenizer = words("</s> $A")
    tokenizer.bos_token = "</s>"
    assert _one(tokenizer, "a b", " c", end_id=1).prompt_ids == (1, 3, 4)


def test_end_token_is_not_doubled(words: Callable) -> None:
    assert _one(words("$A"), "a", " b </s>", end_id=1).reference_ids == (4, 1)
    assert _one(words("$A"), "a", " b </s>", end_id=0).reference_ids == (4, 1, 0)


def test_chat_prompt_goes_through_the_template(chat_tokenizer: PreTrainedTokenizerFast) -> None:
    im_end = chat_tokenizer.convert_tokens_to_ids("<|im_end|>")
    item = _one(chat_tokenizer, USER, "a time", im_end)
    text = "<|im_start|>user\nOnce upon<|im_end|>\n<|im_start|>assistant\n"
    assert item.prompt_text == text
    rendered = chat_tokenizer.apply_chat_template(list(USER), add_generation_prompt=True, return_dict=False)
    assert list(item.prompt_ids) == rendered
    assert chat_tokenizer.decode(item.prompt_ids + item.reference_ids) == text + "a time<|im_end|>"
    assert item.reference_text == "a time"


def test_chat_prompt_without_template_is_a_dialogue(chat_tokenizer: PreTrainedTokenizerFast) -> None:
    chat_tokenizer.chat_template = None
    item = _one(chat_tokenizer, USER, "a time", 0)
    assert item.prompt_text == "\n\nHuman: Once upon\n\nAssistant:"
    assert item.reference_text == " a time"
    ids = item.prompt_ids + item.reference_ids
    assert chat_tokenizer.decode(ids) == "\n\nHuman: Once upon\n\nAssistant: a time<|endoftext|>"
    assert _one(chat_tokenizer, USER, "\na time", 0).reference_text == "\na time"


def test_template_that_refuses(chat_tokenizer: PreTrainedTokenizerFast) -> None:
    example = Example(({"role": "critic", "content": "Hm"},), "a", None, {}, 7)
    with pytest.raises(InputError, match="row 7: the chat template rejects the prompt: no critics"):
        encode_examples([example], chat_tokenizer, 0, 100, "drop")


def test_references_of_real_pairs_come_back(shared: Path, stories: PreTrainedTokenizerBase) -> None:
    path = str(shared / "data" / "tinystories-openings" / "train.jsonl.gz")
    examples = load_examples(DataConfig(path=path, reference="chosen")).examples
    items = encode_examples(examples, stories, END, 512, "drop").items
    assert len(items) == 308
    for item in items:
        assert item.example.reference.startswith(" ")
        assert decode_completion(stories, item.prompt_ids, item.reference_ids) == item.example.reference
        assert item.prompt_ids[0] == BOS
        assert item.reference_ids[-1] == END
        whole = stories(item.example.prompt + item.example.reference)["input_ids"]
        assert [*item.prompt_ids, *item.reference_ids[:-1]] == whole


def test_real_dialogues_come_back(shared: Path, stories: PreTrainedTokenizerBase) -> None:
    path = str(shared / "data" / "hh-helpful-base" / "test.jsonl.gz")
    examples = load_examples(DataConfig(path=path, format="hh", limit=400)).examples
    for item in encode_examples(examples, stories, END, 10_000, "drop").items:
        completion = decode_completion(stories, item.prompt_ids, item.reference_ids)
        assert completion == item.reference_text == f" {item.example.reference}"
        assert stories.decode(item.prompt_ids, skip_special_tokens=True) == item.prompt_text


@pytest.mark.parametrize(
    ("prompt", "reference"),
    [("It is ", "fun."), ("It is", " fun."), ("It i", "s fun."), ("It is\n", "\n fun."), ("A  ", "  b"), ("é", "é")],
)
def test_answers_that_merge_with_the_prompt(
    stories: PreTrainedTokenizerBase,
    chat_tokenizer: PreTrainedTokenizerFast,
    prompt: str,
    reference: str,
) -> None:
    """No space is gained or lost, however the two texts would merge."""
    for tokenizer, end in ((stories, END), (chat_tokenizer, 0)):
        item = _one(tokenizer, prompt, reference, end)
        assert decode_completion(tokenizer, item.prompt_ids, item.reference_ids) == reference
        assert tokenizer.decode(item.prompt_ids, skip_special_tokens=True) == prompt


def test_decoding_looks_at_the_last_prompt_tokens_only(stories: PreTrainedTokenizerBase) -> None:
    ids = stories(" was", add_special_tokens=False)["input_ids"]
    long = stories("Once upon a time there was a girl. She " * 50)["input_ids"]
    assert decode_completion(stories, long[-8:], ids) == decode_completion(stories, long, ids)
    assert decode_completion(stories, long, [*ids, END]) == decode_completion(stories, long, ids)
    assert decode_completion(stories, long, [END]) == ""


def test_decoding_a_character_that_prompt_and_completion_share(stories: PreTrainedTokenizerBase) -> None:
    """Half of a character in the prompt: the completion is decoded alone."""
    ids = stories("a ☃", add_special_tokens=False)["input_ids"]
    assert decode_completion(stories, ids[:-1], ids[-1:]) == stories.decode(ids[-1:]) == "\ufffd"


def _long(words: Callable, limit: int, long_prompts: str) -> EncodedSet:
    examples = [Example("a b c d e f", "g", None, {}, 1), Example("a b", "h", None, {}, 2)]
    return encode_examples(examples, words("<s> $A"), 1, limit, long_prompts)


def test_long_prompts_are_dropped_and_counted(words: Callable) -> None:
    encoded = _long(words, 6, "drop")
    assert [item.example.row for item in encoded.items] == [2]
    assert (encoded.dropped, encoded.truncated) == (1, 0)
    assert (_long(words, 7, "drop").dropped, _long(words, 7, "truncate").truncated) == (0, 0)


def test_long_prompts_are_cut_on_the_left_and_keep_bos(words: Callable) -> None:
    encoded = _long(words, 4, "truncate")
    assert [item.prompt_ids for item in encoded.items] == [(0, 6, 7, 8), (0, 3, 4)]
    assert [item.prompt_text for item in encoded.items] == ["d e f", "a b"]
    assert [item.reference_ids for item in encoded.items] == [(9, 1), (10, 1)]
    assert (encoded.dropped, encoded.truncated) == (0, 1)
    assert _long(words, 1, "truncate").items[0].prompt_ids == (8,)


def test_truncated_chat_prompt_keeps_its_end(chat_tokenizer: PreTrainedTokenizerFast) -> None:
    example = Example(USER, "a", None, {}, 1)
    full = _one(chat_tokenizer, USER, "a", 0)
    (item,) = encode_examples([example], chat_tokenizer, 0, len(full.prompt_ids) - 2, "truncate").items
    assert item.prompt_ids == full.prompt_ids[2:]
    assert full.prompt_text.endswith(item.prompt_text)
    assert item.prompt_text.endswith("<|im_start|>assistant\n")


def test_all_prompts_too_long(words: Callable) -> None:
    with pytest.raises(InputError, match="every prompt is longer than 2 tokens") as raised:
        _long(words, 2, "drop")
    assert "the shortest has 3" in str(raised.value)
    assert "long_prompts: truncate" in str(raised.value)


def test_texts_without_tokens(words: Callable) -> None:
    tokenizer = words("$A")
    for prompt, reference, name in (("\n", "a", "prompt"), ("a", "\n", "reference")):
        with pytest.raises(InputError, match=f"row 3: the {name} has no tokens"):
            encode_examples([Example(prompt, reference, None, {}, 3)], tokenizer, 1, 9, "truncate")


def test_no_examples_give_no_items(words: Callable) -> None:
    assert encode_examples([], words("$A"), 1, 9, "drop") == EncodedSet([], 0, 0)


def test_batches_equal_single_texts(chat_tokenizer: PreTrainedTokenizerFast, words: Callable) -> None:
    """2,400 texts of both kinds, over the limits of a batch; the tokenizer's own length limit changes nothing."""
    for tokenizer in (chat_tokenizer, words("<s> $A </s>")):
        texts = [("a b c " * (i % 7) + "d", i % 3 == 0) for i in range(2400)]
        assert token_ids(tokenizer, texts) == [token_ids(tokenizer, [pair])[0] for pair in texts]


def test_pretrained_model_that_stops_at_bos(stories: PreTrainedTokenizerBase) -> None:
    """Its tokenizer says 2, its generation config 2 and 1, and it only ever emits 1."""
    assert stories.eos_token_id == 2
    assert end_token_id(stories, (2, 1)) == 1
    assert end_token_id(stories, (2,)) == 2
    assert end_token_id(stories, ()) == 2
    assert end_token_id(stories, (2, 1), "</s>") == 2


@pytest.mark.parametrize(
    ("generation_eos", "expected"),
    [
        ((ENDOFTEXT, IM_END), IM_END),
        ((IM_END, ENDOFTEXT), IM_END),
        ((IM_START, IM_END), IM_END),
        ((ENDOFTEXT,), ENDOFTEXT),
        ((), ENDOFTEXT),
    ],
)
def test_chat_template_decides_among_the_stop_tokens(
    chat_tokenizer: PreTrainedTokenizerFast, generation_eos: tuple[int, ...], expected: int
) -> None:
    assert end_token_id(chat_tokenizer, generation_eos) == expected


def test_template_that_shows_no_answer_does_not_decide(chat_tokenizer: PreTrainedTokenizerFast) -> None:
    for template in ("<|im_end|>", "{{ raise_exception('no') }}"):
        chat_tokenizer.chat_template = template
        assert end_token_id(chat_tokenizer, (ENDOFTEXT, IM_START, IM_END)) == IM_START


def test_tokens_before_the_answer_do_not_decide(chat_tokenizer: PreTrainedTokenizerFast) -> None:
    chat_tokenizer.chat_template = (
        "Answer all.<|im_end|>{% for m in messages %}{{ m.content }}{% endfor %}<|endoftext|><|im_start|>"
    )
    assert end_token_id(chat_tokenizer, (IM_END, IM_START, ENDOFTEXT)) == ENDOFTEXT


@pytest.mark.parametrize("text", ["\n", "<|im_start|>", " the"])
def test_override_is_one_token(chat_tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert chat_tokenizer.decode([end_token_id(chat_tokenizer, (IM_END,), text)]) == text


@pytest.mark.parametrize("text", ["</end>", "", "zzz"])
def test_override_that_is_not(chat_tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    with pytest.raises(InputError, match=r"model\.end_token: .* must be one token of this model"):
        end_token_id(chat_tokenizer, (IM_END,), text)


def test_override_must_not_be_unknown(words: Callable[[str], PreTrainedTokenizerFast]) -> None:
    assert end_token_id(words("$A"), (1,), "a") == 3
    with pytest.raises(InputError, match="'x' must be one token"):
        end_token_id(words("$A"), (1,), "x")


def test_no_end_token_anywhere(chat_tokenizer: PreTrainedTokenizerFast) -> None:
    chat_tokenizer.eos_token = None
    assert end_token_id(chat_tokenizer, (IM_END,)) == IM_END
    with pytest.raises(InputError, match="defines an end token; set one"):
        end_token_id(chat_tokenizer, ())
