"""A look at an update before it is made: what policy, critic and the model before training say of its tokens."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from grao.core.transfer import sent
from grao.methods import Before, Method, Role
from grao.methods.tokens import token_places
from grao.models import Batch, Engine, Tokens
from grao.training.experience import Update

StartingModel = Callable[[], AbstractContextManager[nn.Module]]
"""Opens the model as it was before training."""


class Observer:
    """Looks at updates.

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
    def look(self, model: nn.Module, update: Update, method: Method, token_budget: int) -> Before:
        """Everything that the method needs, with advantages of mean 0 and deviation 1 over the step's tokens."""
        old = values = None
        if method.needs.old or self._critic is not None:
            with self._accelerator.autocast():
                old, values = self._tokens(self._accelerator.unwrap_model(model), update.batch, token_budget)
        before = Before(old=old, frozen=self._frozen(update, token_budget) if self._start else None, values=values)
        if method.credit is None:
            return before
        before = method.credit(before, update.weights, update.batch.lengths()[1])
        return replace(before, advantages=self._whitened(before.advantages))

    def _frozen(self, update: Update, token_budget: int) -> Tensor:
        """(N,), under the model before training; references and rejected answers are asked about only once."""
        batch, texts = update.batch, list(zip(update.batch.prompts, update.batch.completions, strict=True))
        new = [place for place, text in enumerate(texts) if text not in self._known]
        if new and self._start is not None:
            with self._start() as model:
                logps, _ = self._tokens(model, batch.rows(new), token_budget, critic=False)
            parts = logps.split([len(batch.completions[place]) for place in new])
            self._known |= {texts[place]: part for place, part in zip(new, parts, strict=True)}
        found = [self._known[text] for text in texts]
        for text, role in zip(texts, update.roles.tolist(), strict=True):
            if role == Role.SAMPLE:
                self._known.pop(text, None)
        return torch.cat(found) if found else torch.zeros(0, device=self._accelerator.device)

    def _tokens(
        self, model: nn.Module, batch: Batch, token_budget: int, critic: bool = True
    ) -> tuple[Tensor, Tensor | None]:
        """(N,) log-probabilities and values, in the order of the batch."""
        lengths = batch.lengths()[1]
        logps, values = (torch.zeros(sum(lengths), device=self._accelerator.device) for _ in range(2))
        head = self._critic if critic else None

        def keep(tokens: Tokens) -> Tensor:
            logps[places] = tokens.logps.to(logps)
            if head is not None:
                values[places] = head(tokens.hidden).to(values)
            return tokens.logps.new_zeros(())

        for rows in self._engine.plan(batch, token_budget):
            places = sent(token_places(lengths, rows), logps.device)
            self._engine.run(model, batch.rows(rows), keep)
        return logps, None if head is None else values

    def _whitened(self, advantages: Tensor | None) -> Tensor | None:
        if advantages is None:
            return None
        sums = torch.stack([advantages.sum(), advantages.square().sum(), advantages.new_tensor(len(advantages))])
        total, squares, count = self._accelerator.reduce(sums, reduction="sum").tolist()
        mean, square = (total / count, squares / count) if count else (0.0, 0.0)
        whitened: Tensor = (advantages - mean) / (max(square - mean**2, 0.0) ** 0.5 + 1e-8)
        return whitened
