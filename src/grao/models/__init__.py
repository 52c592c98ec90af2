"""Loading, adapters, stop tokens, and log-likelihoods out of the wrapped model's forward."""

from grao.models.engine import Batch, Engine, Loss, Pass, Tokens
from grao.models.engines import engine_for
from grao.models.likelihood import Likelihood, completion_likelihood
from grao.models.loading import add_adapter, load_model, load_tokenizer, parameter_count, usual_learning_rate
from grao.models.packed import PackedEngine, transformers_model
from grao.models.padded import PaddedEngine
from grao.models.routers import BalancedPass, Routers, routed_pass
from grao.models.stopping import likeliest_stop, stop_token_ids

__all__ = [
    "BalancedPass",
    "Batch",
    "Engine",
    "Likelihood",
    "Loss",
    "PackedEngine",
    "PaddedEngine",
    "Pass",
    "Routers",
    "Tokens",
    "add_adapter",
    "completion_likelihood",
    "engine_for",
    "likeliest_stop",
    "load_model",
    "load_tokenizer",
    "parameter_count",
    "routed_pass",
    "stop_token_ids",
    "transformers_model",
    "usual_learning_rate",
]
