"""What the benchmarks share: a model and a tokenizer made on the spot, resident memory, and sides that take turns."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from typing import Any

PAD, END = 0, 1


def tokenizer():
    """A tokenizer of numbers, one token a word."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<pad>": PAD, "<end>": END, "<unk>": 2} | {f"w{index}": index for index in range(3, 1000)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<end>", unk_token="<unk>")


def text(ids: Sequence[int]) -> str:
    """What the tokenizer turns back into these ids."""
    return " ".join(f"w{index}" for index in ids)


def random_model(hidden: int, layers: int, vocabulary: int, **shape: Any):
    """A random Qwen2 with seed 0: eight heads and four times as wide inside, where `shape` does not say otherwise."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    usual = {"intermediate_size": 4 * hidden, "num_attention_heads": 8, "num_key_value_heads": 2}
    config = Qwen2Config(
        vocab_size=vocabulary, hidden_size=hidden, num_hidden_layers=layers, eos_token_id=END, pad_token_id=PAD,
        bos_token_id=None, **{"max_position_embeddings": 2048, **usual, **shape},
    )  # fmt: skip
    return Qwen2ForCausalLM(config)


def resident(peak: bool) -> float:
    """MiB resident now, or at most since the last call of `forget_peak`."""
    field = "VmHWM" if peak else "VmRSS"
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def forget_peak() -> None:
    """Starts a new measurement of the peak."""
    Path("/proc/self/clear_refs").write_text("5")


class Side:
    """A side's end of `take_turns`. What libraries print goes to standard error from here on."""

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def turns(self) -> Iterator[int]:
        """Says that it is ready, then waits for the number of its next turn until there is none."""
        print("ready", file=self._answers, flush=True)
        yield from map(int, sys.stdin)

    def answer(self, seen: Mapping[str, Any]) -> None:
        """What a turn showed."""
        print(json.dumps(seen), file=self._answers, flush=True)


def take_turns(commands: Mapping[str, Sequence[str]], turns: int) -> dict[str, list[dict[str, Any]]]:
    """Starts a process for each side, lets them take their turns one after the other, and collects their answers.

    Args:
        commands: name of a side -> arguments of the interpreter, for a program that uses `Side`.
        turns: of each side.

    Raises:
        SystemExit: if a side ends early, with the end of what it said.
    """
    environment = {"GOMP_SPINCOUNT": "1000", **os.environ, "HF_HUB_OFFLINE": "1"}
    seen: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
    with ExitStack() as stack:
        said = {name: stack.enter_context(tempfile.TemporaryFile("w+")) for name in commands}
        sides = {
            name: stack.enter_context(
                subprocess.Popen(
                    [sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said[name],
                    text=True, env=environment,
                )
            )
            for name, arguments in commands.items()
        }  # fmt: skip

        def line_of(name: str) -> str:
            line = sides[name].stdout.readline()
            if not line:
                sides[name].wait()
                said[name].seek(0)
                raise SystemExit(f"{name} ended early:\n{said[name].read()[-2000:]}")
            return line

        for name in sides:
            line_of(name)
        for turn, (name, side) in product(range(turns), sides.items()):
            side.stdin.write(f"{turn}\n")
            side.stdin.flush()
            seen[name].append(json.loads(line_of(name)))
    return seen
