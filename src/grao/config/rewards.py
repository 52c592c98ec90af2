"""Settings of rewards: what scores an answer, and how scores are combined.

A reward is a function, a judge (a language model that compares two answers), a trained reward model or a rule about the
text. Each rule has a section of its own and scores answers from 0 to 1 (`overlap`: from -1 to 0). The rules are
implemented in `grao.rewards.rules`.
"""

import re
from dataclasses import field
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field

from grao.settings import (
    Dtype,
    FilePath,
    NonNegativeFloat,
    NonNegativeInt,
    Number,
    PathText,
    PositiveFloat,
    PositiveInt,
    Share,
    Text,
    settings,
)

Language = Literal["en", "de", "fr", "es", "it", "pt", "nl", "ru", "el", "ar", "he", "hi", "th", "ko", "zh", "ja"]
_RESERVED = ("model", "messages", "temperature", "max_tokens", "n", "stream")
"""Request fields that `extra` cannot set: they are fixed or have settings of their own."""


@settings
class LocalJudgeConfig:
    """A judge without a server: a local model's probabilities of the three verdicts."""

    path: Annotated[PathText, Field(examples=["Qwen/Qwen2.5-7B-Instruct"])]
    """A model folder or hub id (safetensors only)."""
    dtype: Dtype = "auto"
    """Data type of its weights; `auto` is the checkpoint's."""
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments for its chat template, such as enable_thinking: false."""
    tie_margin: Share = 0.0
    """Tie if the probabilities of better and worse differ by less than this."""
    batch_size: PositiveInt = 8
    """Questions per forward pass (memory)."""


@settings
class JudgeConfig:
    """A language model that compares each answer with the reference, on an OpenAI-compatible server or locally."""

    model: Text | None = None
    """Name of the model on the server."""
    base_url: str | None = None
    """Base URL of the server, which usually ends in /v1; by default OpenAI's."""
    api_key_env: str | None = "OPENAI_API_KEY"
    """Environment variable with the API key; null if the server needs none."""
    local: LocalJudgeConfig | None = None
    """A local model instead of a server."""
    criterion: Text = "helpful"
    """helpful, harmless, truthful, fair, domain, or a text file with your own prompt template."""
    domain: str | None = None
    """Subject area for criterion `domain`."""
    orders: Literal["both", "one"] = "both"
    """`both`: judge each pair in both orders, and count a flip as a tie; `one`: in a random order, at half the cost."""
    temperature: NonNegativeFloat | None = 0.0
    """Sampling temperature of the judge; null for the server's default."""
    max_tokens: PositiveInt | None = 512
    """Maximum length of its reply in tokens; reasoning judges need more. null for the server's default."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Other fields of each request (reasoning_effort, max_completion_tokens, ...)."""
    concurrency: PositiveInt = 32
    """Concurrent requests per process."""
    rate_limit: PositiveInt | None = None
    """Requests per minute and process."""
    timeout: PositiveFloat = 60.0
    """Timeout of a request, in seconds."""
    retries: NonNegativeInt = 5
    """Retries of a failed question."""
    patience: PositiveFloat = 300.0
    """Seconds without any reply after which the run stops; it can be resumed."""
    ledger: FilePath | None = None
    """File that stores all replies; runs may share it. By default judge-ledger.sqlite next to the run folder."""
    replay: bool = False
    """Take all verdicts from the ledger; send no requests."""
    price_input: NonNegativeFloat | None = None
    """Price per million input tokens."""
    price_output: NonNegativeFloat | None = None
    """Price per million output tokens."""
    max_cost: PositiveFloat | None = None
    """Cost limit of the run, in the currency of the prices. The run stops before exceeding it and can be resumed."""

    def __post_init__(self) -> None:
        if (self.model is None) == (self.local is None):
            raise ValueError("give either model, for a server, or local with its path")
        if (self.price_input is None) != (self.price_output is None):
            raise ValueError("give both price_input and price_output, or neither")
        if self.max_cost is not None and self.price_input is None:
            raise ValueError("max_cost needs price_input and price_output")
        if (self.criterion == "domain") != (self.domain is not None):
            raise ValueError("domain is required with criterion: domain, and not allowed with any other")
        if self.api_key_env is not None and not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", self.api_key_env):
            raise ValueError("api_key_env must be the name of an environment variable, not the key itself")
        if self.base_url is not None:
            _check_address(self.base_url)
        if reserved := [name for name in self.extra if name in _RESERVED]:
            raise ValueError(f"extra.{reserved[0]} cannot be set; it is fixed or has a setting of its own")
        longest = self.extra.get("max_completion_tokens", 1)
        if not isinstance(longest, int) or longest < 1:
            raise ValueError("extra.max_completion_tokens must be a whole number of at least 1")


def _check_address(url: str) -> None:
    try:
        parts = urlsplit(url)
        complete = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and len(url.split()) == 1
    except ValueError:  # an invalid port or IPv6 address
        complete = False
    if not complete:
        raise ValueError("base_url must start with http:// or https:// and contain a valid host and port")
    if parts.username or parts.password or parts.query or parts.fragment:
        remedy = "put the key into an environment variable and its name into api_key_env"
        raise ValueError(f"base_url must not contain user, password or query; {remedy}")


@settings
class RewardModelConfig:
    """A trained reward model: R(o, y) = r(o) - r(y)."""

    path: Annotated[PathText, Field(examples=["runs/reward/model"])]
    """Its folder, such as `model/` from `grao reward train`, or a hub id (safetensors only)."""
    dtype: Dtype = "auto"
    """Data type of its weights; `auto` is the checkpoint's."""
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments for its chat template, such as enable_thinking: false."""
    token_budget: PositiveInt = 16384
    """Tokens per forward pass (memory)."""


class RuleSettings:
    """Base class of the settings of rules."""


@settings
class ExactRule(RuleSettings):
    """1 if the answer equals the reference, ignoring white space."""

    column: str | None = None
    """Compare with this column of the data instead of the reference."""
    ignore_case: bool = False
    """Ignore upper and lower case."""


@settings
class NumericRule(RuleSettings):
    """1 if the final numbers agree: the number after the last ####, else in the last \\boxed{}, else the last one."""

    column: str | None = None
    """Compare with this column of the data instead of the reference."""
    tolerance: NonNegativeFloat = 1e-6
    """Largest difference between numbers that count as equal."""


@settings
class RegexRule(RuleSettings):
    """1 if the pattern occurs in the answer. To penalise it, give the reward a negative weight."""

    pattern: Annotated[Text, Field(examples=["(?i)thank you"])]
    """Regular expression (Python's re)."""

    def __post_init__(self) -> None:
        _check_pattern(self.pattern)


@settings
class LengthRule(RuleSettings):
    """1 at the desired length, less the further the length ratio is from 1; set either target or at_most."""

    target: PositiveInt | None = None
    """Desired length; twice or half of it scores 0.5."""
    at_most: PositiveInt | None = None
    """Maximum length; twice as long scores 0.5."""
    unit: Literal["words", "characters"] = "words"
    """Unit of length."""

    def __post_init__(self) -> None:
        if (self.target is None) == (self.at_most is None):
            raise ValueError("give either target or at_most")


@settings
class FormatRule(RuleSettings):
    """The form of the whole answer; set either pattern or sections."""

    pattern: Text | None = None
    """Regular expression that the whole answer must match (a dot also matches line breaks)."""
    sections: tuple[Text, ...] = ()
    """Texts, such as headings, that must occur in this order; the score is the share that does."""

    def __post_init__(self) -> None:
        if (self.pattern is None) == (not self.sections):
            raise ValueError("give either pattern or sections")
        _check_pattern(self.pattern or "")


@settings
class OverlapRule(RuleSettings):
    """Minus the share of the answer that is copied verbatim from the reference; the reference itself scores 0."""

    words: PositiveInt = 5
    """Shortest copied sequence that counts, in words."""


@settings
class LanguageRule(RuleSettings):
    """Share of letters in the script of the language; 0 if the words indicate another language in that script."""

    language: Annotated[Language, Field(examples=["en"])]
    """Language code."""


@settings
class JsonRule(RuleSettings):
    """1 if the answer is JSON; with required keys, the share of them that the object has."""

    required: tuple[str, ...] = ()
    """Keys that the object must have at the top level."""
    fenced: bool = False
    """Also accept JSON in a single fenced code block."""


@settings
class EmbeddingRule(RuleSettings):
    """Semantic similarity to the reference: cosine of mean-pooled encoder embeddings."""

    model: Annotated[PathText, Field(examples=["sentence-transformers/all-MiniLM-L6-v2"])]
    """A model folder or hub id (safetensors only)."""


@settings
class RuleConfig:
    """A rule: exactly one of these sections. Write a rule without settings as `exact: {}`."""

    exact: ExactRule | None = None
    numeric: NumericRule | None = None
    regex: RegexRule | None = None
    length: LengthRule | None = None
    format: FormatRule | None = None
    overlap: OverlapRule | None = None
    language: LanguageRule | None = None
    json: JsonRule | None = None
    embedding: EmbeddingRule | None = None

    def __post_init__(self) -> None:
        if sum(settings is not None for settings in vars(self).values()) != 1:
            known = ", ".join(vars(self))
            raise ValueError(f"a rule must be exactly one of {known}; write a rule without settings as exact: {{}}")

    @property
    def name(self) -> str:
        """Name of the rule that is set."""
        return next(name for name, settings in vars(self).items() if settings is not None)

    @property
    def settings(self) -> RuleSettings:
        """Settings of the rule that is set."""
        return next(settings for settings in vars(self).values() if isinstance(settings, RuleSettings))


def _check_pattern(pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"pattern is not a valid regular expression: {error}") from error


@settings
class RewardConfig:
    """One reward: a function, a judge, a reward model or a rule. Several rewards are added with weights."""

    function: Annotated[PathText | None, Field(examples=["rewards.py:score"])] = None
    """`package.module:function` or `file.py:function`, called `f(prompts, completions, **columns)`."""
    judge: JudgeConfig | None = None
    """A language model that compares answers."""
    model: RewardModelConfig | None = None
    """A trained reward model."""
    rule: RuleConfig | None = None
    """A rule about the text."""
    weight: Number = 1.0
    """Factor in the sum."""
    normalise: bool = False
    """Divide by the standard deviation within the group first, so that no scale dominates the sum."""
    constraint: bool = False
    """Rank answers that lose by this reward below the reference and below all answers that do not lose by it."""
    relative: Literal["difference", "sign"] = "difference"
    """How scores become R(o, y): `difference` is r(o) - r(y), `sign` the sign of that: 1, 0 or -1."""
    tie_band: NonNegativeFloat = 0.0
    """For `sign`: differences up to this size are ties."""
    name: str | None = None
    """Name in logs; by default the name of the function or rule, the judge's criterion, or `model`."""

    def __post_init__(self) -> None:
        sources = {"function": self.function, "judge": self.judge, "model": self.model, "rule": self.rule}
        if sum(source is not None for source in sources.values()) != 1:
            known = ", ".join(sources)
            raise ValueError(f"a reward must be exactly one of {known}, such as function: rewards.py:score")
        if self.judge and self.relative == "sign":
            raise ValueError("relative has no effect on a judge, whose verdicts are 1, 0 and -1; leave it out")
        if self.tie_band and self.relative == "difference":
            raise ValueError("tie_band has no effect with relative: difference; set relative: sign")
