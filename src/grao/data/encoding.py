"""Examples into token ids, sampled token ids back into text, and the token that closes an answer.

A chat prompt goes through the tokenizer's chat template (`grao.chat`); without one it becomes a dialogue in plain text
(`dialogue_text`) that the answer continues after a space. Text prompts get the tokenizer's special tokens (BOS once),
but no closing one. Answers are tokenised as what follows the prompt, so that the model is trained on the very ids that
it would sample. Tokens that end an answer count as such behind it, written out or not; anywhere else they are text.
"""

import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from transformers import PreTrainedTokenizerBase

from grao.chat import Turn, dialogue_text, guarded, prompt_text, token_ids, turn_of, unmarked, without_end, written_out
from grao.errors import InputError
from grao.types import Encoded, Example, Message

_PROBED = 16
"""Prompts by which it is told whether all have gone through the chat template before."""
_CONTEXT = 8
"""Prompt tokens that `decode_completion` looks at."""
_OPENED = re.compile(r"(<\w+>|\[\w+\])\s*$")
"""The block that a prompt leaves open."""
_SHOWN = 40
"""Characters of a prompt's end that are shown."""


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
    """Marked as `grao.chat.guarded` does."""
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
    turn: Turn | None = None,
) -> EncodedSet:
    """Token ids of prompts and references.

    Args:
        examples: any number.
        tokenizer: the model's.
        end_id: closes each reference (`end_token_id`).
        max_prompt_tokens: longest prompt, its special tokens included.
        long_prompts: `drop` leaves longer ones out, `truncate` cuts them on the left and keeps BOS.
        with_rejected: the rejected answers are wanted too.
        turn: how answers stand in chats (`settled_turn`); by default prompts end as the template ends them.

    Returns:
        Examples without the end tokens that are written out behind their answers.

    Raises:
        InputError: if the chat template refuses a prompt, a prompt or reference has no tokens, or all prompts are
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
    worse = [(i, answer) for i, p in enumerate(prompts) if with_rejected and (answer := p.example.rejected)]
    rejected = _answers(tokenizer, end_id, turn, [(prompts[i], answer) for i, answer in worse])
    rejected_ids = {i: answer_ids for (i, _), (_, answer_ids) in zip(worse, rejected, strict=True)}
    items = [
        Encoded(prompt.example, *_cut_left(tokenizer, prompt, max_prompt_tokens), *reference, rejected_ids.get(i, ()))
        for i, (prompt, reference) in enumerate(zip(prompts, references, strict=True))
    ]
    truncated = sum(len(prompt.ids) > max_prompt_tokens for prompt in prompts)
    return EncodedSet(items, dropped=len(examples) - len(prompts), truncated=truncated)


def settled_turn(tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example], taught: bool) -> Turn:
    """How answers stand in the chats of a run, once the references are known; says what a user would not expect.

    Where the template opens a block for thoughts and the references, which are taught, hold none, prompts end as the
    template itself ends them before an answer without thoughts.

    Args:
        tokenizer: the policy's.
        examples: to train on.
        taught: whether the method takes the references into its update.

    Raises:
        InputError: if some references hold thoughts and others none.
    """
    chats = [example for example in examples if not isinstance(example.prompt, str)]
    if not chats:
        if tokenizer.chat_template and not all(written_out(tokenizer, str(each.prompt)) for each in examples[:_PROBED]):
            problem = "prompts are plain text, and the model has a chat template, which they do not go through"
            warnings.warn(f"{problem}; if it was taught to chat, set data.chat: true", stacklevel=2)
        return Turn()
    turn = turn_of(tokenizer, chats[0].prompt)  # type: ignore[arg-type]
    without = [each.row for each in chats if not turn.thoughts or turn.thoughts not in each.reference]
    if not taught or not without or not turn.coming + turn.given:
        return open_turn(turn)
    if turn.optional:
        if len(without) == len(chats):
            problem = (
                f"the chat template has {turn.given!r} before an answer without thoughts, references are taught without"
            )
            warnings.warn(f"{problem}: see model.chat_template_kwargs (mostly enable_thinking: false)", stacklevel=2)
        return open_turn(turn)
    block = f"the chat template opens a block for thoughts, which {turn.thoughts!r} ends, before an answer"
    if len(without) < len(chats):
        remedy = "give thoughts to every reference or to none"
        raise InputError(f"row {without[0]}: the reference holds no {turn.thoughts!r}, others do; {block}; {remedy}")
    end = f"{turn.given!r} in place of {turn.coming!r}" if turn.coming else repr(turn.given)
    silent = f"{block}, and the references hold none: prompts end with {end}"
    warnings.warn(f"{silent}, as the template has it before an answer without thoughts", stacklevel=2)
    return turn


def open_turn(turn: Turn) -> Turn:
    """The same for prompts that stay as the template opens them."""
    return replace(turn, coming="", given="")


def answer_words(tokenizer: PreTrainedTokenizerBase, item: Encoded, stop_ids: Sequence[int]) -> str:
    """One line: what a prompt ends with, what closes its answer, and which other tokens stop it."""
    end = item.reference_ids[-1]
    others = [repr(tokenizer.convert_ids_to_tokens(token)) for token in stop_ids if token != end]
    more = f"; {' and '.join(others)} stop{'s' if len(others) == 1 else ''} sampling too" if others else ""
    closing, dialogue = repr(tokenizer.convert_ids_to_tokens(end)), not isinstance(item.example.prompt, str)
    start = (
        "no chat template, messages are a dialogue in plain text: " if dialogue and not tokenizer.chat_template else ""
    )
    return f"{start}answers begin behind {item.prompt_text[-_SHOWN:]!r} and end with {closing}{more}"


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


def end_token_id(
    tokenizer: PreTrainedTokenizerBase,
    generation_eos: Sequence[int],
    override: str | None = None,
    turn: Turn | None = None,
) -> int:
    """The token that closes a reference: the one the model itself stops at, or the reference teaches another.

    The first of these that exists:

    1. `override`, the text of one token;
    2. the first stop token, or where prompts are chats special token, that follows the answer in the chat template;
    3. a stop token other than the tokenizer's EOS: only a model that stops at another one lists it;
    4. the first stop token;
    5. the tokenizer's EOS.

    Args:
        tokenizer: the model's.
        generation_eos: stop tokens of the generation config; if there are none, the tokenizer's EOS is one.
        override: the recipe's `model.end_token`.
        turn: how answers stand in chats; None or empty if prompts are texts.

    Raises:
        InputError: if `override` is not exactly one token, or nothing names a token.
    """
    if override is not None:
        return _single_token(tokenizer, override)
    own = [tokenizer.convert_tokens_to_ids(turn.end)] if turn and turn.end else []
    stops = [token for token in list(generation_eos) or [tokenizer.eos_token_id] if token is not None]
    if not own + stops:
        raise InputError("model.end_token: neither the model nor its tokenizer names an end token; set it")
    behind = turn.closing if turn and turn.closing else turn_of(tokenizer).closing
    (tokens,) = token_ids(tokenizer, [(behind, False)])
    closing = [token for token in tokens if token in own + stops]
    end = (closing + [token for token in stops if token != tokenizer.eos_token_id] + stops)[0]
    if turn and turn.closing.strip() and not closing:
        problem = f"the chat template ends an answer with {behind!r}, which is no end token of this model"
        said = tokenizer.convert_ids_to_tokens(end)
        warnings.warn(f"{problem}: answers end with {said!r}; model.end_token sets another", stacklevel=4)
    return end


def token_texts(tokenizer: PreTrainedTokenizerBase, ids: Iterable[int]) -> list[str]:
    """How special and added tokens are written; other tokens are ordinary text."""
    added = tokenizer.added_tokens_decoder
    return [added[token].content for token in ids if token in added]


def _single_token(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    if text in vocabulary:
        return vocabulary[text]
    (ids,) = token_ids(tokenizer, [(text, False)])
    if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
        pieces = " ".join(map(str, tokenizer.convert_ids_to_tokens(ids))) or "nothing"
        raise InputError(f"model.end_token: {text!r} must be one token of this model, but it reads {pieces}")
    return ids[0]


def _prompt_text(example: Example, tokenizer: PreTrainedTokenizerBase, turn: Turn) -> tuple[str, bool, str]:
    """`text`, `special` and `gap` of a `_Prompt`."""
    if isinstance(example.prompt, str):
        return example.prompt, True, ""
    if not tokenizer.chat_template:
        return dialogue_text(guarded(example.prompt, turn.frame)), True, " "
    refusal = f"row {example.row}: the chat template refuses the prompt"
    return prompt_text(tokenizer, example.prompt, turn, refusal), False, turn.gap


def _cleaned(example: Example, prompt: str, ends: Sequence[str]) -> Example:
    """Without end tokens behind its answers, and without a tag before them that a chat prompt has opened already."""
    opened = None if isinstance(example.prompt, str) else _OPENED.search(prompt)

    def answer(text: str) -> str:
        text = without_end(text, ends)
        if opened and text.lstrip().startswith(opened[1]):
            text = text.lstrip().removeprefix(opened[0]).removeprefix(opened[1])
        return text

    given = example.reference, example.rejected
    changed = answer(example.reference), example.rejected and answer(example.rejected)
    return example if changed == given else replace(example, reference=changed[0], rejected=changed[1])


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
    tokenizer: PreTrainedTokenizerBase, end_id: int, turn: Turn, pairs: Sequence[tuple[_Prompt, str]]
) -> list[tuple[str, tuple[int, ...]]]:
    """Each answer as text that continues its prompt, and as ids closed with the end token."""
    if held := [(prompt.example.row, end) for prompt, answer in pairs for end in turn.stops if end in answer]:
        row, end = held[0]
        warnings.warn(f"row {row}: an answer holds {end!r}, which ends answers; it is read as plain text", stacklevel=3)
    texts = [
        guarded(answer if answer[:1].isspace() else prompt.gap + answer, _never_in(answer, prompt, turn))
        for prompt, answer in pairs
    ]
    joint = token_ids(tokenizer, [(p.text + text, p.special) for (p, _), text in zip(pairs, texts, strict=True)])
    answers = []
    for (prompt, _), text, ids in zip(pairs, texts, joint, strict=True):
        prefixed = ids[: len(prompt.ids)] == prompt.ids
        answer = ids[len(prompt.ids) :] if prefixed else _separate_answer(tokenizer, prompt.ids, text)
        for name, tokens in (("prompt", prompt.ids), ("reference", answer)):
            if not tokens:
                raise InputError(f"row {prompt.example.row}: the tokenizer gives the {name} no tokens")
        answers.append((unmarked(text), tuple(answer if answer[-1] == end_id else [*answer, end_id])))
    return answers


def _never_in(answer: str, prompt: _Prompt, turn: Turn) -> Sequence[str]:
    """Tokens that an answer cannot hold: those that end it and, unless it has its thoughts in it, those of a turn."""
    ordinary = not (isinstance(prompt.example.prompt, str) or (turn.thoughts and turn.thoughts in answer))
    return (*turn.stops, *turn.frame) if ordinary else turn.stops


def _separate_answer(tokenizer: PreTrainedTokenizerBase, prompt_ids: list[int], answer: str) -> list[int]:
    """Ids of an answer whose first letters merge with the prompt's last token when both are tokenised together.

    Tokenised alone, or, where that adds a space of its own, after a line break that is taken off again.
    """
    alone, line_break, after = token_ids(tokenizer, [(text, False) for text in (answer, "\n", f"\n{answer}")])
    if after[: len(line_break)] != line_break or decode_completion(tokenizer, prompt_ids, alone) == unmarked(answer):
        return alone
    return after[len(line_break) :]


def _cut_left(tokenizer: PreTrainedTokenizerBase, prompt: _Prompt, length: int) -> tuple[str, tuple[int, ...]]:
    """Text and ids of the last tokens of a prompt; BOS stays in front."""
    ids = prompt.ids
    if len(ids) <= length:
        return unmarked(prompt.text), tuple(ids)
    starts_with_bos = ids[0] == tokenizer.bos_token_id and length > 1
    ids = [ids[0], *ids[len(ids) - length + 1 :]] if starts_with_bos else ids[-length:]
    return _decode(tokenizer, ids, skip_special=prompt.special), tuple(ids)


def _decode(tokenizer: PreTrainedTokenizerBase, ids: Iterable[int], skip_special: bool = True) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=skip_special, clean_up_tokenization_spaces=False))
