"""`grao chat`: talk to one model or two side by side, with the prompts and end tokens of training.

A model with a chat template sees the whole conversation; otherwise every line is a separate prompt.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from grao.chat import turn_of
from grao.data.encoding import encode_examples, end_token_id, open_turn
from grao.engine.limits import padding_id
from grao.engine.loading import load_model, load_tokenizer, stop_token_ids
from grao.groups import sample_groups
from grao.rollouts.base import Sampling, draw_key
from grao.rollouts.transformers import TransformersGenerator
from grao.types import Example, Message
from grao.visible import visible

BEFORE = "before"
"""Stands for the start model of a run, instead of a path."""
_LONGEST = 1 << 20
"""Token limit of prompts, so large that none is truncated."""


@dataclass
class Speaker:
    """A model to talk to.

    Args:
        path: model or adapter folder, folder of a run, or hub id.
        name: label of its answers.
        sampling: sampling settings; `samples` must be 1.
        seed: seed of the sampling.
        trust_remote_code: run Python code of the checkpoint.

    Raises:
        InputError: if there is no such model.
    """

    path: str
    name: str
    sampling: Sampling
    seed: int = 0
    trust_remote_code: bool = False
    conversation: list[Message] = field(default_factory=list)
    """Messages so far; always empty without a chat template."""

    def __post_init__(self) -> None:
        model = load_model(self.path, dtype="auto", trust_remote_code=self.trust_remote_code)
        self.tokenizer = load_tokenizer(self.path, self.trust_remote_code)
        self._stops = stop_token_ids(model, self.tokenizer)
        self._turn = open_turn(turn_of(self.tokenizer)) if self.tokenizer.chat_template else None
        self._generator = TransformersGenerator(model, self._stops, padding_id(self.tokenizer, model), 1)
        self._turns = 0

    def answer(self, line: str) -> str:
        """Return the answer to a line."""
        messages = [*self.conversation, {"role": "user", "content": line}]
        example = Example(messages if self._turn else line, "a", None, {}, 1)
        end = end_token_id(self.tokenizer, self._stops, None, self._turn)
        (item,) = encode_examples([example], self.tokenizer, end, _LONGEST, "drop", turn=self._turn).items
        key = draw_key(self.seed, "chat", self._turns)
        self._turns += 1
        (group,) = sample_groups([item], [key], self._generator, self.sampling, self.tokenizer)
        (sample,) = group.samples
        text = sample.text.strip()
        if self._turn:
            self.conversation = [*messages, {"role": "assistant", "content": text}]
        return text + (" [...]" if sample.truncated else "")


def talk(speakers: list[Speaker], lines: Iterator[str], say: Callable[[str], None]) -> None:
    """Answer all lines; `/new` starts a new conversation.

    Args:
        speakers: one model, or two side by side.
        lines: lines of the user.
        say: shows a line.
    """
    for line in lines:
        if line == "/new":
            for speaker in speakers:
                speaker.conversation = []
        elif line:
            for speaker in speakers:
                say(f"{speaker.name}: {visible(speaker.answer(line))}")


def typed_lines() -> Iterator[str]:
    """Yield lines from the keyboard or a pipe, until the end of the input or `/quit`."""
    while True:
        try:
            line = input("> ") if sys.stdin.isatty() else next(sys.stdin)
        except (EOFError, StopIteration):
            return
        if line.strip() == "/quit":
            return
        yield line.strip()
