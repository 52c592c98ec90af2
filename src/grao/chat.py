"""What a model is shown of a chat, and where its answers stand: decided here for policy, judge and reward model alike.

The template itself is asked: a question is rendered once with the answer to come and once with the answer given
(`turn_of`), and what differs between the two, and what follows the answer, tell how a turn opens and ends.

Text of the data is no control: what reads like a token that frames a turn is marked in messages and answers (`guarded`)
and read as plain text (`token_ids`). A prompt that is one text may have been rendered beforehand and is read as it is.
"""

import json
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from grao.errors import InputError, one_line
from grao.types import Message, Prompt

OPEN_TURN = "\n\nAssistant:"
"""Where the answer of a dialogue in plain text begins."""

_SPEAKERS = {"user": "Human", "assistant": "Assistant"}
_QUESTION = ({"role": "user", "content": "A question."},)
_ANSWER = "An answer, word for word."
_MARK = "\ufdd0"
"""On both sides of what is no special token although it reads like one; Unicode reserves it for inside a program."""
_TAG = re.compile(r"([<\[])(/?)(\w+)([>\]])")
_EMPTY_BLOCK = re.compile(r"\s*([<\[])(\w+)([>\]])\s*\1/\2\3\s*")
_GIVEN_ANYWAY = ("messages", "tools", "documents", "add_generation_prompt")
"""Arguments of every template."""
_CHUNK = 1000
"""Texts tokenised at once: bounds the memory that the tokenizer's offsets take."""


@dataclass(frozen=True)
class Turn:
    """How a model's answers stand in a chat."""

    coming: str = ""
    """What a prompt ends with while its answer is to come, where a given answer stands behind something else:"""
    given: str = ""
    """that; it takes the place of `coming` in a prompt whose answers have no thoughts."""
    thoughts: str = ""
    """What an answer with thoughts of its own holds; empty if nothing tells."""
    gap: str = ""
    """White space before an answer that has none."""
    closing: str = ""
    """What the template writes behind an answer."""
    end: str = ""
    """The special token in it that ends the turn, if there is one."""
    frame: tuple[str, ...] = ()
    """Special tokens that make up turns. Text of the data is never read as one of them."""
    stops: tuple[str, ...] = ()
    """Tokens that end an answer, as text."""
    shows: bool = True
    """Whether the template shows answers at all."""

    @property
    def optional(self) -> bool:
        """Whether a prompt leaves it to the model to open the block in which a given answer has no thoughts."""
        return not self.coming and _EMPTY_BLOCK.fullmatch(self.given) is not None


def dialogue_text(messages: Sequence[Message]) -> str:
    """Chat messages as a dialogue in the style of Anthropic HH, with an open `Assistant:` at its end.

    Roles other than user and assistant are named as they are, capitalised: `\\n\\nSystem: ...`.
    """
    turns = (f"\n\n{_SPEAKERS.get(m['role'], m['role'].capitalize())}: {turn_text(m)}" for m in messages)
    return "".join(turns) + OPEN_TURN


def turn_text(message: Message) -> str:
    """What a message says as plain text, each of its tool calls in a line like `weather({"city": "Oslo"})`."""
    functions = [call["function"] for call in message.get("tool_calls", ())]
    calls = [f"{function['name']}({json.dumps(function['arguments'], ensure_ascii=False)})" for function in functions]
    return "\n".join([message["content"]] * bool(message["content"] or not calls) + calls)


def turn_of(tokenizer: PreTrainedTokenizerBase, question: Sequence[Message] = _QUESTION) -> Turn:
    """How the chat template shows an answer to a question; without a template, how a dialogue in plain text does.

    Of a template that refuses the question or does not show the answer as it is, nothing is known but special tokens.
    """
    ends = {token for token in (tokenizer.bos_token, tokenizer.eos_token) if token}
    if not tokenizer.chat_template:
        return Turn(gap=" ", frame=tuple(ends))
    try:
        coming = _rendered(tokenizer, question, "", add_generation_prompt=True)
        whole = _rendered(tokenizer, [*question, {"role": "assistant", "content": _ANSWER}], "")
    except InputError:
        return Turn(frame=tuple(ends))
    given, shown, closing = whole.rpartition(_ANSWER)
    if not shown:
        return Turn(frame=tuple(ends), shows=False)
    special = {token.content: token.special for token in tokenizer.added_tokens_decoder.values()}
    added = _any_of([token for token in special if not token.isspace()])
    opener = added.findall(given)[-1:]
    end = next((token for token in added.findall(closing) if token not in opener), "")
    shared = os.path.commonprefix([coming, given])  # noqa: RUF071  (letter by letter)
    frame = ends.union(token for token in added.findall(shared + closing) if special[token])
    turn = Turn(closing=closing, end=end, frame=tuple(frame))
    coming, given = coming[len(shared) :], given[len(shared) :]
    if not (coming + given).strip():
        return replace(turn, gap="" if coming else given)
    if [slash for _, slash, _, _ in _TAG.findall(coming)][-1:] == ["/"]:
        return turn  # a prompt that closes its block itself
    tags = _TAG.findall(coming + given)
    thoughts = "{0}/{2}{3}".format(*tags[-1]) if tags else given.strip()
    return replace(turn, coming=coming, given=given, thoughts=thoughts) if thoughts else turn


def written_out(tokenizer: PreTrainedTokenizerBase, prompt: str) -> bool:
    """Whether a plain-text prompt ends as the chat template opens an answer: somebody has put it through before."""
    try:
        text = _rendered(tokenizer, [{"role": "user", "content": _ANSWER}], "", add_generation_prompt=True)
    except InputError:
        return False
    opening = text.rpartition(_ANSWER)[2].strip()
    return bool(opening) and prompt.rstrip().endswith(opening)


def prompt_text(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], turn: Turn, refusal: str) -> str:
    """Chat messages through the template, up to where the answer begins, marked for `token_ids`.

    Args:
        tokenizer: one with a chat template.
        messages: of a prompt.
        turn: of that template.
        refusal: begins the message if the template refuses.

    Raises:
        InputError: if the template raises.
    """
    text = _rendered(tokenizer, guarded(messages, turn.frame), refusal, add_generation_prompt=True)
    return text.removesuffix(turn.coming) + turn.given if text.endswith(turn.coming) else text


def guarded(value: Any, tokens: Collection[str]) -> Any:
    """A text, or all texts in messages, with marks around what reads like one of these tokens."""
    if isinstance(value, str):
        return _any_of(tokens).sub(rf"{_MARK}\g<0>{_MARK}", unmarked(value))
    if isinstance(value, Mapping):
        return {key: guarded(inside, tokens) for key, inside in value.items()}
    return [guarded(inside, tokens) for inside in value] if isinstance(value, list | tuple) else value


def unmarked(text: str) -> str:
    """The text without the marks of `guarded`."""
    return text.replace(_MARK, "")


def without_end(text: str, ends: Collection[str]) -> str:
    """The text without tokens that end an answer, where they are written out behind it, and the white space there."""
    while last := next((end for end in ends if text.rstrip().endswith(end)), ""):
        text = text.rstrip().removesuffix(last).rstrip()
    return text


def token_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[tuple[str, bool]]) -> list[list[int]]:
    """Ids of each text, with special tokens (but no closing EOS, and BOS once) where its flag says so."""
    eos, bos = tokenizer.eos_token_id, tokenizer.bos_token_id
    plain, closed = (_ids(tokenizer, ["a"], special)[0] for special in (False, True))
    closes = closed[-1:] == [eos] != plain[-1:]
    sides = [iter(_ids(tokenizer, [text for text, flag in texts if flag == side], side)) for side in (False, True)]
    rows = []
    for text, special in texts:
        ids = next(sides[special])
        if _MARK in text:
            first, *rest = text.split(_MARK)
            ids = token_ids(tokenizer, [(first, special)])[0] if first or special else []
            ids = ids + [id for number, part in enumerate(rest) for id in _piece_ids(tokenizer, part, number % 2 == 0)]
        elif special and closes and ids[-1:] == [eos]:
            ids = ids[:-1]
        while special and bos is not None and ids[:2] == [bos, bos]:
            ids = ids[1:]
        rows.append(ids)
    return rows


def conversation_ids(
    tokenizer: PreTrainedTokenizerBase, prompts: Iterable[Prompt], answers: Iterable[str], rows: Sequence[int] = ()
) -> list[list[int]]:
    """Token ids of each prompt with its answer.

    Messages go through the chat template, with the answer as the assistant's turn. A text, or messages where there is
    no template, is followed by the answer and closed with EOS.

    Args:
        tokenizer: of the model that reads.
        prompts: N.
        answers: N.
        rows: N, where the prompts come from, for the message; empty if that is not known.

    Raises:
        InputError: if the chat template refuses a conversation, or shows no answers.
    """
    turn, eos = turn_of(tokenizer), tokenizer.eos_token_id
    ends = [token for token in (turn.end, tokenizer.eos_token) if token]
    if not turn.shows:
        raise InputError("reward model: its chat template shows no answers, so all would score the same")
    texts = []
    for number, (prompt, given) in enumerate(zip(prompts, answers, strict=True)):
        answer = guarded(without_end(given, ends), turn.frame)
        if not isinstance(prompt, str) and tokenizer.chat_template:
            row = f"row {rows[number]}: " if rows else ""
            refusal = f"reward model: {row}its chat template refuses a conversation"
            messages = [*guarded(prompt, turn.frame), {"role": "assistant", "content": answer}]
            texts.append((_rendered(tokenizer, messages, refusal), False))
            continue
        if not isinstance(prompt, str):
            answer = answer if answer[:1].isspace() else f" {answer}"
            prompt = dialogue_text(guarded(prompt, turn.frame))
        texts.append((prompt + answer, True))
    closed = zip(token_ids(tokenizer, texts), texts, strict=True)
    return [[*ids, eos] if special and eos is not None and ids[-1:] != [eos] else ids for ids, (_, special) in closed]


def set_arguments(tokenizer: PreTrainedTokenizerBase, arguments: Mapping[str, Any], option: str) -> None:
    """Gives the chat template its arguments, as defaults that are saved with it: who loads it later is shown the same.

    Args:
        tokenizer: its templates are changed.
        arguments: name -> plain value.
        option: that set them, for the message.

    Raises:
        InputError: for an argument that no template takes.
    """
    given = tokenizer.chat_template or ""
    templates: dict[str, str] = given if isinstance(given, dict) else {"": given}
    for name in arguments:
        known = name.isidentifier() and any(re.search(rf"\b{name}\b", template) for template in templates.values())
        if not known or name in _GIVEN_ANYWAY or name in tokenizer.special_tokens_map:
            problem = "the chat template takes no such argument" if given else "the model has no chat template"
            raise InputError(f"{option}.{name}: {problem}")
    default = "{{% if {0} is not defined %}}{{% set {0} = {1!r} %}}{{% endif %}}"
    if head := "".join(default.format(name, value) for name, value in arguments.items()):
        changed = {name: text if text.startswith(head) else f"{head}\n{text}" for name, text in templates.items()}
        tokenizer.chat_template = changed if isinstance(given, dict) else changed[""]


def _rendered(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], refusal: str, **options: Any) -> str:
    try:
        return str(tokenizer.apply_chat_template([dict(m) for m in messages], tokenize=False, **options))
    except Exception as error:  # a template is a program, and fails in as many ways
        raise InputError(f"{refusal}: {one_line(error, 200)}") from error


def _any_of(tokens: Collection[str]) -> re.Pattern[str]:
    """Finds any of the tokens, the longest first."""
    return re.compile("|".join(sorted(map(re.escape, tokens), key=len, reverse=True)) or "(?!)")


def _piece_ids(tokenizer: PreTrainedTokenizerBase, piece: str, plain: bool) -> list[int]:
    """Ids of a piece from inside a text: behind a line break, since many tokenizers begin a text with a space."""
    options = {"add_special_tokens": False, "split_special_tokens": plain, "verbose": False}
    texts: list[list[int]] = tokenizer(["\n", f"\n{piece}", piece], **options)["input_ids"]
    line_break, ids, alone = texts
    return ids[len(line_break) :] if piece and ids[: len(line_break)] == line_break else alone


def _ids(tokenizer: PreTrainedTokenizerBase, texts: list[str], special: bool) -> list[list[int]]:
    """Ids of texts, with or without special tokens."""
    options = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
    chunks = (texts[start : start + _CHUNK] for start in range(0, len(texts), _CHUNK))
    return [ids for chunk in chunks for ids in tokenizer(chunk, add_special_tokens=special, **options)["input_ids"]]
