"""Shared parts of the benchmarks: a random model and its tokenizer, resident memory, and processes that take turns."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

PAD, END = 0, 1
RECORDS = Path(__file__).with_name("records")


def write_record(
    name: str, page: str, command: str, machine: str, source: str, columns: Sequence[str], rows: Sequence[Sequence[str]]
) -> None:
    """Write a table of a page as a record, with the date of the last change of its cells; other keys stay.

    Args:
        name: of the file, without suffix, and of the table.
        page: where the table stands.
        command: that makes the record.
        machine: on which it was measured.
        source: what the figures are from.
        columns: headings.
        rows: cells.
    """
    path, table = RECORDS / f"{name}.json", {"columns": list(columns), "rows": [list(row) for row in rows]}
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    same = all(before.get(key) == value for key, value in table.items())
    date = before["date"] if same else f"{datetime.now(UTC):%Y-%m-%d}"
    record = {**before, "page": page, "command": command, "date": date, "machine": machine, "from": source, **table}
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def tokenizer():
    """Return a tokenizer whose words are numbered tokens, `w3` for id 3."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<pad>": PAD, "<end>": END, "<unk>": 2} | {f"w{index}": index for index in range(3, 1000)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<end>", unk_token="<unk>")


def text(ids: Sequence[int]) -> str:
    """Return the text that the tokenizer encodes as these ids."""
    return " ".join(f"w{index}" for index in ids)


def random_model(hidden: int, layers: int, vocabulary: int, **shape: Any):
    """Return a random Qwen2 (seed 0); `shape` overrides defaults such as 8 heads and an MLP of width 4 * hidden."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    defaults = {"intermediate_size": 4 * hidden, "num_attention_heads": 8, "num_key_value_heads": 2}
    config = Qwen2Config(
        vocab_size=vocabulary, hidden_size=hidden, num_hidden_layers=layers, eos_token_id=END, pad_token_id=PAD,
        bos_token_id=None, **{"max_position_embeddings": 2048, **defaults, **shape},
    )  # fmt: skip
    return Qwen2ForCausalLM(config)


def resident(peak: bool) -> float:
    """Return the resident memory in MiB: now, or its peak since the last call of `forget_peak`."""
    field = "VmHWM" if peak else "VmRSS"
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def forget_peak() -> None:
    """Reset the peak of the resident memory."""
    Path("/proc/self/clear_refs").write_text("5")


class Side:
    """One process of `take_turns`. Standard output is redirected to standard error, so that libraries may print."""

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def turns(self) -> Iterator[int]:
        """Report readiness, then yield the number of each turn as it is received."""
        print("ready", file=self._answers, flush=True)
        yield from map(int, sys.stdin)

    def answer(self, measurements: Mapping[str, Any]) -> None:
        """Send the measurements of a turn."""
        print(json.dumps(measurements), file=self._answers, flush=True)


def take_turns(commands: Mapping[str, Sequence[str]], turns: int) -> dict[str, list[dict[str, Any]]]:
    """Start a process per side, let them take turns, and return the measurements of every turn by side.

    Args:
        commands: name of a side -> arguments of the interpreter, for a program that uses `Side`.
        turns: number of turns of each side.

    Raises:
        SystemExit: if a side ends early, with the end of its output.
    """
    environment = {"GOMP_SPINCOUNT": "1000", **os.environ, "HF_HUB_OFFLINE": "1"}
    measured: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
    with ExitStack() as stack:
        errors = {name: stack.enter_context(tempfile.TemporaryFile("w+")) for name in commands}
        sides = {
            name: stack.enter_context(
                subprocess.Popen(
                    [sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors[name],
                    text=True, env=environment,
                )
            )
            for name, arguments in commands.items()
        }  # fmt: skip

        def next_line(name: str) -> str:
            line = sides[name].stdout.readline()
            if not line:
                sides[name].wait()
                errors[name].seek(0)
                raise SystemExit(f"{name} ended early:\n{errors[name].read()[-2000:]}")
            return line

        for name in sides:
            next_line(name)
        for turn, (name, side) in product(range(turns), sides.items()):
            side.stdin.write(f"{turn}\n")
            side.stdin.flush()
            measured[name].append(json.loads(next_line(name)))
    return measured
