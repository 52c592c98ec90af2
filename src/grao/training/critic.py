"""The critic of methods that ask for one: a linear head on the policy's last hidden state."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

NAME = "value_head"
"""Under this name it is a part of the policy, so that optimiser and data parallelism know it."""


class ValueHead(nn.Module):
    """(N, D) hidden states -> (N,) values; 0 at first."""

    def __init__(self, size: int, device: torch.device) -> None:
        super().__init__()
        self.linear = nn.Linear(size, 1, device=device)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """See the class."""
        values: Tensor = self.linear(hidden.to(self.linear.weight.dtype)).squeeze(-1)
        return values

    def save(self, folder: str) -> None:
        """Beside the policy's weights, which stay those of a plain language model."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        save_file(self.state_dict(), Path(folder, f"{NAME}.safetensors"))

    def load(self, folder: str) -> None:
        """What `save` left."""
        self.load_state_dict(load_file(Path(folder, f"{NAME}.safetensors"), device=str(self.linear.weight.device)))


def without_head(weights: dict[str, Any]) -> dict[str, Any]:
    """A policy's weights but for its critic."""
    return {name: value for name, value in weights.items() if f"{NAME}." not in name}
