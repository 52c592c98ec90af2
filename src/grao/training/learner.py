"""Gradients of updates: engine, frozen starting model, critic and token budget.

Before the first gradient step on an update the `Observer` computes what the method needs: log-probabilities under the
policy and under the starting model, and the critic's values.
"""

import hashlib
from array import array
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
from grao.engine.flops import Work
from grao.engine.footprint import gathered_bytes, kept_bytes, trained_bytes
from grao.engine.interface import Engine, Tokens, checkpoint_activations, mode, transformers_model
from grao.engine.memory import PROBES, TOKENS, UPDATE_SHARE, Budget, free_bytes, gradients_dropped, measure_peak
from grao.engine.routers import Routers
from grao.engine.select import engine_for, random_batch
from grao.engine.sharded import (
    autocast,
    half_precision,
    is_split,
    local_shard,
    named_weights,
    shard_of,
    split_over,
    swapped_weights,
)
from grao.methods.base import Before, Method
from grao.training.accumulate import StepOutput, UpdateLoss, accumulate_gradient, aligned_micro_batches
from grao.training.experience import Update
from grao.training.gap import RATIOS, Importance
from grao.training.metrics import Speedometer
from grao.types import Batch, Role

StartingModel = Callable[[], AbstractContextManager[nn.Module]]
"""Context that gives the model as it was before training."""

NAME = "value_head"
"""Name of the critic as a submodule of the policy, where optimizer and data parallelism see it."""
_DIGITS = 16
"""Hexadecimal digits of a text's digest."""


class ValueHead(nn.Module):
    """Critic: maps (N, D) hidden states to (N,) values, initially 0.

    Args:
        size: D.
        device: of its weights.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        super().__init__()
        self.linear = nn.Linear(size, 1, device=device)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the (N,) values of (N, D) hidden states."""
        return cast(Tensor, self.linear(hidden.to(self.linear.weight.dtype)).squeeze(-1))

    @torch.no_grad()
    def load(self, folder: str) -> None:
        """Load the weights that `save_head` wrote into a folder."""
        values = load_file(Path(folder, f"{NAME}.safetensors"))
        for name, weight in self.named_parameters():
            local_shard(weight).copy_(shard_of(values[name], weight))


class Observer:
    """Evaluates policy, critic and starting model on an update's tokens before its first gradient step.

    Args:
        engine: runs the forward passes.
        accelerator: the trainer's accelerator.
        start: opens the starting model; None if it is not needed.
        critic: maps (N, D) hidden states to (N,) values; None if there is none.
    """

    def __init__(
        self, engine: Engine, accelerator: Accelerator, start: StartingModel | None, critic: nn.Module | None
    ) -> None:
        self._engine, self._accelerator, self._start, self._critic = engine, accelerator, start, critic
        self._known: dict[tuple[Sequence[int], Sequence[int]], Tensor] = {}
        self._counted: set[str] = set()
        self.passes: list[Work] = []
        """Forward passes of the last `before` on this process, without those that only a resume repeats."""

    @torch.no_grad()
    def before(self, model: nn.Module, update: Update, method: Method, token_budget: int) -> Before:
        """Return all that the method needs; advantages have mean 0 and deviation 1 over the step's tokens.

        Args:
            model: the policy as wrapped by the trainer.
            update: of this process.
            method: in its state at this step.
            token_budget: maximum tokens per micro-batch.
        """
        self.passes = []
        old = values = None
        if method.needs.old or self._critic is not None:
            with autocast(self._accelerator):
                old, values = self._tokens(self._accelerator.unwrap_model(model), update.batch, token_budget)
            self.passes.append(_work(update.batch))
        start = self._start
        before = Before(old=old, frozen=self._frozen(update, token_budget, start) if start else None, values=values)
        signals = torch.tensor([answer.signal for answer in update.batch.answers], dtype=torch.float64)
        before = method.credit(before, signals, update.batch.lengths)
        return replace(before, advantages=self._whitened(before.advantages))

    def _frozen(self, update: Update, token_budget: int, start: StartingModel) -> Tensor:
        """Return (N,) log-probabilities under the starting model; all but those of samples are cached."""
        batch = update.batch
        texts = [(group.item.prompt_ids, answer.ids) for group in batch.groups for answer in group.answers]
        new = [row for row, text in enumerate(texts) if text not in self._known]
        logps = torch.zeros(0, device=self._accelerator.device)
        if self._accelerator.gather(torch.tensor([len(new)], device=logps.device)).any():  # then every process runs it
            with start() as model:
                logps, _ = self._tokens(model, batch.select(new), token_budget)
        counted = [row for row in new if not self._counted or _digest(texts[row]) not in self._counted]
        self.passes.append(_work(batch.select(counted)))
        if self._counted:
            self._counted.difference_update(_digest(texts[row]) for row in new)
        parts = logps.split([len(texts[row][1]) for row in new])
        self._known |= {texts[row]: part for row, part in zip(new, parts, strict=True)}
        logps_of = [self._known[text] for text in texts]
        for text, answer in zip(texts, batch.answers, strict=True):
            if answer.role is Role.SAMPLE:
                self._known.pop(text, None)
        return torch.cat(logps_of) if logps_of else torch.zeros(0, device=self._accelerator.device)

    @property
    def frozen_texts(self) -> str:
        """Concatenated digests of the texts whose log-probabilities under the starting model are cached."""
        return "".join(sorted({*map(_digest, self._known), *self._counted}))

    def resume(self, digests: str) -> None:
        """Restore `frozen_texts` from a checkpoint: these texts are forwarded once more, but not counted again."""
        self._counted = {digests[start : start + _DIGITS] for start in range(0, len(digests), _DIGITS)}

    def _tokens(self, model: nn.Module, batch: Batch, token_budget: int) -> tuple[Tensor, Tensor | None]:
        """Return (N,) log-probabilities and values, in the order of the batch."""
        lengths, head = batch.lengths, self._critic  # the head runs in every pass: ZeRO prefetches by the last one
        logps, values = ({row: torch.zeros(0) for row in range(len(lengths))} for _ in range(2))

        def keep(rows: list[int], tokens: Tokens) -> Tensor:
            outputs = [(logps, tokens.logps), *([(values, head(tokens.hidden))] if head is not None else [])]
            for by_row, values_of_tokens in outputs if rows else ():
                by_row.update(zip(rows, values_of_tokens.float().split([lengths[row] for row in rows]), strict=True))
            return tokens.logps.new_zeros(())

        plan, parts = aligned_micro_batches(batch, self._engine.plan(batch, token_budget), self._accelerator)
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
    """Computes the gradients of updates.

    Args:
        policy: the trained model; it gets a value head if the method needs a critic.
        method: the method of the first stage.
        config: token budget, router loss, importance weights, and whether the KL divergence is measured.
        accelerator: the trainer's accelerator.
        pad_id: the tokenizer's padding token.
        without: context that disables the adapter, if the model without it is the starting model; by default the
            trained weights are copied now, and swapped in to evaluate the starting model.
        copied: bytes of the policy's copy for sampling, for which a token budget of `auto` leaves room.
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
        """Begin a stage: use this method from now on, with the current policy as the starting model.

        Args:
            method: the method of the stage.
            without: as in the constructor.
        """
        policy, needs, config, accelerator = self._policy, method.needs, self._config, self._accelerator
        needs_start = needs.frozen or config.measure_kl
        self._without = without
        will_split = split_over(accelerator) > 1  # copies of weights that are not sharded yet go to the CPU
        copied = needs_start and without is None
        trained = {n: w for n, w in named_weights(policy).items() if w.requires_grad and copied}
        self._start = {}
        for name, weight in trained.items():
            device = "cpu" if will_split and not is_split(weight) else accelerator.device
            self._start[name] = local_shard(weight).detach().to(device, copy=True)
        self.speedometer = Speedometer(policy, accelerator, needs.updates)
        self._observes = needs.old or needs.critic or needs_start
        self.critic = _value_head(policy) if needs.critic else None
        self.observer = Observer(
            self._routed or self.engine, accelerator, self._starting_model if needs_start else None, self.critic
        )
        routers = Routers.of(transformers_model(policy)) if config.router_loss else None
        cap = config.importance_cap
        importance = Importance(cap, RATIOS[config.importance_of]) if cap else None
        self._update_loss = UpdateLoss(method, self.critic, routers, config.router_loss, importance)

    def before(self, model: nn.Module, update: Update, method: Method) -> Before:
        """Evaluate an update before its first gradient step, see `Observer.before`."""
        if not self._observes:
            return Before()
        model.eval()  # as during sampling
        return self.budget.run(lambda tokens: self.observer.before(model, update, method, tokens))

    def operations(self, update: Update) -> dict[str, float]:
        """Return operations and tokens of a finished step, see `Speedometer.operations`."""
        return self.speedometer.operations(update, self.observer.passes)

    def gradient(self, model: nn.Module, update: Update, before: Before, method: Method) -> StepOutput:
        """Compute the gradient of one optimizer step, and leave it in the model's weights.

        Args:
            model: the policy as wrapped by the trainer.
            update: of this process.
            before: returned by `before`.
            method: in its state at this step.
        """
        model.train()
        update_loss, engine = replace(self._update_loss, method=method), self._routed or self.engine

        def accumulate(token_budget: int) -> StepOutput:
            model.zero_grad()  # may hold gradients of an attempt that ran out of memory
            if self._routed:
                self._routed.begin()
            return accumulate_gradient(model, update, self._accelerator, engine, token_budget, update_loss, before)

        output = self.budget.run(accumulate)
        return replace(output, experts=self._routed.numbers()) if self._routed else output

    def _affordable(self, config: TrainingConfig, copied: int) -> int:
        """Return the token budget that fits beside gradients and optimizer, from a small trial on the GPU."""
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

        with gradients_dropped(policy):  # if even the smallest budget fails, that is a one-line error
            needed = Budget("training.token_budget", PROBES[-1], alone=False).run(lambda _: measure_peak(work, device))
        optimizer, half = str(config.trainer.get("optim", "")), half_precision(self._accelerator)
        reserved = copied + kept_bytes(policy, optimizer, parts, half) + trained_bytes(policy, parts, half)
        if parts > 1:
            reserved += gathered_bytes(policy, half) + (trained_bytes(policy, parts, half) if self._start else 0)
        return needed.within(UPDATE_SHARE * (free - reserved), TOKENS)

    @contextmanager
    def _starting_model(self) -> Iterator[nn.Module]:
        """Swap in the starting model."""
        routing = self._routed.initial_model() if self._routed else nullcontext()
        start = self._without() if self._without else swapped_weights(self._policy, self._start)
        with routing, autocast(self._accelerator), start:
            yield self._policy


def merged_updates(updates: list[StepOutput]) -> StepOutput:
    """Return the first of several outputs on one batch, with the method's numbers averaged over all."""
    first = updates[0]
    numbers = {name: torch.stack([output.numbers[name] for output in updates]).mean(dim=0) for name in first.numbers}
    return replace(first, numbers=numbers)


def _work(batch: Batch) -> Work:
    """Return the work of a forward pass over a batch."""
    return Work.of(
        (len(group.item.prompt_ids), [len(answer.ids) for answer in group.answers]) for group in batch.groups
    )


def _digest(text: tuple[Sequence[int], Sequence[int]]) -> str:
    """Return a digest of the token ids of a prompt and its answer."""
    prompt, answer = text
    ids = array("q", (len(prompt), *prompt, *answer)).tobytes()
    return hashlib.blake2b(ids, digest_size=_DIGITS // 2).hexdigest()


def _value_head(policy: nn.Module) -> ValueHead:
    inner = transformers_model(policy)
    config: Any = inner.config.get_text_config()
    head = ValueHead(config.hidden_size, inner.device)
    policy.add_module(NAME, head)
    return head


def save_head(weights: dict[str, Tensor], folder: str) -> dict[str, Tensor]:
    """Write a policy's critic into `value_head.safetensors`.

    Args:
        weights: of the policy with its critic.
        folder: created if missing.

    Returns:
        The weights of the plain language model.
    """
    head = {name.rpartition(f"{NAME}.")[2]: value for name, value in weights.items() if f"{NAME}." in name}
    Path(folder).mkdir(parents=True, exist_ok=True)
    save_file(head, Path(folder, f"{NAME}.safetensors"))
    return {name: value for name, value in weights.items() if f"{NAME}." not in name}
