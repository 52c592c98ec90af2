"""Examples into token ids, sampled token ids back into text, and the token that closes an answer.

A chat prompt goes through the tokenizer's chat template; without one it becomes a dialogue in plain text
(`dialogue_text`) that the answer continues after a space. Text prompts get the tokenizer's special tokens (BOS), but
no closing one. Answers are tokenised as what follows the prompt, so that the model is trained on the very ids that
it would sample.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from grao.chat import dialogue_text
from grao.errors import InputError
from grao.types import Encoded, Example, Message

_CHUNK = 1000
"""Texts tokenised at once: bounds the memory that the tokenizer's offsets take."""
_CONTEXT = 8
"""Prompt tokens that `decode_completion` looks at."""
_ANSWER = "Answer"
"""What the assistant says in the dialogue that shows how a chat template closes an answer."""


@dataclass(frozen=True)
class EncodedSet:
    """Encoded examples in order."""

    items: list[Encoded]
    dropped: int
    """Examples left out because of a long prompt."""
    truncated: int
    """Examples whose prompt was cut on the left."""


class _Prompt(NamedTuple):
    """A whole prompt, before truncation."""

    example: Example
    text: str
    special: bool
    """Whether the tokenizer adds its special tokens; a chat template writes them itself."""
    gap: str
    """Comes before an answer that does not begin with white space."""
    ids: list[int]


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
    texts = [_prompt_text(example, tokenizer) for example in examples]
    _check_shown(examples, lambda example: _prompt_text(example, tokenizer)[0])
    ids = _tokenise(tokenizer, [(text, special) for text, special, _ in texts])
    prompts = [_Prompt(example, *text, tokens) for example, text, tokens in zip(examples, texts, ids, strict=True)]
    if long_prompts == "drop":
        prompts = [prompt for prompt in prompts if len(prompt.ids) <= max_prompt_tokens]
    if examples and not prompts:
        raise InputError(
            f"data.max_prompt_tokens: every prompt is longer than {max_prompt_tokens} tokens (the shortest has "
            f"{min(map(len, ids))}); raise it, or set data.long_prompts: truncate"
        )
    references = _answers(tokenizer, end_id, [(prompt, prompt.example.reference) for prompt in prompts])
    worse = [(i, answer) for i, p in enumerate(prompts) if with_rejected and (answer := p.example.rejected)]
    rejected = _answers(tokenizer, end_id, [(prompts[i], answer) for i, answer in worse])
    rejected_ids = {i: answer_ids for (i, _), (_, answer_ids) in zip(worse, rejected, strict=True)}
    items = [
        Encoded(prompt.example, *_cut_left(tokenizer, prompt, max_prompt_tokens), *reference, rejected_ids.get(i, ()))
        for i, (prompt, reference) in enumerate(zip(prompts, references, strict=True))
    ]
    truncated = sum(len(prompt.ids) > max_prompt_tokens for prompt in prompts)
    return EncodedSet(items, dropped=len(examples) - len(prompts), truncated=truncated)


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


def end_token_id(tokenizer: PreTrainedTokenizerBase, generation_eos: Sequence[int], override: str | None = None) -> int:
    """The token that closes a reference: the one the model itself stops at, or the reference teaches another.

    The first of these that exists:

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
    stops = list(generation_eos) or [tokenizer.eos_token_id]
    if stops == [None]:
        raise InputError("model.end_token: neither the model nor its tokenizer names an end token; set it")
    closing = [token for token in _after_answer(tokenizer) if token in stops]
    others = [token for token in stops if token != tokenizer.eos_token_id]
    return (closing + others + stops)[0]


def _single_token(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    if text in vocabulary:
        return vocabulary[text]
    (ids,) = _ids(tokenizer, [text], special=False)
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
        _, shown, after = str(tokenizer.apply_chat_template(chat, tokenize=False)).rpartition(_ANSWER)
    except TemplateError:
        return []
    return _ids(tokenizer, [after if shown else ""], special=False)[0]


def _prompt_text(example: Example, tokenizer: PreTrainedTokenizerBase) -> tuple[str, bool, str]:
    """`text`, `special` and `gap` of a `_Prompt`."""
    if isinstance(example.prompt, str):
        return example.prompt, True, ""
    if not tokenizer.chat_template:
        return dialogue_text(example.prompt), True, " "
    messages = [dict(message) for message in example.prompt]
    try:
        return str(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)), False, ""
    except TemplateError as error:
        raise InputError(f"row {example.row}: the chat template refuses the prompt: {error}") from error


def _check_shown(examples: Iterable[Example], shown: Callable[[Example], str]) -> None:
    """Checks that no tool call, tool result or instruction goes unseen, with the first of each.

    Args:
        examples: any number.
        shown: an example's prompt as the model reads it.

    Raises:
        InputError: if the prompt would read the same with another one.
    """
    firsts: dict[str, tuple[Example, list[Message], int]] = {}
    for example in examples:
        messages = [] if isinstance(example.prompt, str) else [*example.prompt]
        for index, message in enumerate(messages):
            kind = "tool calls" if "tool_calls" in message else f"messages of the role {message['role']}"
            firsts.setdefault(kind, (example, messages, index))
    firsts.pop("messages of the role assistant", None)  # thoughts are left out on purpose
    for kind, (example, messages, index) in firsts.items():
        other = dict(messages[index])
        if calls := other.get("tool_calls"):
            other["tool_calls"] = [{**calls[0], "function": {**calls[0]["function"], "name": "another"}}, *calls[1:]]
        else:
            other["content"] += "."
        if shown(replace(example, prompt=[*messages[:index], other, *messages[index + 1 :]])) == shown(example):
            remedy = "leave them out of the data, or take a model whose template shows them"
            raise InputError(f"row {example.row}: the chat template leaves out {kind}; {remedy}")


def _answers(
    tokenizer: PreTrainedTokenizerBase, end_id: int, pairs: Sequence[tuple[_Prompt, str]]
) -> list[tuple[str, tuple[int, ...]]]:
    """Each answer as text that continues its prompt, and as ids closed with the end token."""
    texts = [answer if answer[:1].isspace() else prompt.gap + answer for prompt, answer in pairs]
    joint = _tokenise(tokenizer, [(p.text + text, p.special) for (p, _), text in zip(pairs, texts, strict=True)])
    answers = []
    for (prompt, _), text, ids in zip(pairs, texts, joint, strict=True):
        prefixed = ids[: len(prompt.ids)] == prompt.ids
        answer = ids[len(prompt.ids) :] if prefixed else _separate_answer(tokenizer, prompt.ids, text)
        for name, tokens in (("prompt", prompt.ids), ("reference", answer)):
            if not tokens:
                raise InputError(f"row {prompt.example.row}: the tokenizer gives the {name} no tokens")
        answers.append((text, tuple(answer if answer[-1] == end_id else [*answer, end_id])))
    return answers


def _separate_answer(tokenizer: PreTrainedTokenizerBase, prompt_ids: list[int], answer: str) -> list[int]:
    """Ids of an answer whose first letters merge with the prompt's last token when both are tokenised together.

    Tokenised alone, or, where that adds a space of its own, after a line break that is taken off again.
    """
    alone, line_break, after = _ids(tokenizer, [answer, "\n", f"\n{answer}"], special=False)
    if after[: len(line_break)] != line_break or decode_completion(tokenizer, prompt_ids, alone) == answer:
        return alone
    return after[len(line_break) :]


def _cut_left(tokenizer: PreTrainedTokenizerBase, prompt: _Prompt, length: int) -> tuple[str, tuple[int, ...]]:
    """Text and ids of the last tokens of a prompt; BOS stays in front."""
    ids = prompt.ids
    if len(ids) <= length:
        return prompt.text, tuple(ids)
    starts_with_bos = ids[0] == tokenizer.bos_token_id and length > 1
    ids = [ids[0], *ids[len(ids) - length + 1 :]] if starts_with_bos else ids[-length:]
    return _decode(tokenizer, ids, skip_special=prompt.special), tuple(ids)


def _tokenise(tokenizer: PreTrainedTokenizerBase, texts: Sequence[tuple[str, bool]]) -> list[list[int]]:
    """Ids of each text, with special tokens (but no closing EOS) where its flag says so."""
    eos = tokenizer.eos_token_id
    plain, closed = (_ids(tokenizer, ["a"], special)[0] for special in (False, True))
    closes = closed[-1:] == [eos] != plain[-1:]
    sides = [iter(_ids(tokenizer, [text for text, flag in texts if flag == side], side)) for side in (False, True)]
    rows = [(next(sides[special]), special and closes) for _, special in texts]
    return [ids[:-1] if may_close and ids[-1:] == [eos] else ids for ids, may_close in rows]


def _ids(tokenizer: PreTrainedTokenizerBase, texts: list[str], special: bool) -> list[list[int]]:
    """Ids of texts, with or without special tokens."""
    options = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
    chunks = (texts[start : start + _CHUNK] for start in range(0, len(texts), _CHUNK))
    return [ids for chunk in chunks for ids in tokenizer(chunk, add_special_tokens=special, **options)["input_ids"]]


def _decode(tokenizer: PreTrainedTokenizerBase, ids: Iterable[int], skip_special: bool = True) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=skip_special, clean_up_tokenization_spaces=False))
