"""Build a model, a training file and a held-out file from a seed, in the cache folder."""

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
"""{name: share of right answers in the pretraining corpus}."""
ATTEMPTS = 1000
"""Draws without a new prompt after which a kind is considered exhausted."""


class Sandbox(NamedTuple):
    """Paths of one sandbox."""

    model: Path
    """Folder with weights (safetensors), configuration and tokenizer."""
    train: Path
    """JSON lines with the columns of `rows`."""
    test: Path
    """The same columns; its problems occur neither in `train` nor in the pretraining corpus."""


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
    """Build the sandbox, or take it from the cache.

    Args:
        ability: of the base model: the share of right answers in its pretraining corpus, 0 to 1, or `weak` (0.2) or
            `able` (0.95). The amount of pretraining is the same. Measured on 300 held-out prompts at
            temperature 0.7, seed 0: 11 % right for `weak`, 53 % for `able` (dense); 8 % for `weak` (moe).
        architecture: `dense` (Qwen3) or `moe` (Qwen3-MoE, two of eight experts).
        seed: of the weights, the corpus and the files.
        prompts: rows of the training file; the world has about 8,000.
        held_out: rows of the held-out file; the world has about 4,800.
        cache: cache folder; by default `$GRAO_CACHE`, or `grao` in the user's cache folder.
        progress: called after every pretraining step with the step, the number of steps, and the loss.
        steps: pretraining steps, of 16 answers each.
        objectives: of the tasks; `truthful` and `fair` can be added to the default two. Other objectives change the
            vocabulary, and with it the model.

    Raises:
        InputError: if an argument is out of range, or there are not enough different prompts.
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
        with _atomically(pretrained) as draft:
            model.save_pretrained(draft)
            tokenizer.save_pretrained(draft)
    sizes: dict[Split, int] = {"train": prompts, "test": held_out}
    files = {split: folder / f"{split}-{_key(count, seed, kinds)}.jsonl" for split, count in sizes.items()}
    for split, file in files.items():
        if not file.exists():
            text = "".join(json.dumps(line) + "\n" for line in rows(split, sizes[split], seed, kinds))
            with _atomically(file) as draft:
                draft.write_text(text, encoding="utf-8")
    return Sandbox(pretrained, files["train"], files["test"])


def cache_folder() -> Path:
    """Return `$GRAO_CACHE`, or `grao` in the user's cache folder (`$XDG_CACHE_HOME`, `~/.cache`)."""
    user = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("GRAO_CACHE") or f"{user}/grao").expanduser()


Row = dict[str, str | list[str]]


def rows(split: Split, count: int, seed: int, kinds: Sequence[str] = USUAL_KINDS) -> Iterator[Row]:
    """Yield rows with different prompts of a split, the kinds in turn.

    Args:
        split: of the prompts.
        count: number of rows.
        seed: of the draws.
        kinds: kinds of tasks.

    Raises:
        InputError: if there are not enough different prompts.
    """
    rng, seen = Random(f"{split} {seed}"), set[str]()  # noqa: S311
    for index in range(count):
        drawn = (draw(rng, split, kinds[index % len(kinds)]) for _ in range(ATTEMPTS))
        task = next((task for task in drawn if task.prompt not in seen), None)
        if task is None:
            raise InputError(f"sandbox: there are only {index} different {split} prompts, not {count}; ask for fewer")
        seen.add(task.prompt)
        yield row(task, rng)


def row(task: Task, rng: Random) -> Row:
    """Return a task as a row: `prompt`, `reference`, `rejected` and the judge's columns."""
    answers: Row = {"reference": reference(task, rng), "rejected": rejected(task, rng)}
    facts: Row = {"kind": task.kind, "answer": task.answer, "candidates": list(task.candidates), "detail": task.detail}
    return {"prompt": task.prompt, **answers, **facts}


@contextmanager
def _atomically(target: Path) -> Iterator[Path]:
    """Yield a temporary path that is then renamed to the target: an interrupted run leaves nothing incomplete."""
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        draft = Path(scratch) / "draft"
        yield draft
        try:
            draft.replace(target)
        except OSError:  # another process was faster
            if not target.exists():
                raise


def _key(*values: object) -> str:
    """Return a hash of the values and of the sandbox's code and words: everything that the result depends on."""
    sources = sorted(file for file in Path(__file__).parent.iterdir() if file.suffix in (".py", ".json"))
    return hashlib.sha256(repr(values).encode() + b"".join(map(Path.read_bytes, sources))).hexdigest()[:16]
