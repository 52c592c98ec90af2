"""Log-likelihood of answers under a model, for the KL divergence between two models."""

from collections.abc import Sequence
from pathlib import Path

import torch

from grao.config.load import load_recipe
from grao.engine.adapters import adapter_at
from grao.engine.limits import check_tokens
from grao.engine.padded import completion_likelihood
from grao.records.run import RecordedAnswer
from grao.training.trainer import GRAOTrainer
from grao.types import Encoded

_ROWS = 8
"""Answers per forward pass."""


@torch.no_grad()
def sequence_likelihoods(
    trainer: GRAOTrainer, items: Sequence[Encoded], answers: Sequence[RecordedAnswer]
) -> list[float]:
    """Return log pi(o) in nats of N answers, at temperature 1, under the trainer's model.

    Raises:
        InputError: if an answer contains a token that the model does not have.
    """
    model = trainer.accelerator.unwrap_model(trainer.model).eval()
    check_tokens(model, trainer.tokenizer, "--kl", [max(answer.token_ids) for answer in answers])
    logps: list[float] = []
    for start in range(0, len(items), _ROWS):
        prompts = [item.prompt_ids for item in items[start : start + _ROWS]]
        ids = [answer.token_ids for answer in answers[start : start + _ROWS]]
        logps += completion_likelihood(model, prompts, ids, trainer.pad_id).tokens.double().sum(dim=1).tolist()
    return logps


def run_of(path: str) -> Path | None:
    """Return the run that a path names by its folder, model or checkpoint; None if there is none."""
    named = Path(path)
    folders = (named, *list(named.parents)[:2]) if named.exists() else ()
    return next((run for run in folders if (run / "recipe.yaml").is_file() and (run / "model").is_dir()), None)


def start_of(path: str) -> str | None:
    """Return the model that a model was trained from: a run's start model or an adapter's base; None if unknown."""
    if (run := run_of(path)) is not None:
        return load_recipe(run / "recipe.yaml").model.path
    adapter = adapter_at(path)
    return adapter.base if adapter else None
