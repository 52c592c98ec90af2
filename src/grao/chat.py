"""Chat messages as text: the dialogue of a model without chat template, and prompt and answer as one conversation.

A conversation is what a reward model is trained on and asked about; only the whole counts. `grao.data.encoding` renders
prompts for a model that continues them, and has to know where the answer begins.
"""

import json
from collections.abc import Iterable, Sequence

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from grao.errors import InputError
from grao.types import Message, Prompt

OPEN_TURN = "\n\nAssistant:"
"""Where the answer of a dialogue in plain text begins."""

_SPEAKERS = {"user": "Human", "assistant": "Assistant"}


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


def conversation_ids(
    tokenizer: PreTrainedTokenizerBase, prompts: Iterable[Prompt], answers: Iterable[str]
) -> list[list[int]]:
    """Token ids of each prompt with its answer.

    Messages go through the chat template, with the answer as the assistant's turn. A text, or messages where there is
    no template, is followed by the answer and closed with EOS.

    Raises:
        InputError: if the chat template refuses a conversation.
    """
    return [_conversation(tokenizer, prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]


def _conversation(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, answer: str) -> list[int]:
    ids: list[int]
    if not isinstance(prompt, str):
        if tokenizer.chat_template:
            messages = [*map(dict, prompt), {"role": "assistant", "content": answer}]
            try:
                text = tokenizer.apply_chat_template(messages, tokenize=False)
            except TemplateError as error:
                raise InputError(f"reward model: its chat template refuses a conversation: {error}") from error
            ids = tokenizer(str(text), add_special_tokens=False, verbose=False)["input_ids"]
            return ids
        prompt, answer = dialogue_text(prompt), answer if answer[:1].isspace() else f" {answer}"
    ids, eos = tokenizer(prompt + answer, verbose=False)["input_ids"], tokenizer.eos_token_id
    return ids if eos is None or ids[-1:] == [eos] else [*ids, eos]
