"""The model card of an export: README.md with front matter for the hub, filled from the records of its run.

All text is escaped for Markdown. Folders and files appear by name only, so that the card shows no local paths.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup, escape

from grao.config.recipe import Recipe
from grao.config.rewards import RewardConfig
from grao.records.files import replace_text
from grao.records.run import Evaluation, Manifest, Scores, Step
from grao.reports.evaluation import headline_table
from grao.reports.run import certainty, net_gain, run_verdict
from grao.reports.tables import duration, number, percent
from grao.visible import visible

_SIGNS = re.compile(r"([\\`*_{}\[\]#|~$])")


@dataclass(frozen=True)
class Card:
    """Content of a model card."""

    name: str
    """Title: the hub repository, or the name of the run's folder."""
    kind: Literal["whole", "adapter", "merged"]
    base: str
    """Folder or hub ID of the initial model, or of the adapter's base model."""
    dtype: str
    """Data type of the weights."""
    step: int | None
    """Optimizer steps that the exported model was trained for."""
    chat: bool
    """Whether the tokenizer has a chat template."""
    recipe: Recipe
    manifest: Manifest
    settings: Mapping[str, Any]
    """Dotted field -> value, for the settings that differ from the defaults."""
    evaluation: Evaluation | None
    """Evaluation of exactly this model; None if it was not evaluated."""
    metrics: Sequence[Step]
    license: Mapping[str, str]
    """License fields of the base model's card."""

    @property
    def methods(self) -> list[str]:
        """Names of the training methods, in order."""
        return [stage.method.name for stage in self.recipe.plan]

    @property
    def seconds(self) -> str | None:
        """Duration of the training steps, as text."""
        spent = [step.get("seconds", 0.0) for step in self.metrics if step.get("step", 0) <= (self.step or 0)]
        return duration(spent[-1]) if spent else None


def write_card(folder: Path, card: Card) -> None:
    """Write README.md into a folder."""
    evaluation, front = card.evaluation, yaml.safe_dump(_front(card), sort_keys=False, allow_unicode=True)
    results = [run_verdict(evaluation, card.step), certainty(evaluation), net_gain(evaluation)] if evaluation else []
    values = {"front": Markup(front), "path": Markup(repr(card.name)), "sentences": [*filter(None, results)]}
    measures = headline_table(evaluation) if evaluation else None
    replace_text(folder / "README.md", _template().render(card=card, measures=measures, **values))


def hub_id(path: str) -> str | None:
    """Return the path if it is a valid hub repository ID, otherwise None; local folders have absolute paths."""
    try:
        validate_repo_id(path)
    except HFValidationError:
        return None
    return path


def shown(path: str) -> str:
    """Format a path for a card: a hub ID unchanged, a file or folder by name, the model of a run as `RUN/model`."""
    if hub_id(path):
        return path
    file = Path(path)
    return f"{file.parent.name}/{file.name}" if file.name == "model" and file.parent.name else file.name


def markdown(value: Any) -> Any:
    """Escape text for Markdown and join it into one line; return other values unchanged."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return Markup(_SIGNS.sub(r"\\\1", str(escape(" ".join(visible(value).split())))))


def _front(card: Card) -> dict[str, Any]:
    """The front matter. It names only hub IDs, because the hub rejects anything else."""
    base, data, adapter = hub_id(card.base), hub_id(card.recipe.data.path), card.kind == "adapter"
    origin = {"base_model": base, "base_model_relation": "adapter" if adapter else "finetune"} if base else {}
    return {
        **origin,
        **card.license,
        "library_name": "peft" if adapter else "transformers",
        "pipeline_tag": "text-generation",
        "tags": [*dict.fromkeys(("grao", *card.methods, "alignment")), *(["lora"] * (card.kind != "whole"))],
        **({"datasets": [data]} if data else {}),
    }


def _verdicts(scores: Scores) -> tuple[str, str, str, str]:
    """Shares of wins, ties and losses, and the number of prompts with a verdict, as text."""
    wins, beaten, n = scores.ras.value, scores.ras_win_or_tie.value, scores.ras.n
    return percent(wins, n), percent(beaten - wins, n), percent(1 - beaten, n), f"{n:,}"


def _reward(section: RewardConfig) -> tuple[str, str, str]:
    """Name, description and weight of a reward."""
    kind, name = next((name, name) for name in ("function", "judge", "model", "rule") if getattr(section, name))
    description = kind
    if section.function:
        file, _, name = section.function.rpartition(":")
        description = f"function {Path(file).name}:{name}"
    elif judge := section.judge:
        name, model = Path(judge.criterion).name, shown(judge.local.path) if judge.local else judge.model
        orders = f"{judge.orders} order{'s' * (judge.orders == 'both')}"
        description = f"pairwise judge {model} ({name}, {orders})"
    elif section.model:
        description = f"reward model {shown(section.model.path)}"
    elif section.rule:
        name = section.rule.name
        description = f"rule {name}"
    return section.name or name, description, number(section.weight)


def _plain(value: Any) -> str:
    """A setting as text; paths are reduced to their name."""
    text = str(value)
    return Path(text).name if text.startswith(("/", "~")) else text


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("grao", "reports"),
        autoescape=True,  # `markdown` escapes Markdown as well as HTML
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=markdown,
    )
    environment.filters.update(shown=shown, plain=_plain, reward=_reward, verdicts=_verdicts)
    return environment.get_template("model_card.md.j2")
