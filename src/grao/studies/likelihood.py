"""How likely a model holds answers to be that another one gave: the KL divergence between the two, answer by answer."""

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
"""Answers that are forwarded at once."""


@torch.no_grad()
def sequence_likelihoods(
    trainer: GRAOTrainer, items: Sequence[Encoded], answers: Sequence[RecordedAnswer]
) -> list[float]:
    """log pi(o) in nats of N answers, at temperature 1, under the trainer's model.

    Raises:
        InputError: if an answer holds a token that the model does not have.
    """
    model = trainer.accelerator.unwrap_model(trainer.model).eval()
    check_tokens(model, trainer.tokenizer, "--kl", [max(answer.token_ids) for answer in answers])
    found: list[float] = []
    for start in range(0, len(items), _ROWS):
        prompts = [item.prompt_ids for item in items[start : start + _ROWS]]
        ids = [answer.token_ids for answer in answers[start : start + _ROWS]]
        found += completion_likelihood(model, prompts, ids, trainer.pad_id).tokens.double().sum(dim=1).tolist()
    return found


def run_of(path: str) -> Path | None:
    """The run whose folder, model or checkpoint a path names."""
    here = Path(path)
    folders = (here, *list(here.parents)[:2]) if here.exists() else ()
    return next((each for each in folders if (each / "recipe.yaml").is_file() and (each / "model").is_dir()), None)


def start_of(path: str) -> str | None:
    """What a model was trained from: the start of a run, or the base of an adapter; None where it is not known."""
    if (run := run_of(path)) is not None:
        return load_recipe(run / "recipe.yaml").model.path
    adapter = adapter_at(path)
    return adapter.base if adapter else None
