"""Encode examples as token ids, decode sampled ids, and choose the token that ends an answer.

A chat prompt goes through the tokenizer's chat template (`grao.chat`); without one it becomes a dialogue in plain text
(`dialogue_text`) that the answer continues after a space. Text prompts get the tokenizer's special tokens (BOS once),
but no EOS. Answers are tokenised as a continuation of the prompt, so that the model is trained on exactly the
ids that it would sample. End tokens written out after an answer count as end tokens; anywhere else they are text.
"""

import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from transformers import PreTrainedTokenizerBase

from grao.chat import (
    Turn,
    dialogue_text,
    is_rendered,
    mark_tokens,
    prompt_text,
    strip_end_tokens,
    token_ids,
    turn_of,
    unmark_tokens,
)
from grao.errors import InputError
from grao.types import Encoded, Example, Message

_PROBED = 16
"""Number of prompts checked for whether the chat template has been applied already."""
_CONTEXT = 8
"""Last prompt tokens that `decode_completion` decodes with a completion."""
_OPENED = re.compile(r"(<\w+>|\[\w+\])\s*$")
"""The tag of a block that a prompt leaves open."""
_SHOWN = 40
"""Characters from the end of a prompt that messages show."""


@dataclass(frozen=True)
class EncodedSet:
    """Encoded examples in order."""

    items: list[Encoded]
    dropped: int
    """Number of examples dropped because their prompt is too long."""
    truncated: int
    """Number of examples whose prompt was truncated on the left."""


class _Prompt(NamedTuple):
    """A prompt before truncation."""

    example: Example
    text: str
    """The text, marked by `grao.chat.mark_tokens`."""
    special: bool
    """Whether the tokenizer adds special tokens; a chat template writes them itself."""
    gap: str
    """Separator before an answer that does not begin with white space."""
    ids: list[int]


def encode_examples(
    examples: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
    end_id: int,
    max_prompt_tokens: int,
    long_prompts: Literal["drop", "truncate"],
    with_rejected: bool = False,
    turn: Turn | None = None,
) -> EncodedSet:
    """Encode prompts and answers as token ids.

    Args:
        examples: any number.
        tokenizer: the model's.
        end_id: end token, appended to each answer (`end_token_id`).
        max_prompt_tokens: maximum prompt length, including special tokens.
        long_prompts: `drop` skips examples with longer prompts, `truncate` cuts prompts on the left and keeps BOS.
        with_rejected: encode rejected answers too.
        turn: format of an answer in a chat (`settled_turn`); by default prompts end as the template ends them.

    Returns:
        The encoded examples, in order. End tokens written out after their answers are removed from the texts.

    Raises:
        InputError: if the chat template rejects a prompt, a prompt or reference has no tokens, or all prompts are
            too long.
    """
    turn = turn or open_turn(turn_of(tokenizer))
    turn = replace(turn, stops=(*turn.stops, *token_texts(tokenizer, [end_id])))
    texts = [_prompt_text(example, tokenizer, turn) for example in examples]
    _check_shown(examples, lambda example: _prompt_text(example, tokenizer, turn)[0])
    cleaned = [_cleaned(example, text, turn.stops) for example, (text, _, _) in zip(examples, texts, strict=True)]
    ids = token_ids(tokenizer, [(text, special) for text, special, _ in texts])
    prompts = [_Prompt(example, *text, tokens) for example, text, tokens in zip(cleaned, texts, ids, strict=True)]
    if long_prompts == "drop":
        prompts = [prompt for prompt in prompts if len(prompt.ids) <= max_prompt_tokens]
    if examples and not prompts:
        raise InputError(
            f"data.max_prompt_tokens: every prompt is longer than {max_prompt_tokens} tokens (the shortest has "
            f"{min(map(len, ids))}); raise it, or set data.long_prompts: truncate"
        )
    references = _answers(tokenizer, end_id, turn, [(prompt, prompt.example.reference) for prompt in prompts])
    rejected_answers = [(i, answer) for i, p in enumerate(prompts) if with_rejected and (answer := p.example.rejected)]
    rejected = _answers(tokenizer, end_id, turn, [(prompts[i], answer) for i, answer in rejected_answers])
    rejected_ids = {i: answer_ids for (i, _), (_, answer_ids) in zip(rejected_answers, rejected, strict=True)}
    items = [
        Encoded(prompt.example, *_cut_left(tokenizer, prompt, max_prompt_tokens), *reference, rejected_ids.get(i, ()))
        for i, (prompt, reference) in enumerate(zip(prompts, references, strict=True))
    ]
    truncated = sum(len(prompt.ids) > max_prompt_tokens for prompt in prompts)
    return EncodedSet(items, dropped=len(examples) - len(prompts), truncated=truncated)


def settled_turn(tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example], taught: bool) -> Turn:
    """Determine the format of answers in the chats of a run, given its references; warn about surprises.

    If the template opens a thinking block, and the method trains on references that contain no thoughts, prompts end as
    the template ends them before an answer without thoughts.

    Args:
        tokenizer: the policy's.
        examples: training examples.
        taught: whether the method trains on the references.

    Raises:
        InputError: if some references contain thoughts and others do not.
    """
    chats = [example for example in examples if not isinstance(example.prompt, str)]
    if not chats:
        if tokenizer.chat_template and not all(is_rendered(tokenizer, str(item.prompt)) for item in examples[:_PROBED]):
            problem = "prompts are plain text, so the model's chat template is not applied"
            warnings.warn(f"{problem}; if it is a chat model, set data.chat: true", stacklevel=2)
        return Turn()
    turn = turn_of(tokenizer, chats[0].prompt)  # type: ignore[arg-type]
    no_thoughts = [chat.at for chat in chats if not turn.thoughts or turn.thoughts not in chat.reference]
    if not taught or not no_thoughts or not turn.coming + turn.given:
        return open_turn(turn)
    if turn.optional:
        if len(no_thoughts) == len(chats):
            problem = (
                f"before an answer without thoughts the chat template puts {turn.given!r}, which the references lack"
            )
            warnings.warn(f"{problem}; set model.chat_template_kwargs (usually enable_thinking: false)", stacklevel=2)
        return open_turn(turn)
    block = f"the chat template opens a thinking block before an answer, which {turn.thoughts!r} ends"
    if len(no_thoughts) < len(chats):
        remedy = "add thoughts to all references or remove them from all"
        problem = f"the reference contains no {turn.thoughts!r}, but others do; {block}"
        raise InputError(f"{no_thoughts[0]}: {problem}; {remedy}")
    end = f"{turn.given!r} instead of {turn.coming!r}" if turn.coming else repr(turn.given)
    ending = f"{block}, but the references contain no thoughts; prompts end with {end}"
    warnings.warn(f"{ending}, as the template does before an answer without thoughts", stacklevel=2)
    return turn


def open_turn(turn: Turn) -> Turn:
    """Return the turn for prompts that end exactly as the template ends them."""
    return replace(turn, coming="", given="")


def answer_words(tokenizer: PreTrainedTokenizerBase, item: Encoded, stop_ids: Sequence[int]) -> str:
    """Return one line: how a prompt ends, which token ends its answer, and which others stop sampling.

    Args:
        tokenizer: the model's.
        item: an encoded example.
        stop_ids: all tokens that stop sampling.
    """
    end = item.reference_ids[-1]
    others = [repr(tokenizer.convert_ids_to_tokens(token)) for token in stop_ids if token != end]
    more = f"; {' and '.join(others)} stop{'s' if len(others) == 1 else ''} sampling too" if others else ""
    closing, is_chat = repr(tokenizer.convert_ids_to_tokens(end)), not isinstance(item.example.prompt, str)
    start = "no chat template, so messages become a plain-text dialogue: " * (is_chat and not tokenizer.chat_template)
    return f"{start}answers begin after {item.prompt_text[-_SHOWN:]!r} and end with {closing}{more}"


def decode_completion(
    tokenizer: PreTrainedTokenizerBase, prompt_ids: Sequence[int], completion_ids: Sequence[int]
) -> str:
    """Decode sampled tokens to text, without special tokens.

    The last tokens of the prompt are decoded with them and then cut off, because tokenizers such as SentencePiece strip
    a leading space.

    Args:
        tokenizer: the model's.
        prompt_ids: tokens of the prompt.
        completion_ids: tokens sampled after it.
    """
    context = list(prompt_ids[-_CONTEXT:])
    before = _decode(tokenizer, context)
    joint = _decode(tokenizer, context + list(completion_ids))
    return joint[len(before) :] if joint.startswith(before) else _decode(tokenizer, completion_ids)


def end_token_id(
    tokenizer: PreTrainedTokenizerBase,
    generation_eos: Sequence[int],
    override: str | None = None,
    turn: Turn | None = None,
) -> int:
    """Choose the token that ends a reference: the token at which the model itself stops.

    The first of these that exists:

    1. `override`, the text of one token;
    2. the first token after the answer in the chat template that is a stop token or, in chats, `turn.end`;
    3. the first stop token other than the tokenizer's EOS, since a model lists such a token only if it stops there;
    4. the first stop token;
    5. the tokenizer's EOS.

    Args:
        tokenizer: the model's.
        generation_eos: stop tokens of the generation config; if there are none, the tokenizer's EOS is one.
        override: the recipe's `model.end_token`.
        turn: format of an answer in a chat; None or empty if prompts are text.

    Raises:
        InputError: if `override` is not exactly one token, or there is no end token at all.
    """
    if override is not None:
        return _single_token(tokenizer, override)
    chat_end = [tokenizer.convert_tokens_to_ids(turn.end)] if turn and turn.end else []
    stops = [token for token in list(generation_eos) or [tokenizer.eos_token_id] if token is not None]
    if not chat_end + stops:
        raise InputError("model.end_token: neither the model nor its tokenizer defines an end token; set one")
    suffix = turn.closing if turn and turn.closing else turn_of(tokenizer).closing
    (tokens,) = token_ids(tokenizer, [(suffix, False)])
    closing = [token for token in tokens if token in chat_end + stops]
    end = (closing + [token for token in stops if token != tokenizer.eos_token_id] + stops)[0]
    if turn and turn.closing.strip() and not closing:
        problem = f"the chat template ends an answer with {suffix!r}, which is not an end token of this model"
        token = tokenizer.convert_ids_to_tokens(end)
        warnings.warn(f"{problem}; answers will end with {token!r} unless model.end_token is set", stacklevel=4)
    return end


def token_texts(tokenizer: PreTrainedTokenizerBase, ids: Iterable[int]) -> list[str]:
    """Return the texts of those ids that are special or added tokens."""
    added = tokenizer.added_tokens_decoder
    return [added[token].content for token in ids if token in added]


def _single_token(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    if text in vocabulary:
        return vocabulary[text]
    (ids,) = token_ids(tokenizer, [(text, False)])
    if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
        pieces = " ".join(map(str, tokenizer.convert_ids_to_tokens(ids))) or "nothing"
        raise InputError(f"model.end_token: {text!r} must be one token of this model, but is split into {pieces}")
    return ids[0]


def _prompt_text(example: Example, tokenizer: PreTrainedTokenizerBase, turn: Turn) -> tuple[str, bool, str]:
    """Return `text`, `special` and `gap` of a `_Prompt`."""
    if isinstance(example.prompt, str):
        return example.prompt, True, ""
    if not tokenizer.chat_template:
        return dialogue_text(mark_tokens(example.prompt, turn.frame)), True, " "
    refusal = f"{example.at}: the chat template rejects the prompt"
    return prompt_text(tokenizer, example.prompt, turn, refusal), False, turn.gap


def _cleaned(example: Example, prompt: str, ends: Sequence[str]) -> Example:
    """Remove end tokens after the answers, and a tag at their start if the chat prompt already ends with it."""
    opened = None if isinstance(example.prompt, str) else _OPENED.search(prompt)

    def answer(text: str) -> str:
        text = strip_end_tokens(text, ends)
        if opened and text.lstrip().startswith(opened[1]):
            text = text.lstrip().removeprefix(opened[0]).removeprefix(opened[1])
        return text

    original = example.reference, example.rejected
    reference, rejected = answer(example.reference), example.rejected and answer(example.rejected)
    return example if (reference, rejected) == original else replace(example, reference=reference, rejected=rejected)


def _check_shown(examples: Iterable[Example], shown: Callable[[Example], str]) -> None:
    """Check that the chat template renders each kind of message, on the first example that has it.

    Args:
        examples: any number.
        shown: renders the prompt of an example.

    Raises:
        InputError: if changing the message does not change the rendered prompt.
    """
    firsts: dict[str, tuple[Example, list[Message], int]] = {}
    for example in examples:
        messages = [] if isinstance(example.prompt, str) else [*example.prompt]
        for index, message in enumerate(messages):
            kind = "tool calls" if "tool_calls" in message else f"messages of the role {message['role']}"
            firsts.setdefault(kind, (example, messages, index))
    firsts.pop("messages of the role assistant", None)  # templates drop earlier thoughts on purpose
    for kind, (example, messages, index) in firsts.items():
        other = dict(messages[index])
        if calls := other.get("tool_calls"):
            other["tool_calls"] = [{**calls[0], "function": {**calls[0]["function"], "name": "another"}}, *calls[1:]]
        else:
            other["content"] += "."
        if shown(replace(example, prompt=[*messages[:index], other, *messages[index + 1 :]])) == shown(example):
            remedy = "remove them from the data, or choose a model whose template shows them"
            raise InputError(f"{example.at}: the chat template omits {kind}; {remedy}")


def _answers(
    tokenizer: PreTrainedTokenizerBase, end_id: int, turn: Turn, pairs: Sequence[tuple[_Prompt, str]]
) -> list[tuple[str, tuple[int, ...]]]:
    """Return each answer as text that continues its prompt, and as ids that end with the end token."""
    if conflicts := [(prompt.example.at, end) for prompt, answer in pairs for end in turn.stops if end in answer]:
        where, end = conflicts[0]
        warnings.warn(f"{where}: an answer contains the end token {end!r}; it is encoded as plain text", stacklevel=3)
    texts = [
        mark_tokens(answer if answer[:1].isspace() else prompt.gap + answer, _never_in(answer, prompt, turn))
        for prompt, answer in pairs
    ]
    joint = token_ids(tokenizer, [(p.text + text, p.special) for (p, _), text in zip(pairs, texts, strict=True)])
    answers = []
    for (prompt, _), text, ids in zip(pairs, texts, joint, strict=True):
        prefixed = ids[: len(prompt.ids)] == prompt.ids
        answer = ids[len(prompt.ids) :] if prefixed else _separate_answer(tokenizer, prompt.ids, text)
        for name, tokens in (("prompt", prompt.ids), ("reference", answer)):
            if not tokens:
                raise InputError(f"{prompt.example.at}: the {name} has no tokens in this tokenizer; remove the row")
        answers.append((unmark_tokens(text), tuple(answer if answer[-1] == end_id else [*answer, end_id])))
    return answers


def _never_in(answer: str, prompt: _Prompt, turn: Turn) -> Sequence[str]:
    """Return the tokens that stay text in an answer: stops and, in a chat answer without thoughts, `turn.frame`."""
    ordinary = not (isinstance(prompt.example.prompt, str) or (turn.thoughts and turn.thoughts in answer))
    return (*turn.stops, *turn.frame) if ordinary else turn.stops


def _separate_answer(tokenizer: PreTrainedTokenizerBase, prompt_ids: list[int], answer: str) -> list[int]:
    """Encode an answer whose first characters would merge with the prompt's last token.

    The answer is encoded alone or, if that adds a space, after a line break whose tokens are then removed.
    """
    alone, line_break, after = token_ids(tokenizer, [(text, False) for text in (answer, "\n", f"\n{answer}")])
    if after[: len(line_break)] != line_break:
        return alone
    unchanged = decode_completion(tokenizer, prompt_ids, alone) == unmark_tokens(answer)
    return alone if unchanged else after[len(line_break) :]


def _cut_left(tokenizer: PreTrainedTokenizerBase, prompt: _Prompt, length: int) -> tuple[str, tuple[int, ...]]:
    """Truncate a prompt on the left, keeping BOS; return its text and ids."""
    ids = prompt.ids
    if len(ids) <= length:
        return unmark_tokens(prompt.text), tuple(ids)
    starts_with_bos = ids[0] == tokenizer.bos_token_id and length > 1
    ids = [ids[0], *ids[len(ids) - length + 1 :]] if starts_with_bos else ids[-length:]
    return _decode(tokenizer, ids, skip_special=prompt.special), tuple(ids)


def _decode(tokenizer: PreTrainedTokenizerBase, ids: Iterable[int], skip_special: bool = True) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=skip_special, clean_up_tokenization_spaces=False))
