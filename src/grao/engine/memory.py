"""A bound on memory that halves when memory runs out."""

import gc
import warnings
from collections.abc import Callable
from typing import TypeVar

import torch
from accelerate.utils.memory import should_reduce_batch_size

from grao.errors import InputError

R = TypeVar("R")

_ADVICE = "set it lower; if that is not enough, lower rollout.max_new_tokens too"


class Budget:
    """How much may be in memory at once; one half of it from the moment on at which that is too much.

    Args:
        name: the setting behind it, for messages.
        size: tokens, rows or whatever `name` counts.
        alone: whether this process may retry by itself; among several the others would wait for it for ever.
    """

    def __init__(self, name: str, size: int, alone: bool = True) -> None:
        self.name, self.size, self.alone = name, size, alone

    def run(self, work: Callable[[int], R]) -> R:
        """`work` with the size, and once more with half of it where that runs out of memory.

        Raises:
            InputError: if half is still too much, or this process may not retry.
        """
        retried = False
        while True:
            try:
                return work(self.size)
            except (RuntimeError, MemoryError) as error:
                if not (isinstance(error, MemoryError | torch.OutOfMemoryError) or should_reduce_batch_size(error)):
                    raise
                if retried or self.size == 1 or not self.alone:
                    raise InputError(f"out of memory with {self.name} {self.size}; {_ADVICE}") from error
            retried = True  # outside of the except clause, whose traceback holds on to the tensors
            self.size //= 2
            warnings.warn(f"out of memory: {self.name} is {self.size} from here on, half of before", stacklevel=2)
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
