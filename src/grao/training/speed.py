"""How fast a step was: tokens per second, and its share in what the device could do."""

from collections.abc import Mapping

import torch
from accelerate import Accelerator
from torch import nn

from grao.models.flops import Cost, Work, matmul_peak
from grao.training.experience import Update


class Speedometer:
    """Counts a step's floating-point operations and sets them against a matrix product on the same device.

    Args:
        model: the policy.
        accelerator: of the trainer.
    """

    def __init__(self, model: nn.Module, accelerator: Accelerator) -> None:
        self._cost = Cost.of(model)
        self._processes = accelerator.num_processes
        half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(accelerator.mixed_precision)
        self._device, self._dtype = accelerator.device, half or next(model.parameters()).dtype

    def operations(self, update: Update, updates: int = 1, looks: int = 0) -> dict[str, float]:
        """Needed for the rollout and for the update, on this process; what activation checkpointing repeats is not.

        Args:
            update: what is learned from.
            updates: gradients of it.
            looks: forward passes over it besides.
        """
        sampled = [
            (len(group.item.prompt_ids), [len(completion.token_ids) for completion in group.completions])
            for group in update.experience.groups
        ]
        trained: dict[int, tuple[int, list[int]]] = {}
        batch = update.batch
        for prompt, completion, group in zip(batch.prompts, batch.completions, batch.groups, strict=True):
            trained.setdefault(group, (len(prompt), []))[1].append(len(completion))
        work = Work.of(trained.values())
        return {
            "flops/rollout": self._cost.forward(Work.of(sampled)) if update.experience.sampled else 0.0,
            "flops/update": updates * self._cost.update(work) + looks * self._cost.forward(work),
        }

    def metrics(self, step: Mapping[str, float]) -> dict[str, float]:
        """From a step's tokens and operations of all processes, and its seconds.

        `speed/utilisation` is the share of the operations that as many devices do in the same time when all they do is
        multiply large matrices; `speed/rollout` and `speed/update` are tokens per second.
        """
        peak = matmul_peak(self._device, self._dtype) * self._processes
        operations = step["flops/rollout"] + step["flops/update"]
        rollout = step.get("seconds/rollout")
        return {
            **({"speed/rollout": step["tokens/sampled"] / rollout} if rollout else {}),
            "speed/update": step["tokens/trained"] / step["seconds/update"],
            "speed/utilisation": operations / (peak * step["seconds/step"]),
        }
