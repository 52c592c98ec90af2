"""One call to a model, a training file and a held-out file, made from a seed and kept in the cache folder."""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import NamedTuple

import torch
import transformers

from grao.errors import InputError
from grao.sandbox.kinds import Task
from grao.sandbox.lexicon import Objective
from grao.sandbox.models import STEPS, Architecture, Progress, build_model, build_tokenizer, pretrain
from grao.sandbox.tasks import OBJECTIVES, USUAL, USUAL_KINDS, Split, draw, kinds_of, reference, rejected

ABILITIES = {"weak": 0.2, "able": 0.95}
"""Names for shares of right answers in the pretraining corpus."""
ATTEMPTS = 1000
"""Draws without a new prompt after which a kind counts as exhausted."""


class Sandbox(NamedTuple):
    """Where the pieces of one sandbox lie."""

    model: Path
    """Folder with weights (safetensors), configuration and tokenizer."""
    train: Path
    """JSON lines with the columns of `rows`."""
    test: Path
    """The same columns; its problems stand neither in `train` nor in the pretraining corpus."""


def prepare(
    ability: str | float = "weak",
    architecture: Architecture = "dense",
    seed: int = 0,
    prompts: int = 1000,
    held_out: int = 300,
    cache: Path | None = None,
    progress: Progress | None = None,
    steps: int = STEPS,
    objectives: Sequence[Objective] = USUAL,
) -> Sandbox:
    """Builds the sandbox, or finds it in the cache.

    Args:
        ability: how able the base model is: the share of right answers in its pretraining corpus, 0 to 1, or
            `weak` (0.2) or `able` (0.95). The amount of pretraining is the same. Measured on 300 held-out prompts at
            temperature 0.7, seed 0: 11 % right for `weak`, 53 % for `able` (dense); 8 % for `weak` (moe).
        architecture: `dense` (Qwen3) or `moe` (Qwen3-MoE, two of eight experts).
        seed: of the weights, the corpus and the files.
        prompts: rows of the training file; the world has about 8,000.
        held_out: rows of the held-out file; the world has about 4,800.
        cache: folder to keep things in; by default `$GRAO_CACHE`, or `grao` in the user's cache folder.
        progress: called after every pretraining step with the step, all steps, and the loss.
        steps: pretraining steps, of 16 answers each.
        objectives: what the tasks ask for; besides the usual two `truthful` and `fair`. With other objectives the
            tokenizer knows other words, so everything differs.

    Raises:
        InputError: if an argument is out of range, or there are not as many different prompts.
    """
    share = ABILITIES.get(ability) if isinstance(ability, str) else ability
    if share is None or not 0 <= share <= 1:
        raise InputError(f"sandbox: ability must be weak, able or a number from 0 to 1, got {ability!r}")
    if architecture not in ("dense", "moe"):
        raise InputError(f"sandbox: architecture must be dense or moe, got {architecture!r}")
    for name, value in (("prompts", prompts), ("held_out", held_out), ("steps", steps)):
        if value < 1:
            raise InputError(f"sandbox: {name} must be at least 1, got {value}")
    if not objectives or not set(objectives) <= set(OBJECTIVES):
        raise InputError(f"sandbox: objectives must be some of {', '.join(OBJECTIVES)}, got {list(objectives)!r}")
    folder, kinds = (cache or cache_folder()) / "sandbox", kinds_of(objectives)
    folder.mkdir(parents=True, exist_ok=True)
    key = _key(share, architecture, seed, steps, kinds, torch.__version__, transformers.__version__)
    pretrained = folder / f"{architecture}-{key}"
    if not pretrained.exists():
        tokenizer = build_tokenizer(kinds)
        model = build_model(architecture, tokenizer, seed)
        pretrain(model, tokenizer, share, seed, steps, progress, kinds)
        with _at_once(pretrained) as made:
            model.save_pretrained(made)
            tokenizer.save_pretrained(made)
    sizes: dict[Split, int] = {"train": prompts, "test": held_out}
    files = {split: folder / f"{split}-{_key(count, seed, kinds)}.jsonl" for split, count in sizes.items()}
    for split, file in files.items():
        if not file.exists():
            text = "".join(json.dumps(line) + "\n" for line in rows(split, sizes[split], seed, kinds))
            with _at_once(file) as made:
                made.write_text(text, encoding="utf-8")
    return Sandbox(pretrained, files["train"], files["test"])


def cache_folder() -> Path:
    """`$GRAO_CACHE`, or `grao` in the user's cache folder (`$XDG_CACHE_HOME`, `~/.cache`)."""
    user = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("GRAO_CACHE") or f"{user}/grao").expanduser()


Row = dict[str, str | list[str]]


def rows(split: Split, count: int, seed: int, kinds: Sequence[str] = USUAL_KINDS) -> Iterator[Row]:
    """Different prompts of a split, the kinds in turn, each as `row`.

    Raises:
        InputError: if the world runs out of new prompts.
    """
    rng, seen = Random(f"{split} {seed}"), set[str]()  # noqa: S311
    for index in range(count):
        drawn = (draw(rng, split, kinds[index % len(kinds)]) for _ in range(ATTEMPTS))
        task = next((task for task in drawn if task.prompt not in seen), None)
        if task is None:
            raise InputError(f"sandbox: only {index} different {split} prompts, {count} wanted; ask for fewer")
        seen.add(task.prompt)
        yield row(task, rng)


def row(task: Task, rng: Random) -> Row:
    """A task as `prompt`, `reference`, `rejected` and the judge's columns."""
    answers: Row = {"reference": reference(task, rng), "rejected": rejected(task, rng)}
    facts: Row = {"kind": task.kind, "answer": task.answer, "candidates": list(task.candidates), "detail": task.detail}
    return {"prompt": task.prompt, **answers, **facts}


@contextmanager
def _at_once(target: Path) -> Iterator[Path]:
    """Where to make a file or folder that then moves to its place: an interrupted run leaves nothing half made."""
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        made = Path(scratch) / "made"
        yield made
        try:
            made.replace(target)
        except OSError:  # somebody else was faster
            if not target.exists():
                raise


def _key(*values: object) -> str:
    """A hash of the values and of the sandbox's own code and words: all that the result depends on."""
    sources = sorted(file for file in Path(__file__).parent.iterdir() if file.suffix in (".py", ".json"))
    return hashlib.sha256(repr(values).encode() + b"".join(map(Path.read_bytes, sources))).hexdigest()[:16]
