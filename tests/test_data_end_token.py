"""Which token closes a reference."""

from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from grao.data import end_token_id
from grao.errors import InputError

ENDOFTEXT, IM_START, IM_END = 0, 1, 2


@pytest.fixture(scope="module")
def stories(shared: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(shared / "models" / "stories260k")


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
    with pytest.raises(InputError, match="names an end token; set it"):
        end_token_id(chat_tokenizer, ())
