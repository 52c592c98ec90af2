"""Steps that are captured as CUDA graphs at their first use and replayed from then on; on a CPU they run as they are.

What can go wrong with a graph is dealt with here. It replays addresses, so all graphs are thrown away when a weight
lies elsewhere, or the model goes another way through its adapters or its forward was replaced. It cannot wait for the
host, so a step that would is not captured and runs as it is. Graphs share one pool of memory, which is safe because a
step leaves nothing in it: its results are in tensors that lie outside.
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
    """Steps by key."""

    def __init__(self) -> None:
        self._steps: dict[Hashable, Step] = {}
        self._whereabouts: Hashable = None
        self._stream: torch.cuda.Stream | None = None
        self._pool: Any = None
        self.refused = ""
        """Why the last step that was not captured was not; empty if all were."""

    def fit(self, model: nn.Module) -> bool:
        """Whether what was captured since the last call still does what this model does."""
        before, self._whereabouts = self._whereabouts, _whereabouts(model)
        return before == self._whereabouts

    def clear(self) -> None:
        """Frees what the graphs hold."""
        self._steps, self._pool = {}, None

    def step(self, key: Hashable, step: Step, alive: Tensor) -> Step:
        """What does the same as `step`.

        Args:
            key: the same for steps that are the same.
            step: changes nothing while `alive` is false everywhere.
            alive: bool.
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
            self.refused = one_line(error)
            return step

    def _captured(self, step: Step, alive: Tensor) -> Step:
        graph, held = torch.cuda.CUDAGraph(), alive.clone()
        with torch.cuda.device(alive.device):
            self._stream = self._stream or torch.cuda.Stream()
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            alive.zero_()
            self._stream.wait_stream(torch.cuda.current_stream())
            try:
                with torch.cuda.stream(self._stream):  # libraries and layers make what they keep for later calls
                    step()
                    with _without_waiting():
                        step()
                torch.cuda.current_stream().wait_stream(self._stream)
                # Other threads may use the device meanwhile, such as NCCL's watchdog.
                with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
                    step()
            except RuntimeError as error:
                if isinstance(error.__context__, torch.OutOfMemoryError):  # then ending the capture failed as well
                    raise error.__context__ from error
                raise
            finally:
                torch.cuda.current_stream().wait_stream(self._stream)
                alive.copy_(held)
        return graph.replay


def _whereabouts(model: nn.Module) -> Hashable:
    """What a captured step depends on beside the numbers in the weights."""
    tuned = [layer for layer in model.modules() if isinstance(layer, BaseTunerLayer)]
    return (
        vars(model).get("forward"),
        tuple(tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())),
        tuple((layer.disable_adapters, *layer.active_adapters, "merged", *layer.merged_adapters) for layer in tuned),
    )


@contextmanager
def _without_waiting() -> Iterator[None]:
    """Within it, an operation that waits for the device is an error."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)
