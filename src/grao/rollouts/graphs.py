"""Capture steps as CUDA graphs at their first use and replay them from then on; on a CPU they run uncaptured.

A graph replays fixed kernels on fixed addresses. So all graphs are discarded when a weight has moved, another adapter
is active, or the model's forward has been replaced. A graph cannot contain a synchronisation with the CPU, so a step
that has one is not captured and runs as it is. All graphs share one memory pool; this is safe because a step leaves
nothing in it: all results are written to tensors outside the pool.
"""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from grao.errors import one_line

Step = Callable[[], None]


class Graphs:
    """Captured steps by key."""

    def __init__(self) -> None:
        self._steps: dict[Hashable, Step] = {}
        self._fingerprint: Hashable = None
        self._stream: torch.cuda.Stream | None = None
        self._pool: Any = None
        self.failure = ""
        """Why capturing failed, for the last step for which it did; empty if all steps were captured."""

    def still_valid(self, model: nn.Module) -> bool:
        """Whether graphs captured since the last call are still valid for this model as it is now."""
        before, self._fingerprint = self._fingerprint, _fingerprint(model)
        return before == self._fingerprint

    def clear(self) -> None:
        """Free the graphs and their memory."""
        self._steps, self._pool = {}, None

    def step(self, key: Hashable, step: Step, alive: Tensor) -> Step:
        """Return a function that does the same as `step`: a graph replay if it could be captured, else `step`.

        Args:
            key: equal for equal steps.
            step: must change nothing while `alive` is false everywhere, since the warm-up runs it then.
            alive: bool tensor of the rows in use.
        """
        if key not in self._steps:
            self._steps[key] = self._ready(step, alive) if alive.device.type == "cuda" else step
        return self._steps[key]

    def _ready(self, step: Step, alive: Tensor) -> Step:
        try:
            return self._captured(step, alive)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self.failure = one_line(error)
            return step

    def _captured(self, step: Step, alive: Tensor) -> Step:
        graph, saved = torch.cuda.CUDAGraph(), alive.clone()
        with torch.cuda.device(alive.device):
            self._stream = self._stream or torch.cuda.Stream()
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            alive.zero_()
            self._stream.wait_stream(torch.cuda.current_stream())
            try:
                # Warm up: libraries and layers allocate workspaces at their first call, which capture forbids. The
                # second run raises if the step synchronises with the CPU.
                with torch.cuda.stream(self._stream):
                    step()
                    with _sync_forbidden():
                        step()
                torch.cuda.current_stream().wait_stream(self._stream)
                # "thread_local", since other threads, such as NCCL's watchdog, may use the GPU meanwhile.
                with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
                    step()
            except RuntimeError as error:
                # Running out of memory also makes the end of the capture fail, which hides the cause.
                if isinstance(error.__context__, torch.OutOfMemoryError):
                    raise error.__context__ from error
                raise
            finally:
                torch.cuda.current_stream().wait_stream(self._stream)
                alive.copy_(saved)
        return graph.replay


def _fingerprint(model: nn.Module) -> Hashable:
    """Return everything that a captured step depends on, except for the values of the weights."""
    tuned = [layer for layer in model.modules() if isinstance(layer, BaseTunerLayer)]
    return (
        vars(model).get("forward"),
        tuple(tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())),
        tuple((layer.disable_adapters, *layer.active_adapters, "merged", *layer.merged_adapters) for layer in tuned),
    )


@contextmanager
def _sync_forbidden() -> Iterator[None]:
    """Make operations that synchronise the CPU with the GPU raise an error inside the context."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)
