"""From an update to its gradient, with all that a method needs for it: engine, frozen policy, critic, token budget."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import torch
from accelerate import Accelerator
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from grao.config.recipe import TrainingConfig
from grao.methods import Before, Method
from grao.models import Routers, engine_for, transformers_model
from grao.models.memory import Budget
from grao.training.accumulate import Objective, Seen, accumulate_gradient
from grao.training.before import Observer
from grao.training.critic import NAME, ValueHead
from grao.training.experience import Update
from grao.training.speed import Speedometer


class Learner:
    """Looks at updates and makes their gradients.

    Args:
        policy: the model that is trained; it gets a value head if the method asks for a critic.
        method: what is learned.
        config: token budget, router loss, whether the KL divergence is measured.
        accelerator: of the trainer.
        pad_id: of the tokenizer.
    """

    def __init__(
        self,
        policy: PreTrainedModel | PeftModel,
        method: Method,
        config: TrainingConfig,
        accelerator: Accelerator,
        pad_id: int,
    ) -> None:
        self._method, self._accelerator, self._policy = method, accelerator, policy
        needs = method.needs
        asked = needs.frozen or config.measure_kl
        self.engine = engine_for(policy, pad_id)  # sets the policy's attention, hence before the copy
        copied = asked and not isinstance(policy, PeftModel)
        self._frozen = copy.deepcopy(policy).requires_grad_(False).eval() if copied else None
        self._speedometer = Speedometer(policy, accelerator)
        self.critic = _value_head(policy) if needs.critic else None
        self._observer = Observer(self.engine, accelerator, self._starting_model if asked else None, self.critic)
        routers = Routers.of(transformers_model(policy)) if config.router_loss else None
        self._objective = Objective(method.loss, self.critic, needs.whole_groups, routers, config.router_loss)
        self._budget = Budget("training.token_budget", config.token_budget, accelerator.num_processes == 1)
        self._looks = int(needs.old) + int(asked)

    def look(self, model: nn.Module, update: Update, method: Method) -> Before:
        """What has to be known of an update before the first gradient; `method` as it stands at this step."""
        if not self._looks:
            return Before()
        model.eval()  # as when the samples were drawn
        return self._budget.run(lambda tokens: self._observer.look(model, update, method, tokens))

    def gradient(self, model: nn.Module, update: Update, before: Before) -> Seen:
        """Leaves the gradient of one optimiser step in the model's weights."""
        model.train()

        def accumulate(token_budget: int) -> Seen:
            model.zero_grad()  # what an attempt that ran out of memory left
            return accumulate_gradient(
                model, update, self._accelerator, self.engine, token_budget, self._objective, before
            )

        return self._budget.run(accumulate)

    def operations(self, update: Update) -> dict[str, float]:
        """See `Speedometer.operations`."""
        return self._speedometer.operations(update, self._method.needs.updates, self._looks)

    def speed(self, metrics: dict[str, float]) -> dict[str, float]:
        """See `Speedometer.metrics`."""
        return self._speedometer.metrics(metrics)

    @contextmanager
    def _starting_model(self) -> Iterator[nn.Module]:
        """The model before training: a frozen copy, or the model with its adapter off."""
        with self._accelerator.autocast():
            if self._frozen is not None:
                yield self._frozen
            else:
                policy = cast(PeftModel, self._policy)
                with policy.disable_adapter():
                    yield policy


def together(updates: list[Seen]) -> Seen:
    """What the updates on one batch of samples showed: the state before the first, a method's numbers over all."""
    first = updates[0]
    numbers = {name: torch.stack([seen.numbers[name] for seen in updates]).mean(dim=0) for name in first.numbers}
    return replace(first, numbers=numbers)


def _value_head(policy: nn.Module) -> ValueHead:
    inner = transformers_model(policy)
    config: Any = inner.config.get_text_config()
    head = ValueHead(config.hidden_size, inner.device)
    policy.add_module(NAME, head)
    return head
