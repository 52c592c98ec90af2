"""Prompt and answer as one text for a model that reads both: what a reward model is trained on and asked about.

Without a chat template messages become a dialogue in plain text, as Anthropic HH has it. `grao.data.encoding` does the
same for a model that goes on from the prompt, and must know where the answer begins; here only the whole counts.
"""

from collections.abc import Iterable, Mapping, Sequence

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from grao.errors import InputError

OPEN_TURN = "\n\nAssistant:"
"""Where the answer of a dialogue in plain text begins."""

_SPEAKERS = {"user": "Human", "assistant": "Assistant"}

Prompt = str | Sequence[Mapping[str, str]]
"""Text, or chat messages."""


def dialogue_text(messages: Sequence[Mapping[str, str]]) -> str:
    """Chat messages as a dialogue with an open `Assistant:` at its end: the prompt of a model without chat template.

    Roles other than user and assistant are named as they are, capitalised: `\\n\\nSystem: ...`.
    """
    turns = (f"\n\n{_SPEAKERS.get(m['role'], m['role'].capitalize())}: {m['content']}" for m in messages)
    return "".join(turns) + OPEN_TURN


def conversation_ids(
    tokenizer: PreTrainedTokenizerBase, prompts: Iterable[Prompt], answers: Iterable[str]
) -> list[list[int]]:
    """Token ids of each prompt with its answer.

    Messages go through the chat template, the answer as the assistant's. A text, or messages where there is no
    template, is followed by the answer and closed with EOS.

    Raises:
        InputError: if the chat template refuses a conversation.
    """
    return [_ids(tokenizer, prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]


def _ids(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, answer: str) -> list[int]:
    if not isinstance(prompt, str) and tokenizer.chat_template:
        return _tokenised(tokenizer, _templated(tokenizer, prompt, answer), special=False)
    if not isinstance(prompt, str):
        prompt, answer = dialogue_text(prompt), answer if answer[:1].isspace() else f" {answer}"
    ids, eos = _tokenised(tokenizer, prompt + answer, special=True), tokenizer.eos_token_id
    return ids if eos is None or ids[-1:] == [eos] else [*ids, eos]


def _templated(tokenizer: PreTrainedTokenizerBase, prompt: Sequence[Mapping[str, str]], answer: str) -> str:
    messages = [*(dict(message) for message in prompt), {"role": "assistant", "content": answer}]
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False))
    except TemplateError as error:
        raise InputError(f"reward model: its chat template refuses a conversation: {error}") from error


def _tokenised(tokenizer: PreTrainedTokenizerBase, text: str, special: bool) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]
    return ids
