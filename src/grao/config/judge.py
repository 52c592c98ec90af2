"""The section of a judge: a language model that says which of two answers is better."""

import re
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field
from pydantic.dataclasses import dataclass

from grao.config.basics import STRICT, NonNegativeFloat, PositiveFloat, PositiveInt

_OURS = ("model", "messages", "temperature", "max_tokens", "n", "stream")
"""Fields of a request that are set elsewhere or cannot be changed."""


@dataclass(config=STRICT, frozen=True)
class LocalJudgeConfig:
    """A judge without a server: the probabilities that a model here gives to the three verdicts."""

    path: Annotated[str, Field(min_length=1, examples=["Qwen/Qwen2.5-7B-Instruct"])]
    """A model folder or hub id (safetensors only)."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of its weights."""
    tie_margin: Annotated[float, Field(ge=0, le=1)] = 0.0
    """A tie if the probabilities of better and worse are closer than this."""
    batch_size: PositiveInt = 8
    """Questions that are forwarded at once (memory)."""


@dataclass(config=STRICT, frozen=True)
class JudgeConfig:
    """A language model that compares each answer with the reference: on an OpenAI-compatible server, or local."""

    model: Annotated[str, Field(min_length=1)] | None = None
    """Name of the model on the server."""
    base_url: str | None = None
    """Address of the server, it mostly ends in /v1; by default OpenAI's."""
    api_key_env: str | None = "OPENAI_API_KEY"
    """Environment variable that holds the key; null for a server that wants none."""
    local: LocalJudgeConfig | None = None
    """A model here, in place of one on a server."""
    criterion: Annotated[str, Field(min_length=1)] = "helpful"
    """helpful, harmless, truthful, fair, domain, or a text file with a template of your own."""
    domain: str | None = None
    """The field that criterion `domain` speaks of."""
    orders: Literal["both", "one"] = "both"
    """`both` asks about each pair twice, and a flip is a tie; `one` costs half, its order is drawn."""
    temperature: NonNegativeFloat | None = 0.0
    """Of the judge; null leaves it to the server."""
    max_tokens: PositiveInt | None = 512
    """Longest answer; a judge that reasons needs more. null leaves it to the server."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Further fields of each request, as the server knows them (reasoning_effort, max_completion_tokens, ...)."""
    concurrency: PositiveInt = 32
    """Requests under way at once, of each process."""
    rate_limit: PositiveInt | None = None
    """Requests a minute, of each process."""
    timeout: PositiveFloat = 60.0
    """Seconds for one request."""
    retries: Annotated[int, Field(ge=0)] = 5
    """Further attempts at a question that fails."""
    patience: PositiveFloat = 300.0
    """Seconds without any answer, after which the run stops, to be resumed."""
    ledger: Path | None = None
    """File that keeps every answer; shared by runs. By default judge-ledger.sqlite beside the run folder."""
    replay: bool = False
    """Take all verdicts from the ledger and ask nobody."""
    price_input: NonNegativeFloat | None = None
    """Price of a million tokens that the judge reads."""
    price_output: NonNegativeFloat | None = None
    """Price of a million tokens that it writes."""
    max_cost: PositiveFloat | None = None
    """The most that this run may spend; it stops before, to be resumed."""

    def __post_init__(self) -> None:
        if (self.model is None) == (self.local is None):
            raise ValueError("give either model, on a server, or local with its path")
        if (self.price_input is None) != (self.price_output is None):
            raise ValueError("give price_input and price_output, or neither")
        if self.max_cost is not None and self.price_input is None:
            raise ValueError("max_cost needs price_input and price_output")
        if (self.criterion == "domain") != (self.domain is not None):
            raise ValueError("criterion: domain needs the field domain, and no other criterion takes it")
        if self.api_key_env is not None and not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", self.api_key_env):
            raise ValueError("api_key_env is the name of an environment variable, not the key itself")
        if self.base_url is not None:
            _check_address(self.base_url)
        for name in self.extra:
            if name in _OURS:
                raise ValueError(f"extra.{name} cannot be set there")
        longest = self.extra.get("max_completion_tokens", 1)
        if not isinstance(longest, int) or longest < 1:
            raise ValueError("extra.max_completion_tokens must be a whole number of at least 1")


def _check_address(url: str) -> None:
    try:
        parts = urlsplit(url)
        found = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and len(url.split()) == 1
    except ValueError:  # a port that is no number, half of an IPv6 address
        found = False
    if not found:
        raise ValueError("base_url must begin with http:// or https:// and name a host, and a port if it needs one")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("base_url must hold no user, password or query; the key comes from api_key_env")
