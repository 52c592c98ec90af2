"""Chat rendering and tokenisation, shared by policy, judge and reward model.

How a turn opens and ends is learned from the chat template itself (`turn_of`): a question is rendered once with a
generation prompt and once with an answer, and the two texts are compared.

Data must not inject control tokens. Text in messages and answers that looks like a token of the template is marked
(`mark_tokens`) and tokenised as plain text (`token_ids`). A prompt given as one text may already be rendered, so it is
tokenised unchanged.
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
"""Start of an answer in a plain-text dialogue."""

_SPEAKERS = {"user": "Human", "assistant": "Assistant"}
_QUESTION = ({"role": "user", "content": "A question."},)
_ANSWER = "An answer, word for word."
_MARK = "\ufdd0"
"""Encloses text that looks like a special token but is none. A Unicode noncharacter, for internal use only."""
_TAG = re.compile(r"([<\[])(/?)(\w+)([>\]])")
_EMPTY_BLOCK = re.compile(r"\s*([<\[])(\w+)([>\]])\s*\1/\2\3\s*")
_GIVEN_ANYWAY = ("messages", "tools", "documents", "add_generation_prompt")
"""Arguments that every template receives."""
_CHUNK = 1000
"""Texts per tokenizer call; bounds the memory of the tokenizer's offsets."""


@dataclass(frozen=True)
class Turn:
    """How a chat template frames an answer."""

    coming: str = ""
    """End of the generation prompt, as far as it differs from the text before an existing answer (`given`)."""
    given: str = ""
    """Text before an existing answer; replaces `coming` in prompts whose answers contain no thoughts."""
    thoughts: str = ""
    """Marker found in every answer that contains its own thoughts; empty if unknown."""
    gap: str = ""
    """White space to put before an answer that does not start with any."""
    closing: str = ""
    """Text after an answer."""
    end: str = ""
    """The special token in `closing` that ends the turn, if any."""
    frame: tuple[str, ...] = ()
    """Special tokens of the template. Text in the data is never tokenised as one of them."""
    stops: tuple[str, ...] = ()
    """Tokens that end an answer, as text."""
    shows: bool = True
    """Whether the template renders answers verbatim."""

    @property
    def optional(self) -> bool:
        """Whether the model itself decides to open a block of thoughts, which is empty in existing answers."""
        return not self.coming and _EMPTY_BLOCK.fullmatch(self.given) is not None


def dialogue_text(messages: Sequence[Message]) -> str:
    """Render messages as a plain-text dialogue in the style of Anthropic HH, ending with an open `Assistant:` turn.

    Roles other than user and assistant keep their capitalised name: `\\n\\nSystem: ...`.
    """
    turns = (f"\n\n{_SPEAKERS.get(m['role'], m['role'].capitalize())}: {turn_text(m)}" for m in messages)
    return "".join(turns) + OPEN_TURN


def turn_text(message: Message) -> str:
    """Return a message as plain text, with each tool call on a line of its own: `weather({"city": "Oslo"})`."""
    functions = [call["function"] for call in message.get("tool_calls", ())]
    calls = [f"{function['name']}({json.dumps(function['arguments'], ensure_ascii=False)})" for function in functions]
    return "\n".join([message["content"]] * bool(message["content"] or not calls) + calls)


def turn_of(tokenizer: PreTrainedTokenizerBase, question: Sequence[Message] = _QUESTION) -> Turn:
    """Find out how the chat template frames an answer to `question`.

    Without a template, the frame is that of a plain-text dialogue. If the template rejects the question or changes the
    answer, only BOS and EOS are known.
    """
    ends = {token for token in (tokenizer.bos_token, tokenizer.eos_token) if token}
    if not tokenizer.chat_template:
        return Turn(gap=" ", frame=tuple(ends))
    try:
        coming = _rendered(tokenizer, question, "", add_generation_prompt=True)
        with_answer = _rendered(tokenizer, [*question, {"role": "assistant", "content": _ANSWER}], "")
    except InputError:
        return Turn(frame=tuple(ends))
    given, answer, closing = with_answer.rpartition(_ANSWER)
    if not answer:
        return Turn(frame=tuple(ends), shows=False)
    special = {token.content: token.special for token in tokenizer.added_tokens_decoder.values()}
    added = _any_of([token for token in special if not token.isspace()])
    opener = added.findall(given)[-1:]
    end = next((token for token in added.findall(closing) if token not in opener), "")
    shared = os.path.commonprefix([coming, given])  # noqa: RUF071, compares characters, not path components
    frame = ends.union(token for token in added.findall(shared + closing) if special[token])
    turn = Turn(closing=closing, end=end, frame=tuple(frame))
    coming, given = coming[len(shared) :], given[len(shared) :]
    if not (coming + given).strip():
        return replace(turn, gap="" if coming else given)
    if [slash for _, slash, _, _ in _TAG.findall(coming)][-1:] == ["/"]:
        return turn  # the generation prompt closes its block itself
    tags = _TAG.findall(coming + given)
    thoughts = "{0}/{2}{3}".format(*tags[-1]) if tags else given.strip()
    return replace(turn, coming=coming, given=given, thoughts=thoughts) if thoughts else turn


def is_rendered(tokenizer: PreTrainedTokenizerBase, prompt: str) -> bool:
    """Whether a plain-text prompt ends with the generation prompt of the chat template, so is already rendered."""
    try:
        text = _rendered(tokenizer, [{"role": "user", "content": _ANSWER}], "", add_generation_prompt=True)
    except InputError:
        return False
    opening = text.rpartition(_ANSWER)[2].strip()
    return bool(opening) and prompt.rstrip().endswith(opening)


def prompt_text(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], turn: Turn, refusal: str) -> str:
    """Render messages with the chat template, up to the start of the answer.

    Args:
        tokenizer: a tokenizer with a chat template.
        messages: messages of the prompt.
        turn: `turn_of` the template.
        refusal: start of the error message if the template rejects the messages.

    Returns:
        The text, with the marks of `mark_tokens`; pass it to `token_ids`.

    Raises:
        InputError: if the template raises an error.
    """
    text = _rendered(tokenizer, mark_tokens(messages, turn.frame), refusal, add_generation_prompt=True)
    return text.removesuffix(turn.coming) + turn.given if text.endswith(turn.coming) else text


def mark_tokens(value: Any, tokens: Collection[str]) -> Any:
    """Mark everything in a text, or in all texts of messages, that looks like one of `tokens`."""
    if isinstance(value, str):
        return _any_of(tokens).sub(rf"{_MARK}\g<0>{_MARK}", unmark_tokens(value))
    if isinstance(value, Mapping):
        return {key: mark_tokens(item, tokens) for key, item in value.items()}
    return [mark_tokens(item, tokens) for item in value] if isinstance(value, list | tuple) else value


def unmark_tokens(text: str) -> str:
    """Remove the marks of `mark_tokens`."""
    return text.replace(_MARK, "")


def strip_end_tokens(text: str, ends: Collection[str]) -> str:
    """Strip end tokens that are written out at the end of a text, with the white space around them."""
    while last := next((end for end in ends if text.rstrip().endswith(end)), ""):
        text = text.rstrip().removesuffix(last).rstrip()
    return text


def token_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[tuple[str, bool]]) -> list[list[int]]:
    """Tokenise texts; text marked by `mark_tokens` becomes plain text.

    Args:
        tokenizer: the tokenizer.
        texts: pairs of a text and whether to add the tokenizer's special tokens. BOS is added only once, EOS never.

    Returns:
        Token ids of each text.
    """
    eos, bos = tokenizer.eos_token_id, tokenizer.bos_token_id
    plain, with_special = (_ids(tokenizer, ["a"], special)[0] for special in (False, True))
    adds_eos = with_special[-1:] == [eos] != plain[-1:]
    ids_by_flag = [iter(_ids(tokenizer, [text for text, flag in texts if flag == f], f)) for f in (False, True)]
    rows = []
    for text, special in texts:
        ids = next(ids_by_flag[special])
        if _MARK in text:
            first, *rest = text.split(_MARK)
            ids = token_ids(tokenizer, [(first, special)])[0] if first or special else []
            ids = ids + [id for number, part in enumerate(rest) for id in _piece_ids(tokenizer, part, number % 2 == 0)]
        elif special and adds_eos and ids[-1:] == [eos]:
            ids = ids[:-1]
        while special and bos is not None and ids[:2] == [bos, bos]:
            ids = ids[1:]
        rows.append(ids)
    return rows


def conversation_ids(
    tokenizer: PreTrainedTokenizerBase, prompts: Iterable[Prompt], answers: Iterable[str], sources: Sequence[str] = ()
) -> list[list[int]]:
    """Tokenise prompts together with their answers, for a reward model.

    Messages are rendered with the chat template, with the answer as the assistant's turn. Plain-text prompts, and
    messages if there is no template, are followed by the answer and EOS.

    Args:
        tokenizer: the reward model's tokenizer.
        prompts: N prompts.
        answers: N answers.
        sources: N names of the rows, for error messages; empty if unknown.

    Returns:
        Token ids of N conversations.

    Raises:
        InputError: if the chat template rejects a conversation or does not render answers.
    """
    turn, eos = turn_of(tokenizer), tokenizer.eos_token_id
    ends = [token for token in (turn.end, tokenizer.eos_token) if token]
    if not turn.shows:
        raise InputError("reward model: its chat template does not render answers, so all would score the same")
    texts = []
    for index, (prompt, text) in enumerate(zip(prompts, answers, strict=True)):
        answer = mark_tokens(strip_end_tokens(text, ends), turn.frame)
        if not isinstance(prompt, str) and tokenizer.chat_template:
            source = f"{sources[index]}: " if sources else ""
            refusal = f"reward model: {source}its chat template rejects a conversation"
            messages = [*mark_tokens(prompt, turn.frame), {"role": "assistant", "content": answer}]
            texts.append((_rendered(tokenizer, messages, refusal), False))
            continue
        if not isinstance(prompt, str):
            answer = answer if answer[:1].isspace() else f" {answer}"
            prompt = dialogue_text(mark_tokens(prompt, turn.frame))
        texts.append((prompt + answer, True))
    rows_of_ids = zip(token_ids(tokenizer, texts), texts, strict=True)
    return [
        [*ids, eos] if special and eos is not None and ids[-1:] != [eos] else ids for ids, (_, special) in rows_of_ids
    ]


def set_arguments(tokenizer: PreTrainedTokenizerBase, arguments: Mapping[str, Any], option: str) -> None:
    """Write arguments into the chat template as defaults, so that they are saved with the tokenizer.

    Args:
        tokenizer: its templates are changed in place.
        arguments: name -> plain value.
        option: name of the setting, for error messages.

    Raises:
        InputError: if no template uses an argument.
    """
    original = tokenizer.chat_template or ""
    templates: dict[str, str] = original if isinstance(original, dict) else {"": original}
    for name in arguments:
        used = name.isidentifier() and any(re.search(rf"\b{name}\b", template) for template in templates.values())
        if not used or name in _GIVEN_ANYWAY or name in tokenizer.special_tokens_map:
            problem = "the chat template takes no such argument" if original else "the model has no chat template"
            raise InputError(f"{option}.{name}: {problem}")
    default = "{{% if {0} is not defined %}}{{% set {0} = {1!r} %}}{{% endif %}}"
    if head := "".join(default.format(name, value) for name, value in arguments.items()):
        changed = {name: text if text.startswith(head) else f"{head}\n{text}" for name, text in templates.items()}
        tokenizer.chat_template = changed if isinstance(original, dict) else changed[""]


def _rendered(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], refusal: str, **options: Any) -> str:
    try:
        return str(tokenizer.apply_chat_template([dict(m) for m in messages], tokenize=False, **options))
    except Exception as error:  # templates are programs and may raise anything
        raise InputError(f"{refusal}: {one_line(error, 200)}") from error


def _any_of(tokens: Collection[str]) -> re.Pattern[str]:
    """Return a pattern that matches any of the tokens, longest first."""
    return re.compile("|".join(sorted(map(re.escape, tokens), key=len, reverse=True)) or "(?!)")


def _piece_ids(tokenizer: PreTrainedTokenizerBase, piece: str, plain: bool) -> list[int]:
    """Return ids of a text within a longer one: tokenised after a line break, since many tokenizers prepend a space."""
    options = {"add_special_tokens": False, "split_special_tokens": plain, "verbose": False}
    texts: list[list[int]] = tokenizer(["\n", f"\n{piece}", piece], **options)["input_ids"]
    line_break, ids, alone = texts
    return ids[len(line_break) :] if piece and ids[: len(line_break)] == line_break else alone


def _ids(tokenizer: PreTrainedTokenizerBase, texts: list[str], special: bool) -> list[list[int]]:
    """Return the token ids of texts, with or without special tokens."""
    options = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
    chunks = (texts[start : start + _CHUNK] for start in range(0, len(texts), _CHUNK))
    return [ids for chunk in chunks for ids in tokenizer(chunk, add_special_tokens=special, **options)["input_ids"]]
