"""How much may be in memory at once: sized by what is free at the start, halved whenever that was too much."""

import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from accelerate.utils.memory import should_reduce_batch_size
from torch import nn

from grao.errors import InputError

R = TypeVar("R")

TOKENS, ROWS, MOST_ROWS = 16384, 64, 256
"""Most tokens of a micro-batch that `auto` takes, and completions at once on a CPU and at most on a card: more fill
no card better."""
UPDATE_SHARE, ROLLOUT_SHARE = 0.6, 0.3
"""Of what is free at the start; the rest is for what the allocator loses between blocks."""
_ADVICE = "set it lower; if that is not enough, lower rollout.max_new_tokens too"
PROBES = 256, 512
"""Tokens of the two passes through which a line is drawn."""


@dataclass(frozen=True)
class PerToken:
    """Bytes that grow with a number of tokens."""

    fixed: float
    token: float

    @staticmethod
    def through(peak: Callable[[int], float]) -> "PerToken":
        """The line through what two passes took; `peak` is given their tokens."""
        (short, long), (small, large) = PROBES, [peak(tokens) for tokens in PROBES]
        slope = (large - small) / (long - short)
        return PerToken(small - slope * short, slope)

    def at(self, tokens: int) -> int:
        """Bytes for so many tokens."""
        return round(self.fixed + self.token * tokens)

    def within(self, room: float, most: int) -> int:
        """The largest number of tokens that fits into so many bytes, at least 1 and at most `most`."""
        return max(1, min(most, int((room - self.fixed) / max(self.token, 1.0))))


class Budget:
    """How much may be in memory at once; half of it from the moment on at which that is too much.

    Args:
        name: the setting behind it, for messages.
        size: tokens, rows or whatever `name` counts.
        alone: whether this process may retry by itself; among several the others would wait for it for ever.
    """

    def __init__(self, name: str, size: int, alone: bool = True) -> None:
        self.name, self.size, self.alone = name, size, alone
        self.least: int | None = None
        """The size after the last halving, None if there was none."""

    def run(self, work: Callable[[int], R], smallest: int = 1) -> R:
        """`work` with the size, and again with half of it as long as that runs out of memory.

        Args:
            work: is given the size.
            smallest: below it less is not in memory at once.

        Raises:
            InputError: if the smallest is still too much, or this process may not retry.
        """
        while True:
            try:
                return work(self.size)
            except (RuntimeError, MemoryError) as error:
                if not (isinstance(error, MemoryError | torch.OutOfMemoryError) or should_reduce_batch_size(error)):
                    raise
                if self.size <= smallest or not self.alone:
                    raise InputError(f"out of memory with {self.name} {self.size}; {_ADVICE}") from error
            self.at_most(self.size // 2)  # outside of the except clause, whose traceback holds on to the tensors
            warnings.warn(f"out of memory: {self.name} is {self.size} from here on, half of before", stacklevel=2)
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def at_most(self, size: int | None) -> None:
        """Takes over what a halving left, here or before the run was interrupted; None changes nothing."""
        if size is not None:
            self.size = self.least = min(size, self.size)


def affordable_rows(free: float, row: int, group_size: int) -> int:
    """Completions at once for which there is room, at most `MOST_ROWS`; whole groups, if one fits.

    Args:
        free: bytes beside what training keeps.
        row: bytes of one completion.
        group_size: completions of a group.
    """
    rows = min(int(ROLLOUT_SHARE * free / row), MOST_ROWS)
    return max(1, rows - rows % group_size, min(rows, group_size))


def free_bytes(device: torch.device) -> int | None:
    """What this process may still take of a card; None where that cannot be told, as on a CPU."""
    if device.type != "cuda":
        return None
    free, reserved = torch.cuda.mem_get_info(device)[0], torch.cuda.memory_reserved(device)
    return min(free, whole_bytes(device) - reserved) + reserved - torch.cuda.memory_allocated(device)


def whole_bytes(device: torch.device) -> int:
    """What this process may take of a card in all."""
    return round(torch.cuda.mem_get_info(device)[1] * torch.cuda.get_per_process_memory_fraction(device))


def measured(work: Callable[[int], object], device: torch.device) -> PerToken:
    """What a pass takes on a card beside what is there already; `work` is given the tokens of each pass."""

    def peak(tokens: int) -> int:
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work(tokens)
        return torch.cuda.max_memory_allocated(device) - before

    work(PROBES[0])  # kernels are compiled and their own buffers made
    return PerToken.through(peak)


@contextmanager
def gradients_dropped(model: nn.Module) -> Iterator[None]:
    """Within it, a weight's gradient goes as soon as it is there."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    hooks = [w.register_post_accumulate_grad_hook(lambda weight: setattr(weight, "grad", None)) for w in trained]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
