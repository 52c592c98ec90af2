"""Samples drawn one step ahead (`rollout.ahead`): when this is allowed, and how checkpoints keep them.

The weights they were sampled from no longer exist when a run is resumed, so every checkpoint stores the samples of the
next step.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from accelerate.utils import gather_object
from safetensors.torch import load_file, save_file

from grao.errors import InputError
from grao.methods.stage import Stage
from grao.training.gap import sampler_logps
from grao.types import Answer

_NAME = "ahead.safetensors"

Share = Sequence[tuple[int, Sequence[Answer]]]
"""One process's part of a step: (index of the prompt within the step, its samples)."""


def check_ahead(ahead: int, plan: Sequence[Stage], early: bool) -> None:
    """Check that sampling ahead is possible and saves time.

    Args:
        ahead: `rollout.ahead`.
        plan: the stages of the run.
        early: whether a reward can start before it is needed (`Mix.early`).

    Raises:
        InputError: if it is impossible or saves no time.
    """
    if ahead and not any(stage.method.needs.samples for stage in plan):
        names = " and ".join(stage.method.name for stage in plan)
        raise InputError(f"rollout.ahead: {names} does not sample during training; leave it out")
    if ahead and (drawn := next((stage.method.name for stage in plan if stage.method.needs.resample), None)):
        problem = f"{drawn} draws more prompts after it has the rewards"
        raise InputError(f"rollout.ahead: {problem}; leave out rollout.ahead, or set the method's resample to 0")
    if ahead and not early:
        raise InputError("rollout.ahead: no reward waits for a server, so it would save no time; leave it out")


def write_ahead(folder: Path, share: Share, main: bool) -> None:
    """Gather the samples of all processes and write them into a checkpoint. Every process calls it, `main` writes.

    Args:
        folder: the checkpoint.
        share: the samples of this process.
        main: whether this is the main process.
    """
    gathered: Iterable[tuple[int, Sequence[Answer]]] = gather_object(list(share))
    answers = [answer for _, samples in sorted(gathered, key=lambda entry: entry[0]) for answer in samples]
    if not main or not answers:
        return
    tensors = {
        "ids": torch.tensor([token for answer in answers for token in answer.ids]),
        "logps": sampler_logps(answers, torch.float64),
        "lengths": torch.tensor([len(answer.ids) for answer in answers]),
        "truncated": torch.tensor([answer.truncated for answer in answers]),
    }
    save_file(tensors, folder / _NAME)


def read_ahead(folder: Path, prompts: int) -> list[list[Answer]]:
    """Read what `write_ahead` wrote.

    Args:
        folder: the checkpoint.
        prompts: prompts per step, over all processes.

    Returns:
        The samples of each prompt of the step; empty if the checkpoint holds none.
    """
    if not (folder / _NAME).exists():
        return []
    stored = load_file(folder / _NAME)
    lengths = stored["lengths"].tolist()
    parts = (stored[name].split(lengths) for name in ("ids", "logps"))
    answers = [
        Answer(tuple(ids.tolist()), truncated=cut, logps=None if logps.isnan().any() else tuple(logps.tolist()))
        for ids, logps, cut in zip(*parts, stored["truncated"].tolist(), strict=True)
    ]
    size = len(answers) // prompts
    return [answers[start : start + size] for start in range(0, len(answers), size)]
