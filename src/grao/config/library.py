"""Configuration of `GRAOTrainer`: a recipe without model, data and rewards, which are Python objects there."""

from collections.abc import Mapping
from dataclasses import field
from typing import Any

from pydantic import model_validator
from pydantic_core import ArgsKwargs

from grao.config.other_trainers import ABSENT, ABSENT_ARGUMENTS, ARGUMENTS, OTHER_NAMES, OTHER_VALUES, meaning
from grao.config.recipe import PromptsConfig, RolloutConfig, TrainingConfig
from grao.config.stages import StageConfig
from grao.config.vllm import VLLMConfig
from grao.errors import InputError
from grao.methods import MethodSection
from grao.methods.base import METHODS
from grao.methods.grao import GRAO
from grao.settings import Seed, WrittenPath, settings

_ELSEWHERE = {"model": "model and peft_config", "rewards": "reward_funcs"}
"""Section of a recipe -> the arguments of GRAOTrainer that replace it."""

_SHOWN = 40
"""Longest value repeated in a message, in characters."""


@settings
class GRAOConfig:
    """Settings of `GRAOTrainer`. Model, data and rewards are arguments of the trainer."""

    output_dir: WrittenPath
    """Folder for checkpoints and metrics."""
    seed: Seed = 0
    """Random seed of order and sampling."""
    end_token: str | None = None
    """Token that ends reference answers; by default the token that ends a turn in the chat template."""
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments for the chat template, such as enable_thinking: false."""
    data: PromptsConfig = field(default_factory=PromptsConfig)
    """How rows of `train_dataset` become prompts. The source settings of a `DataConfig` are ignored."""
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    method: MethodSection = field(default_factory=GRAO)
    stages: list[StageConfig] = field(default_factory=list)
    """Several methods that train one after another; replaces `method`."""
    training: TrainingConfig = field(default_factory=TrainingConfig)

    @model_validator(mode="before")
    @classmethod
    def _translate_names(cls, arguments: Any) -> Any:
        """Reject settings named as in other trainers, with a message that gives the equivalents of all of them."""
        values = arguments.kwargs or {} if isinstance(arguments, ArgsKwargs) else arguments
        foreign = {name: value for name, value in values.items() if name not in cls.__dataclass_fields__}
        known = {name: value for name, value in foreign.items() if meaning(name)}
        problems = [_absent(name, ABSENT[name]) for name in foreign if name in ABSENT]
        if known:
            problems.append(f"{', '.join(f'{name} is {meaning(name)}' for name in known)} here: {_as_python(known)}")
        if problems:
            unknown = (f"{name} is unknown" for name in foreign if name not in known and name not in ABSENT)
            raise ValueError("; ".join((*unknown, *problems)))
        return arguments


def check_arguments(others: Mapping[str, Any]) -> None:
    """Reject arguments that `GRAOTrainer` does not have.

    Args:
        others: surplus keyword arguments of the constructor.

    Raises:
        InputError: if there are any; the message gives their equivalents.
    """
    problems = {
        name: f"{name} is {ARGUMENTS[name]} here" if name in ARGUMENTS else f"{name} is unknown" for name in others
    }
    problems |= {name: _absent(name, ABSENT_ARGUMENTS[name]) for name in others if name in ABSENT_ARGUMENTS}
    if problems:
        raise InputError(f"GRAOTrainer: {'; '.join(problems.values())}")


def _absent(name: str, why: str) -> str:
    return f"{name} is not supported: {why}; leave it out"


def in_place_of(arguments: Any) -> str:
    """Translate the arguments of another trainer to `GRAOConfig`, as Python source.

    Args:
        arguments: for example `transformers.TrainingArguments` or TRL's `GRPOConfig`. Fields without a known
            equivalent are left out; any other object gives a minimal example.
    """
    fields = getattr(arguments, "__dataclass_fields__", {})
    values = {name: getattr(arguments, name) for name, item in fields.items() if name in OTHER_NAMES and item.init}
    values.pop("disable_tqdm", None)  # its default depends on the log level
    plain = {name: getattr(value, "value", value) for name, value in values.items()}
    changed = {name: value for name, value in plain.items() if value and str(value) != str(fields[name].default)}
    folder = changed.pop("output_dir", "runs/first")
    changed = {name: value for name, value in changed.items() if _is_settable(str(meaning(name)))}
    return f"GRAOConfig({', '.join(filter(None, (f'output_dir={folder!r}', _as_python(changed))))})"


def _is_settable(field_path: str) -> bool:
    """Whether a field of a recipe exists in `GRAOConfig`, given that the method is already chosen."""
    path = field_path.partition(" ")[0].split(".")
    elsewhere = path[0] in ("output", *_ELSEWHERE) or path == ["method", "name"]
    return not elsewhere and (path[0] != "data" or path[-1] in PromptsConfig.__dataclass_fields__)


def _as_python(values: Mapping[str, Any]) -> str:
    """Return Python source that sets the equivalents of another trainer's settings.

    Example: `{"num_generations": 8}` gives `rollout=RolloutConfig(group_size=8)`.
    """
    sections: dict[str, dict[str, list[str]]] = {}
    arguments: list[str] = []
    for name, value in values.items():
        path = str(meaning(name)).partition(" ")[0].split(".")
        section, last = path[0], path[-1]
        shown = "..." if name in OTHER_VALUES or len(repr(value)) > _SHOWN else repr(value)
        if section in _ELSEWHERE:
            arguments.append(f"GRAOTrainer takes {_ELSEWHERE[section]}")
        elif path == ["method", "name"]:
            arguments.append(f"method={', '.join(f'{method.__name__}()' for method in METHODS.values())}")
        elif len(path) == 1:
            arguments.append(f"{'output_dir' if section == 'output' else section}={shown}")
        elif section == "data" and last not in PromptsConfig.__dataclass_fields__:
            arguments.append("GRAOTrainer takes train_dataset and eval_dataset")
        else:
            inner = path[1] if len(path) > 2 else ""
            written = f"{last!r}: {shown}" if inner == "trainer" else f"{last}={shown}"
            parts = sections.setdefault(_class_of(section, last), {}).setdefault(inner, [])
            parts += [] if written in parts else [written]
    wrappers = {"": "{}", "trainer": "trainer={{{}}}", "vllm": f"vllm={VLLMConfig.__name__}({{}})"}
    for opening, inside in sections.items():
        text = ", ".join(wrappers[inner].format(", ".join(parts)) for inner, parts in inside.items())
        arguments.append(f"{opening}({text})")
    return ", ".join(dict.fromkeys(arguments))


def _class_of(section: str, name: str) -> str:
    """Return the section of `GRAOConfig` that has a field, and its class, such as `rollout=RolloutConfig`."""
    if section == "method":
        kind: Any = next(method for method in METHODS.values() if hasattr(method, name))
    else:
        kind = GRAOConfig.__dataclass_fields__[section].default_factory
    return f"{section}={kind.__name__}"
