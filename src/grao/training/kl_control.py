"""A KL coefficient that is steered to a target from step to step, and survives a resume (PPO's `kl_target`)."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator

from grao.methods import PPO, Before, Method
from grao.methods.ppo import steered
from grao.methods.tokens import known
from grao.records.metrics import read_metrics

_NEXT = "kl_penalty/next"


class KLControl:
    """Holds the coefficient; idle for methods without a target.

    Args:
        method: as configured.
        folder: where the metrics of an interrupted run lie.
    """

    def __init__(self, method: Method, folder: Path) -> None:
        self._method, self._folder = method, folder
        self._kl: float | None = None

    def method(self, step: int) -> Method:
        """The method as it stands at a step (from 0)."""
        if not (isinstance(self._method, PPO) and self._method.kl_target):
            return self._method
        if self._kl is None:
            seen = [line[_NEXT] for line in read_metrics(self._folder) if line["step"] == step and _NEXT in line]
            self._kl = seen[-1] if step and seen else self._method.kl
        return replace(self._method, kl=self._kl)

    def steer(self, before: Before, lengths: Sequence[int], accelerator: Accelerator) -> dict[str, float]:
        """Moves the coefficient towards the target; what there is to log.

        Args:
            before: with log-probabilities under the policy and under the model before training.
            lengths: tokens of each sample.
            accelerator: of the trainer.
        """
        method = self._method
        if self._kl is None or not isinstance(method, PPO) or method.kl_target is None:
            return {}
        old, frozen = known(before.old), known(before.frozen)
        sums = torch.stack([(old - frozen).sum(), old.new_tensor(len(lengths))])
        total, samples = accelerator.reduce(sums, reduction="sum").tolist()
        used = self._kl
        self._kl = steered(used, total / max(samples, 1), method.kl_target)
        return {"kl_penalty/coefficient": used, _NEXT: self._kl}
