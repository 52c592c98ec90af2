"""Samples that were drawn ahead of their step (`rollout.ahead`): with which rewards that helps, and how they are kept.

They came from weights that are gone when a run is resumed, so every checkpoint holds those of the step that follows.
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
"""Place of a prompt in its step, over all processes, and its samples."""


def check_ahead(ahead: int, plan: Sequence[Stage], early: bool) -> None:
    """Raises: InputError if samples ahead of their step gain nothing, or cannot be; `early` as in `Mix`."""
    if ahead and not any(stage.method.needs.samples for stage in plan):
        names = " and ".join(stage.method.name for stage in plan)
        raise InputError(f"rollout.ahead: {names} samples nothing in training; leave it out")
    if ahead and (drawn := next((stage.method.name for stage in plan if stage.method.needs.resample), None)):
        raise InputError(f"rollout.ahead: {drawn} draws further prompts after the rewards; leave one of them out")
    if ahead and not early:
        raise InputError("rollout.ahead: no reward waits for a server meanwhile, so nothing is gained; leave it out")


def write_ahead(folder: Path, share: Share, main: bool) -> None:
    """Writes the samples of all processes into a checkpoint; every process calls it, the main one writes.

    Args:
        folder: the checkpoint.
        share: of this process.
        main: whether it is the main process.
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
    """What `write_ahead` left, group by group: those of all `prompts` of the step; empty if there is nothing."""
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
