"""From an update to its gradient, with all that a method needs for it: engine, frozen policy, critic, token budget.

Before the first gradient of an update the `Observer` asks the policy, the critic and the model before training about
its tokens, as far as the method needs it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from grao.config.recipe import TrainingConfig
from grao.engine.experts import Experts, RoutedEngine
from grao.engine.footprint import gathered_bytes, kept_bytes, trained_bytes
from grao.engine.interface import Engine, Tokens, checkpoint_activations, mode, transformers_model
from grao.engine.memory import PROBES, TOKENS, UPDATE_SHARE, Budget, free_bytes, gradients_dropped, measured
from grao.engine.routers import Routers
from grao.engine.select import engine_for, random_batch
from grao.engine.sharded import (
    autocast,
    half_precision,
    is_split,
    local,
    named_weights,
    part_of,
    split_over,
    swapped_weights,
)
from grao.methods.base import Before, Method
from grao.training.accumulate import Seen, UpdateLoss, accumulate_gradient, in_step
from grao.training.experience import Update
from grao.training.gap import RATIOS, Importance
from grao.training.metrics import Speedometer
from grao.types import Batch, Role

StartingModel = Callable[[], AbstractContextManager[nn.Module]]
"""Opens the model as it was before training."""

NAME = "value_head"
"""Under this name the critic is a part of the policy, so that optimiser and data parallelism know it."""


class ValueHead(nn.Module):
    """(N, D) hidden states -> (N,) values; 0 at first."""

    def __init__(self, size: int, device: torch.device) -> None:
        super().__init__()
        self.linear = nn.Linear(size, 1, device=device)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """See the class."""
        return cast(Tensor, self.linear(hidden.to(self.linear.weight.dtype)).squeeze(-1))

    @torch.no_grad()
    def load(self, folder: str) -> None:
        """What `save_head` left."""
        values = load_file(Path(folder, f"{NAME}.safetensors"))
        for name, weight in self.named_parameters():
            local(weight).copy_(part_of(values[name], weight))


class Observer:
    """What policy, critic and the model before training make of an update's tokens before its first gradient.

    Args:
        engine: the way through the model.
        accelerator: of the trainer.
        start: opens the model before training; None if nobody asks for it.
        critic: (N, D) hidden states -> (N,) values; None if there is none.
    """

    def __init__(
        self, engine: Engine, accelerator: Accelerator, start: StartingModel | None, critic: nn.Module | None
    ) -> None:
        self._engine, self._accelerator, self._start, self._critic = engine, accelerator, start, critic
        self._known: dict[tuple[Sequence[int], Sequence[int]], Tensor] = {}

    @torch.no_grad()
    def before(self, model: nn.Module, update: Update, method: Method, token_budget: int) -> Before:
        """Everything that the method needs, with advantages of mean 0 and deviation 1 over the step's tokens."""
        old = values = None
        if method.needs.old or self._critic is not None:
            with autocast(self._accelerator):
                old, values = self._tokens(self._accelerator.unwrap_model(model), update.batch, token_budget)
        start = self._start
        before = Before(old=old, frozen=self._frozen(update, token_budget, start) if start else None, values=values)
        signals = torch.tensor([answer.signal for answer in update.batch.answers], dtype=torch.float64)
        before = method.credit(before, signals, update.batch.lengths)
        return replace(before, advantages=self._whitened(before.advantages))

    def _frozen(self, update: Update, token_budget: int, start: StartingModel) -> Tensor:
        """(N,), under the model before training; references and rejected answers are asked about only once."""
        batch = update.batch
        texts = [(group.item.prompt_ids, answer.ids) for group in batch.groups for answer in group.answers]
        new = [row for row, text in enumerate(texts) if text not in self._known]
        logps = torch.zeros(0, device=self._accelerator.device)
        if self._accelerator.gather(torch.tensor([len(new)], device=logps.device)).any():  # then all go through it
            with start() as model:
                logps, _ = self._tokens(model, batch.select(new), token_budget)
        parts = logps.split([len(texts[row][1]) for row in new])
        self._known |= {texts[row]: part for row, part in zip(new, parts, strict=True)}
        logps_of = [self._known[text] for text in texts]
        for text, answer in zip(texts, batch.answers, strict=True):
            if answer.role is Role.SAMPLE:
                self._known.pop(text, None)
        return torch.cat(logps_of) if logps_of else torch.zeros(0, device=self._accelerator.device)

    def _tokens(self, model: nn.Module, batch: Batch, token_budget: int) -> tuple[Tensor, Tensor | None]:
        """(N,) log-probabilities and values, in the order of the batch."""
        lengths, head = batch.lengths, self._critic  # in each pass: ZeRO gathers ahead what the last one went through
        logps, values = ({row: torch.zeros(0) for row in range(len(lengths))} for _ in range(2))

        def keep(rows: list[int], tokens: Tokens) -> Tensor:
            shown = [(logps, tokens.logps), *([(values, head(tokens.hidden))] if head is not None else [])]
            for by_row, of_tokens in shown if rows else ():
                by_row.update(zip(rows, of_tokens.float().split([lengths[row] for row in rows]), strict=True))
            return tokens.logps.new_zeros(())

        plan, parts = in_step(batch, self._engine.plan(batch, token_budget), self._accelerator)
        for rows, part in zip(plan, parts, strict=True):
            self._engine.run(model, part, partial(keep, rows))
        empty = torch.zeros(0, device=self._accelerator.device)
        return torch.cat([empty, *logps.values()]), None if head is None else torch.cat([empty, *values.values()])

    def _whitened(self, advantages: Tensor | None) -> Tensor | None:
        if advantages is None:
            return None
        sums = torch.stack([advantages.sum(), advantages.square().sum(), advantages.new_tensor(len(advantages))])
        total, squares, count = self._accelerator.reduce(sums, reduction="sum").tolist()
        mean, square = (total / count, squares / count) if count else (0.0, 0.0)
        return cast(Tensor, (advantages - mean) / (max(square - mean**2, 0.0) ** 0.5 + 1e-8))


class Learner:
    """Makes the gradients of updates, and holds all that this takes.

    Args:
        policy: the model that is trained; it gets a value head if the method asks for a critic.
        method: what is learned.
        config: token budget, router loss, importance weights, whether the KL divergence is measured.
        accelerator: of the trainer.
        pad_id: of the tokenizer.
        without: switches the adapter off, if that is the model before training; by default the weights that are
            trained are copied now, and put back while that model is asked.
        copied: bytes of the copy that samples, for which `auto` leaves room.
    """

    def __init__(
        self,
        policy: PreTrainedModel | PeftModel,
        method: Method,
        config: TrainingConfig,
        accelerator: Accelerator,
        pad_id: int,
        without: Callable[[], AbstractContextManager[None]] | None = None,
        copied: int = 0,
    ) -> None:
        self._accelerator, self._policy, self._config = accelerator, policy, config
        self.engine = engine_for(policy, pad_id)
        experts, total = Experts.of(policy), partial(accelerator.reduce, reduction="sum")
        readable = experts and experts.observable_with(self.engine, policy)
        self._routed = RoutedEngine(self.engine, experts, total) if experts and readable else None
        self.begin(method, without)
        size = config.token_budget if isinstance(config.token_budget, int) else self._affordable(config, copied)
        self.budget = Budget("training.token_budget", size, accelerator.num_processes == 1)

    def begin(self, method: Method, without: Callable[[], AbstractContextManager[None]] | None = None) -> None:
        """Learns by this method from now on; the policy as it is now is the model before training.

        Args:
            method: its needs count.
            without: as in the constructor.
        """
        policy, needs, config, accelerator = self._policy, method.needs, self._config, self._accelerator
        asked = needs.frozen or config.measure_kl
        self._without = without
        whole = split_over(accelerator) > 1  # until there are parts to keep
        moved = {n: w for n, w in named_weights(policy).items() if w.requires_grad and asked and without is None}
        self._start = {
            name: local(weight).detach().to("cpu" if whole and not is_split(weight) else accelerator.device, copy=True)
            for name, weight in moved.items()
        }
        self.speedometer = Speedometer(policy, accelerator, needs.updates, int(needs.old) + int(asked))
        self.critic = _value_head(policy) if needs.critic else None
        self._observer = Observer(
            self._routed or self.engine, accelerator, self._starting_model if asked else None, self.critic
        )
        routers = Routers.of(transformers_model(policy)) if config.router_loss else None
        cap = config.importance_cap
        importance = Importance(cap, RATIOS[config.importance_of]) if cap else None
        self._minimised = UpdateLoss(method, self.critic, routers, config.router_loss, importance)

    def before(self, model: nn.Module, update: Update, method: Method) -> Before:
        """What has to be known of an update before its first gradient; `method` in its state at this step."""
        if not self.speedometer.forwards:
            return Before()
        model.eval()  # as when the samples were drawn
        return self.budget.run(lambda tokens: self._observer.before(model, update, method, tokens))

    def gradient(self, model: nn.Module, update: Update, before: Before, method: Method) -> Seen:
        """Leaves the gradient of one optimiser step in the model's weights; `method` in its state at this step."""
        model.train()
        minimised, engine = replace(self._minimised, method=method), self._routed or self.engine

        def accumulate(token_budget: int) -> Seen:
            model.zero_grad()  # what an attempt that ran out of memory left
            if self._routed:
                self._routed.begin()
            return accumulate_gradient(model, update, self._accelerator, engine, token_budget, minimised, before)

        seen = self.budget.run(accumulate)
        return replace(seen, experts=self._routed.numbers()) if self._routed else seen

    def _affordable(self, config: TrainingConfig, copied: int) -> int:
        """Tokens of a micro-batch for which there is room beside gradients and optimiser: a GPU is tried with few."""
        device, policy, parts = self._accelerator.device, self._policy, split_over(self._accelerator)
        free = free_bytes(device)
        if free is None:
            return TOKENS
        if config.trainer.get("gradient_checkpointing"):
            checkpoint_activations(policy, config.trainer.get("gradient_checkpointing_kwargs"))

        def work(tokens: int) -> None:
            quarter = tokens // 4
            batch = random_batch(policy, (quarter,), ((quarter, 1.0, 0),) * 3)
            with self._accelerator.autocast(), mode(policy, training=True):
                self.engine.run(policy, batch).loss.backward()

        with gradients_dropped(policy):  # a budget that is as small as it gets: what it says of it is one line
            needed = Budget("training.token_budget", PROBES[-1], alone=False).run(lambda _: measured(work, device))
        optimizer, half = str(config.trainer.get("optim", "")), half_precision(self._accelerator)
        kept = copied + kept_bytes(policy, optimizer, parts, half) + trained_bytes(policy, parts, half)
        if parts > 1:
            kept += gathered_bytes(policy, half) + (trained_bytes(policy, parts, half) if self._start else 0)
        return needed.within(UPDATE_SHARE * (free - kept), TOKENS)

    @contextmanager
    def _starting_model(self) -> Iterator[nn.Module]:
        """The model before training."""
        looked = self._routed.initial_model() if self._routed else nullcontext()
        start = self._without() if self._without else swapped_weights(self._policy, self._start)
        with looked, autocast(self._accelerator), start:
            yield self._policy


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


def save_head(weights: dict[str, Tensor], folder: str) -> dict[str, Tensor]:
    """Writes a policy's critic into a file of its own; what remains are the weights of a plain language model."""
    head = {name.rpartition(f"{NAME}.")[2]: value for name, value in weights.items() if f"{NAME}." in name}
    Path(folder).mkdir(parents=True, exist_ok=True)
    save_file(head, Path(folder, f"{NAME}.safetensors"))
    return {name: value for name, value in weights.items() if f"{NAME}." not in name}
