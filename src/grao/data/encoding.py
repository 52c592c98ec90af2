"""Examples into token ids, and sampled token ids back into text.

A chat prompt goes through the tokenizer's chat template; without one it becomes a dialogue in plain text
(`dialogue_text`) that the answer continues after a space. Text prompts get the tokenizer's special tokens (BOS), but
no closing one. Answers are tokenised as what follows the prompt, so that the model is trained on the very ids that
it would sample.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from grao.data.example import Example
from grao.errors import InputError
from grao.models.conversation import dialogue_text

_CHUNK = 1000
"""Texts tokenised at once: bounds the memory that the tokenizer's offsets take."""
_CONTEXT = 8
"""Prompt tokens that `decode_completion` looks at."""


@dataclass(frozen=True)
class Encoded:
    """An example as the model sees it."""

    example: Example
    prompt_text: str
    """After the chat template, and after truncation."""
    prompt_ids: tuple[int, ...]
    reference_text: str
    """The reference as it continues `prompt_text`, leading space included: compares with `decode_completion`."""
    reference_ids: tuple[int, ...]
    """Closed with the end token, at least one token before it."""
    rejected_ids: tuple[int, ...] = ()
    """As the reference; empty if there is none, or none is wanted."""


@dataclass(frozen=True)
class EncodedSet:
    """Encoded examples in order."""

    items: list[Encoded]
    dropped: int
    """Examples left out because of a long prompt."""
    truncated: int
    """Examples whose prompt was cut on the left."""


@dataclass(frozen=True)
class _Rendered:
    """Prompt and answer as text, and whether the tokenizer adds its special tokens."""

    prompt: str
    answer: str
    special: bool


def encode_examples(
    examples: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
    end_id: int,
    max_prompt_tokens: int,
    long_prompts: Literal["drop", "truncate"],
    with_rejected: bool = False,
) -> EncodedSet:
    """Token ids of prompts and references.

    Args:
        examples: any number.
        tokenizer: the model's.
        end_id: closes each reference (`end_token_id`).
        max_prompt_tokens: longest prompt, its special tokens included.
        long_prompts: `drop` leaves longer ones out, `truncate` cuts them on the left and keeps BOS.
        with_rejected: the rejected answers are wanted too.

    Raises:
        InputError: if the chat template refuses a prompt, a prompt or reference has no tokens, or all prompts are
            too long.
    """
    rendered = [_render(example, tokenizer) for example in examples]
    prompts = _tokenise(tokenizer, [(text.prompt, text.special) for text in rendered])
    kept = [i for i, ids in enumerate(prompts) if long_prompts == "truncate" or len(ids) <= max_prompt_tokens]
    if examples and not kept:
        raise InputError(
            f"data.max_prompt_tokens: every prompt is longer than {max_prompt_tokens} tokens (the shortest has "
            f"{min(map(len, prompts))}); raise it, or set data.long_prompts: truncate"
        )
    joint = _tokenise(tokenizer, [(rendered[i].prompt + rendered[i].answer, rendered[i].special) for i in kept])
    items = [
        _encoded(tokenizer, examples[i], rendered[i], prompts[i], ids, end_id, max_prompt_tokens)
        for i, ids in zip(kept, joint, strict=True)
    ]
    if with_rejected:
        items = _with_rejected(items, tokenizer, end_id, max_prompt_tokens)
    truncated = sum(len(prompts[i]) > max_prompt_tokens for i in kept)
    return EncodedSet(items, dropped=len(examples) - len(kept), truncated=truncated)


def decode_completion(
    tokenizer: PreTrainedTokenizerBase, prompt_ids: Sequence[int], completion_ids: Sequence[int]
) -> str:
    """Text that sampled tokens add to their prompt, special tokens left out.

    Decoded after the last tokens of the prompt, because sentencepiece-like tokenizers strip the leading space of
    what they decode alone.
    """
    context = list(prompt_ids[-_CONTEXT:])
    before = _decode(tokenizer, context)
    both = _decode(tokenizer, context + list(completion_ids))
    return both[len(before) :] if both.startswith(before) else _decode(tokenizer, completion_ids)


def _with_rejected(
    items: list[Encoded], tokenizer: PreTrainedTokenizerBase, end_id: int, max_prompt_tokens: int
) -> list[Encoded]:
    """The same with the rejected answers that there are, encoded as references are."""
    swapped = [replace(item.example, reference=item.example.rejected) for item in items if item.example.rejected]
    encoded = encode_examples(swapped, tokenizer, end_id, max_prompt_tokens, "truncate").items
    rejected = iter(item.reference_ids for item in encoded)
    return [replace(item, rejected_ids=next(rejected)) if item.example.rejected else item for item in items]


def _render(example: Example, tokenizer: PreTrainedTokenizerBase) -> _Rendered:
    if isinstance(example.prompt, str):
        return _Rendered(example.prompt, example.reference, special=True)
    if not tokenizer.chat_template:
        answer = example.reference if example.reference[:1].isspace() else f" {example.reference}"
        return _Rendered(dialogue_text(example.prompt), answer, special=True)
    messages = [dict(message) for message in example.prompt]
    try:
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    except TemplateError as error:
        raise InputError(f"row {example.row}: the chat template refuses the prompt: {error}") from error
    return _Rendered(str(text), example.reference, special=False)


def _encoded(
    tokenizer: PreTrainedTokenizerBase,
    example: Example,
    text: _Rendered,
    prompt_ids: list[int],
    joint_ids: list[int],
    end_id: int,
    max_prompt_tokens: int,
) -> Encoded:
    prefixed = joint_ids[: len(prompt_ids)] == prompt_ids
    answer = joint_ids[len(prompt_ids) :] if prefixed else _separate_answer(tokenizer, prompt_ids, text.answer)
    for name, ids in (("prompt", prompt_ids), ("reference", answer)):
        if not ids:
            raise InputError(f"row {example.row}: the tokenizer gives the {name} no tokens")
    prompt_text = text.prompt
    if len(prompt_ids) > max_prompt_tokens:
        prompt_ids = _cut_left(prompt_ids, max_prompt_tokens, tokenizer.bos_token_id)
        prompt_text = _decode(tokenizer, prompt_ids, skip_special_tokens=text.special)
    closed = answer if answer[-1] == end_id else [*answer, end_id]
    return Encoded(example, prompt_text, tuple(prompt_ids), text.answer, tuple(closed))


def _separate_answer(tokenizer: PreTrainedTokenizerBase, prompt_ids: list[int], answer: str) -> list[int]:
    """Ids of an answer whose first letters merge with the prompt's last token when both are tokenised together.

    Tokenised alone, or, where that adds a space of its own, after a line break that is taken off again.
    """
    alone, line_break, after = (_ids(tokenizer, [text], False)[0] for text in (answer, "\n", f"\n{answer}"))
    if after[: len(line_break)] != line_break or decode_completion(tokenizer, prompt_ids, alone) == answer:
        return alone
    return after[len(line_break) :]


def _cut_left(ids: list[int], length: int, bos: int | None) -> list[int]:
    if ids[0] == bos and length > 1:
        return [ids[0], *ids[len(ids) - length + 1 :]]
    return ids[-length:]


def _tokenise(tokenizer: PreTrainedTokenizerBase, texts: Sequence[tuple[str, bool]]) -> list[list[int]]:
    """Ids of each text, with special tokens (but no closing EOS) where its flag says so."""
    streams = {
        special: _chunked(tokenizer, [text for text, flag in texts if flag == special], special)
        for special in (True, False)
    }
    closing = tokenizer.eos_token_id if _closes(tokenizer) else None
    ids = [(next(streams[special]), special) for _, special in texts]
    return [tokens[:-1] if special and tokens[-1:] == [closing] else tokens for tokens, special in ids]


def _chunked(tokenizer: PreTrainedTokenizerBase, texts: list[str], special: bool) -> Iterator[list[int]]:
    for start in range(0, len(texts), _CHUNK):
        yield from _ids(tokenizer, texts[start : start + _CHUNK], special)


def _ids(tokenizer: PreTrainedTokenizerBase, texts: list[str], special: bool) -> list[list[int]]:
    encoded = tokenizer(
        texts,
        add_special_tokens=special,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )
    ids: list[list[int]] = encoded["input_ids"]
    return ids


def _closes(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer appends EOS to every text."""
    plain, special = (_ids(tokenizer, ["a"], flag)[0] for flag in (False, True))
    return special[-1:] == [tokenizer.eos_token_id] != plain[-1:]


def _decode(tokenizer: PreTrainedTokenizerBase, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
    text = tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False)
    return str(text)
