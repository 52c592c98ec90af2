"""The sections of rewards: what scores an answer, and how several scores make one reward.

A reward comes from a function, a judge (a language model that compares two answers), a trained reward model, or a rule
about the text. Each rule has its settings in a section of its own and scores an answer with a number between 0 and 1
(`overlap`: between -1 and 0); `grao.rewards.rules` computes it.
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
"""Fields of a request that have settings of their own or are fixed; `extra` cannot set them."""


@settings
class LocalJudgeConfig:
    """A judge without a server: the probabilities that a model here gives to the three verdicts."""

    path: Annotated[PathText, Field(examples=["Qwen/Qwen2.5-7B-Instruct"])]
    """A model folder or hub id (safetensors only)."""
    dtype: Dtype = "auto"
    """Number format of its weights."""
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of its chat template, such as enable_thinking: false."""
    tie_margin: Share = 0.0
    """A tie if the probabilities of better and worse are closer than this."""
    batch_size: PositiveInt = 8
    """Questions that are forwarded at once (memory)."""


@settings
class JudgeConfig:
    """A language model that compares each answer with the reference: on an OpenAI-compatible server, or local."""

    model: Text | None = None
    """Name of the model on the server."""
    base_url: str | None = None
    """Address of the server, it mostly ends in /v1; by default OpenAI's."""
    api_key_env: str | None = "OPENAI_API_KEY"
    """Environment variable that holds the key; null for a server that wants none."""
    local: LocalJudgeConfig | None = None
    """A model here, in place of one on a server."""
    criterion: Text = "helpful"
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
    retries: NonNegativeInt = 5
    """Further attempts at a question that fails."""
    patience: PositiveFloat = 300.0
    """Seconds without any answer, after which the run stops, to be resumed."""
    ledger: FilePath | None = None
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
        if reserved := [name for name in self.extra if name in _RESERVED]:
            raise ValueError(f"extra.{reserved[0]} cannot be set there")
        longest = self.extra.get("max_completion_tokens", 1)
        if not isinstance(longest, int) or longest < 1:
            raise ValueError("extra.max_completion_tokens must be a whole number of at least 1")


def _check_address(url: str) -> None:
    try:
        parts = urlsplit(url)
        complete = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and len(url.split()) == 1
    except ValueError:  # a port that is no number, half of an IPv6 address
        complete = False
    if not complete:
        raise ValueError("base_url must begin with http:// or https:// and name a host, and a port if it needs one")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("base_url must hold no user, password or query; the key comes from api_key_env")


@settings
class RewardModelConfig:
    """A trained reward model: R(o, y) = r(o) - r(y)."""

    path: Annotated[PathText, Field(examples=["runs/reward/model"])]
    """Its folder, such as `model/` of `grao reward train`, or a hub id (safetensors only)."""
    dtype: Dtype = "auto"
    """Number format of its weights; `auto` takes the checkpoint's."""
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of its chat template, such as enable_thinking: false."""
    token_budget: PositiveInt = 16384
    """Tokens that are scored at once (memory)."""


class RuleSettings:
    """Base of the settings of each rule."""


@settings
class ExactRule(RuleSettings):
    """1 if the answer is the reference, white space aside."""

    column: str | None = None
    """Compare with this column of the data instead of the reference."""
    ignore_case: bool = False
    """Small and capital letters are the same."""


@settings
class NumericRule(RuleSettings):
    """1 if the answer's number is the reference's: behind the last ####, in the last \\boxed{}, else the last one."""

    column: str | None = None
    """Compare with this column of the data instead of the reference."""
    tolerance: NonNegativeFloat = 1e-6
    """Largest difference of two numbers that count as equal."""


@settings
class RegexRule(RuleSettings):
    """1 if the pattern occurs in the answer. For what must not occur, give the reward a negative weight."""

    pattern: Annotated[Text, Field(examples=["(?i)thank you"])]
    """A regular expression of Python's re."""

    def __post_init__(self) -> None:
        _check_pattern(self.pattern)


@settings
class LengthRule(RuleSettings):
    """1 at the wanted length, and less the further the answer is from it, as a ratio; exactly one of the first two."""

    target: PositiveInt | None = None
    """This long: twice or half of it is worth 0.5."""
    at_most: PositiveInt | None = None
    """No longer than this: twice as long is worth 0.5."""
    unit: Literal["words", "characters"] = "words"
    """What is counted."""

    def __post_init__(self) -> None:
        if (self.target is None) == (self.at_most is None):
            raise ValueError("give either target or at_most")


@settings
class FormatRule(RuleSettings):
    """The form of the whole answer: exactly one of the two."""

    pattern: Text | None = None
    """A regular expression that the whole answer must match (a dot matches line breaks too)."""
    sections: tuple[Text, ...] = ()
    """Texts such as headings that must occur in this order; the share that does is the score."""

    def __post_init__(self) -> None:
        if (self.pattern is None) == (not self.sections):
            raise ValueError("give either pattern or sections")
        _check_pattern(self.pattern or "")


@settings
class OverlapRule(RuleSettings):
    """Minus the share of the answer that is copied from the reference word for word; the reference scores 0."""

    words: PositiveInt = 5
    """Length of the runs of words that are compared."""


@settings
class LanguageRule(RuleSettings):
    """The share of letters in the language's script, 0 if the words speak for another language of that script."""

    language: Annotated[Language, Field(examples=["en"])]
    """Its code."""


@settings
class JsonRule(RuleSettings):
    """1 if the answer is JSON; where keys are required, the share of them that an object has."""

    required: tuple[str, ...] = ()
    """Keys that the object must have at its top level."""
    fenced: bool = False
    """Also take an answer that is one fenced block of code."""


@settings
class EmbeddingRule(RuleSettings):
    """Similarity in meaning to the reference: the cosine of mean-pooled vectors of an encoder."""

    model: Annotated[PathText, Field(examples=["sentence-transformers/all-MiniLM-L6-v2"])]
    """A model folder or hub id (safetensors only)."""


@settings
class RuleConfig:
    """A rule: exactly one of these sections. One without settings is written `exact: {}`."""

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
            raise ValueError(f"a rule is exactly one of {known}; one without settings is written exact: {{}}")

    @property
    def name(self) -> str:
        """The name of the rule that is given."""
        return next(name for name, settings in vars(self).items() if settings is not None)

    @property
    def settings(self) -> RuleSettings:
        """The settings of the rule that is given."""
        return next(settings for settings in vars(self).values() if isinstance(settings, RuleSettings))


def _check_pattern(pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"pattern is no regular expression: {error}") from error


@settings
class RewardConfig:
    """One reward: a function, a judge, a reward model or a rule. Several are added with their weights."""

    function: Annotated[PathText | None, Field(examples=["rewards.py:score"])] = None
    """`package.module:function` or `file.py:function`, called `f(prompts, completions, **columns)`."""
    judge: JudgeConfig | None = None
    """A language model that compares."""
    model: RewardModelConfig | None = None
    """A trained reward model."""
    rule: RuleConfig | None = None
    """A rule about the text."""
    weight: Number = 1.0
    """Factor in the sum."""
    normalise: bool = False
    """Divide by the deviation within the group first, so that no scale dominates the sum."""
    constraint: bool = False
    """Must not lose: an answer that does ranks below the reference and below all answers that do not."""
    relative: Literal["difference", "sign"] = "difference"
    """R(o, y): `difference` r(o) - r(y), or `sign`, its verdict 1, 0 or -1."""
    tie_band: NonNegativeFloat = 0.0
    """`sign` only: differences up to this size are ties."""
    name: str | None = None
    """Name in logs; by default the function's, the judge's criterion, the rule's, or `model`."""

    def __post_init__(self) -> None:
        sources = {"function": self.function, "judge": self.judge, "model": self.model, "rule": self.rule}
        if sum(source is not None for source in sources.values()) != 1:
            raise ValueError(f"a reward is exactly one of {', '.join(sources)}; for example function: rewards.py:score")
        if self.judge and self.relative == "sign":
            raise ValueError("relative has no effect on a judge, whose verdicts are 1, 0 and -1; leave it out")
        if self.tie_band and self.relative == "difference":
            raise ValueError("tie_band has no effect with relative: difference; set relative: sign")
