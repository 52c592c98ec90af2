"""Loading, adapters, stop tokens, and log-likelihoods out of the wrapped model's forward."""

from grao.models.engines import Batch, Engine, PackedEngine, PaddedEngine, Pass, engine_for
from grao.models.likelihood import Likelihood, completion_likelihood
from grao.models.loading import add_adapter, load_model, load_tokenizer, parameter_count, usual_learning_rate
from grao.models.stopping import likeliest_stop, stop_token_ids

__all__ = [
    "Batch",
    "Engine",
    "Likelihood",
    "PackedEngine",
    "PaddedEngine",
    "Pass",
    "add_adapter",
    "completion_likelihood",
    "engine_for",
    "likeliest_stop",
    "load_model",
    "load_tokenizer",
    "parameter_count",
    "stop_token_ids",
    "usual_learning_rate",
]
