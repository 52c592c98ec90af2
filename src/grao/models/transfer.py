"""From the host to the model's device."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def sent(values: Sequence[Any], device: torch.device) -> Tensor:
    """A tensor of these numbers there. The host goes on at once, with whatever the device still has to do."""
    return torch.tensor(values).to(device, non_blocking=True)
