"""Which token closes a reference answer: the one that the model itself stops at, or the reference teaches another."""

from collections.abc import Sequence

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from grao.errors import InputError

_ANSWER = "Answer"


def end_token_id(tokenizer: PreTrainedTokenizerBase, generation_eos: Sequence[int], override: str | None = None) -> int:
    """The first of these that exists:

    1. `override`, the text of one token;
    2. the first stop token that follows the assistant's words in the chat template;
    3. a stop token other than the tokenizer's EOS: only a model that stops at another one lists it;
    4. the first stop token;
    5. the tokenizer's EOS.

    Args:
        tokenizer: the model's.
        generation_eos: stop tokens of the generation config; if there are none, the tokenizer's EOS is one.
        override: the recipe's `model.end_token`.

    Raises:
        InputError: if `override` is not exactly one token, or nothing names a token.
    """
    if override is not None:
        return _single_token(tokenizer, override)
    eos: int | None = tokenizer.eos_token_id
    stops = list(generation_eos) or ([] if eos is None else [eos])
    if not stops:
        raise InputError("model.end_token: neither the model nor its tokenizer names an end token; set it")
    closing = (token for token in _after_answer(tokenizer) if token in stops)
    others = (token for token in stops if token != eos)
    return next(closing, next(others, stops[0]))


def _single_token(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    if text in vocabulary:
        return vocabulary[text]
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
        pieces = " ".join(map(str, tokenizer.convert_ids_to_tokens(ids))) or "nothing"
        raise InputError(f"model.end_token: {text!r} must be one token of this model, but it reads {pieces}")
    return ids[0]


def _after_answer(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens after the assistant's words in the rendered chat template; none without a template."""
    if not tokenizer.chat_template:
        return []
    chat = [{"role": "user", "content": "Question"}, {"role": "assistant", "content": _ANSWER}]
    try:
        rendered = str(tokenizer.apply_chat_template(chat, tokenize=False))
    except TemplateError:
        return []
    after = rendered.rpartition(_ANSWER)[2] if _ANSWER in rendered else ""
    ids: list[int] = tokenizer(after, add_special_tokens=False)["input_ids"]
    return ids
