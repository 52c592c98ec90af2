"""Memory budgets: sized by the free memory at the start, halved whenever memory runs out."""

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
"""What `auto` chooses: most tokens of a micro-batch, concurrent completions on a CPU, most concurrent completions on a
GPU. Larger values do not make a GPU any busier."""
UPDATE_SHARE, ROLLOUT_SHARE = 0.6, 0.3
"""Shares of the free memory at the start; the rest is left for fragmentation."""
_ADVICE = "set it lower; if that is not enough, lower rollout.max_new_tokens too"
PROBES = 256, 512
"""Tokens of the two passes that the linear memory model is fitted to."""


@dataclass(frozen=True)
class PerToken:
    """Memory that grows linearly with the number of tokens, in bytes."""

    fixed: float
    token: float

    @staticmethod
    def through(peak: Callable[[int], float]) -> "PerToken":
        """Fit the line to two passes; `peak` maps a number of tokens to bytes."""
        (short, long), (small, large) = PROBES, [peak(tokens) for tokens in PROBES]
        slope = (large - small) / (long - short)
        return PerToken(small - slope * short, slope)

    def at(self, tokens: int) -> int:
        """Return the bytes that `tokens` tokens take."""
        return round(self.fixed + self.token * tokens)

    def within(self, room: float, most: int) -> int:
        """Return the largest number of tokens that fits into `room` bytes, at least 1 and at most `most`."""
        return max(1, min(most, int((room - self.fixed) / max(self.token, 1.0))))


class Budget:
    """How much may be in memory at once; halved for good when memory runs out.

    Args:
        name: the setting behind it, for messages.
        size: initial value, in tokens, rows or whatever `name` counts.
        alone: whether this is the only process. With several, a process that retries would run other collectives than
            the rest, which would then wait for it forever.
    """

    def __init__(self, name: str, size: int, alone: bool = True) -> None:
        self.name, self.size, self.alone = name, size, alone
        self.least: int | None = None
        """The size after the last halving; None if there was none."""

    def run(self, work: Callable[[int], R], smallest: int = 1) -> R:
        """Call `work(size)`, and retry with half the size whenever it runs out of memory.

        Args:
            work: called with the size.
            smallest: the size below which `work` would not need less memory.

        Raises:
            InputError: if memory runs out at the smallest size, or this process may not retry.
        """
        while True:
            try:
                return work(self.size)
            except (RuntimeError, MemoryError) as error:
                if not (isinstance(error, MemoryError | torch.OutOfMemoryError) or should_reduce_batch_size(error)):
                    raise
                if self.size <= smallest or not self.alone:
                    raise InputError(f"out of memory with {self.name} {self.size}; {_ADVICE}") from error
            self.at_most(self.size // 2)  # outside of the except clause, whose traceback keeps the tensors alive
            warnings.warn(f"out of memory: {self.name} is halved to {self.size} from here on", stacklevel=2)
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def at_most(self, size: int | None) -> None:
        """Cap the size, after a halving or when resuming a run that had one; None changes nothing."""
        if size is not None:
            self.size = self.least = min(size, self.size)


def affordable_rows(free: float, row: int, group_size: int) -> int:
    """Return how many completions fit into memory at once: whole groups if possible, at most `MOST_ROWS` completions.

    Args:
        free: bytes that training leaves free.
        row: bytes of one completion.
        group_size: completions of a group.
    """
    rows = min(int(ROLLOUT_SHARE * free / row), MOST_ROWS)
    return max(1, rows - rows % group_size, min(rows, group_size))


def free_bytes(device: torch.device) -> int | None:
    """Return the bytes of GPU memory that this process may still use; None on a CPU, where that is unknown."""
    if device.type != "cuda":
        return None
    free, reserved = torch.cuda.mem_get_info(device)[0], torch.cuda.memory_reserved(device)
    return min(free, whole_bytes(device) - reserved) + reserved - torch.cuda.memory_allocated(device)


def whole_bytes(device: torch.device) -> int:
    """Return the bytes of GPU memory that this process may use in total."""
    return round(torch.cuda.mem_get_info(device)[1] * torch.cuda.get_per_process_memory_fraction(device))


def measure_peak(work: Callable[[int], object], device: torch.device) -> PerToken:
    """Measure the peak GPU memory of a pass above what is allocated before it.

    Args:
        work: runs a pass with the given number of tokens.
        device: a GPU.
    """

    def peak(tokens: int) -> int:
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work(tokens)
        return torch.cuda.max_memory_allocated(device) - before

    work(PROBES[0])  # warm up: kernels are compiled and allocate their workspaces
    return PerToken.through(peak)


@contextmanager
def gradients_dropped(model: nn.Module) -> Iterator[None]:
    """Free every weight's gradient as soon as it has been computed, inside the context."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    hooks = [w.register_post_accumulate_grad_hook(lambda weight: setattr(weight, "grad", None)) for w in trained]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
