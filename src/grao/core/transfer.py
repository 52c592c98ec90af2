"""From the host to the model's device."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def sent(values: Sequence[Any] | Tensor, device: torch.device) -> Tensor:
    """These numbers as a tensor there. The host does not wait for what a GPU still has to do."""
    return torch.as_tensor(values).to(device, non_blocking=device.type == "cuda")
