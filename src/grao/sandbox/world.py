"""One call to a model, a training file and a held-out file, made from a seed and kept in the cache folder."""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
import transformers

from grao.errors import InputError
from grao.sandbox.answers import reference, rejected
from grao.sandbox.models import STEPS, Architecture, Progress, build_model, pretrain
from grao.sandbox.task import Task
from grao.sandbox.tasks import BY_OBJECTIVE, USUAL, USUAL_KINDS, Objective, Split, draw, kinds_of
from grao.sandbox.tokenizer import build_tokenizer

ABILITIES = {"weak": 0.2, "able": 0.95}
"""Names for shares of right answers in the pretraining corpus."""
ATTEMPTS = 1000
"""Draws without a new prompt after which a kind counts as exhausted."""


@dataclass(frozen=True)
class Sandbox:
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
    share = _share_right(ability)
    if architecture not in ("dense", "moe"):
        raise InputError(f"sandbox: architecture must be dense or moe, got {architecture!r}")
    for name, value in (("prompts", prompts), ("held_out", held_out), ("steps", steps)):
        if value < 1:
            raise InputError(f"sandbox: {name} must be at least 1, got {value}")
    if not objectives or not set(objectives) <= set(BY_OBJECTIVE):
        raise InputError(f"sandbox: objectives must be some of {', '.join(BY_OBJECTIVE)}, got {list(objectives)!r}")
    folder, kinds = (cache or cache_folder()) / "sandbox", kinds_of(objectives)
    return Sandbox(
        model=_model(folder, share, architecture, seed, steps, progress, kinds),
        train=_file(folder, "train", prompts, seed, kinds),
        test=_file(folder, "test", held_out, seed, kinds),
    )


def cache_folder() -> Path:
    """`$GRAO_CACHE`, or `grao` in the user's cache folder (`$XDG_CACHE_HOME`, `~/.cache`)."""
    if given := os.environ.get("GRAO_CACHE"):
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "grao"


Row = dict[str, str | list[str]]


def rows(split: Split, count: int, seed: int, kinds: Sequence[str] = USUAL_KINDS) -> Iterator[Row]:
    """Different prompts of a split, the kinds in turn, each as `row`.

    Raises:
        InputError: if the world runs out of new prompts.
    """
    rng, seen = Random(f"{split} {seed}"), set[str]()  # noqa: S311
    for index in range(count):
        for _ in range(ATTEMPTS):
            task = draw(rng, split, kinds[index % len(kinds)])
            if task.prompt not in seen:
                break
        else:
            raise InputError(f"sandbox: only {index} different {split} prompts, {count} wanted; ask for fewer")
        seen.add(task.prompt)
        yield row(task, rng)


def row(task: Task, rng: Random) -> Row:
    """A task as `prompt`, `reference`, `rejected` and the judge's columns."""
    return {
        "prompt": task.prompt,
        "reference": reference(task, rng),
        "rejected": rejected(task, rng),
        "kind": task.kind,
        "answer": task.answer,
        "candidates": list(task.candidates),
        "detail": task.detail,
    }


def _share_right(ability: str | float) -> float:
    """The number behind a name."""
    share = ABILITIES.get(ability) if isinstance(ability, str) else ability
    if share is None or not 0 <= share <= 1:
        raise InputError(f"sandbox: ability must be weak, able or a number from 0 to 1, got {ability!r}")
    return share


def _model(
    folder: Path,
    share: float,
    architecture: Architecture,
    seed: int,
    steps: int,
    progress: Progress | None,
    kinds: tuple[str, ...],
) -> Path:
    """The folder of the pretrained model; made elsewhere first, so that an interrupted run leaves nothing half."""
    key = _key(share, architecture, seed, steps, kinds, torch.__version__, transformers.__version__)
    target = folder / f"{architecture}-{key}"
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer(kinds)
    model = build_model(architecture, tokenizer, seed)
    pretrain(model, tokenizer, share, seed, steps, progress, kinds)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        made = Path(scratch) / "model"
        model.save_pretrained(made)
        tokenizer.save_pretrained(made)
        try:
            made.rename(target)
        except OSError:
            if not target.exists():
                raise
    return target


def _file(folder: Path, split: Split, count: int, seed: int, kinds: tuple[str, ...]) -> Path:
    """The JSON lines of a split."""
    target = folder / f"{split}-{_key(count, seed, kinds)}.jsonl"
    if not target.exists():
        text = "".join(json.dumps(line) + "\n" for line in rows(split, count, seed, kinds))
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            made = Path(scratch) / "rows"
            made.write_text(text, encoding="utf-8")
            made.replace(target)
    return target


def _key(*values: object) -> str:
    """A hash of the values and of the sandbox's own code: all that the result depends on."""
    digest = hashlib.sha256(repr(values).encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]
