"""What `GRAOTrainer` is told: a recipe without model, data and rewards, which are objects in Python."""

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
"""Section of a recipe -> the arguments of GRAOTrainer in its place."""

_SHOWN = 40
"""Characters of a value that is repeated."""


@settings
class GRAOConfig:
    """What `GRAOTrainer` needs of a recipe; the model, the data and the rewards are objects there."""

    output_dir: WrittenPath
    """Checkpoints and metrics go here."""
    seed: Seed = 0
    """Of everything random: order, sampling."""
    end_token: str | None = None
    """Token that closes a reference answer; by default the one that ends a turn of the chat template."""
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of its chat template, such as enable_thinking: false."""
    data: PromptsConfig = field(default_factory=PromptsConfig)
    """How the rows of `train_dataset` become prompts; of a `DataConfig`, where rows come from is ignored."""
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    method: MethodSection = field(default_factory=GRAO)
    stages: list[StageConfig] = field(default_factory=list)
    """Several methods one after another, in place of `method`."""
    training: TrainingConfig = field(default_factory=TrainingConfig)

    @model_validator(mode="before")
    @classmethod
    def _name_here(cls, given: Any) -> Any:
        """Says what settings of TRL's and others are called here, all at once."""
        values = given.kwargs or {} if isinstance(given, ArgsKwargs) else given
        theirs = {name: value for name, value in values.items() if name not in cls.__dataclass_fields__}
        named = {name: value for name, value in theirs.items() if meaning(name)}
        said = [_absent(name, ABSENT[name]) for name in theirs if name in ABSENT]
        if named:
            said.append(f"{', '.join(f'{name} is {meaning(name)}' for name in named)} here: {_written(named)}")
        if said:
            unknown = (f"{name} is unknown" for name in theirs if name not in named and name not in ABSENT)
            raise ValueError("; ".join((*unknown, *said)))
        return given


def check_arguments(others: Mapping[str, Any]) -> None:
    """Refuses arguments that `GRAOTrainer` does not have.

    Raises:
        InputError: with what stands in their place.
    """
    said = {name: f"{name} is {ARGUMENTS[name]} here" if name in ARGUMENTS else f"{name} is unknown" for name in others}
    said |= {name: _absent(name, ABSENT_ARGUMENTS[name]) for name in others if name in ABSENT_ARGUMENTS}
    if said:
        raise InputError(f"GRAOTrainer: {'; '.join(said.values())}")


def _absent(name: str, why: str) -> str:
    return f"{name} has no place here: {why}; leave it out"


def in_place_of(arguments: Any) -> str:
    """The `GRAOConfig` that says what the arguments of another trainer say, as far as their names are known.

    Args:
        arguments: such as `transformers.TrainingArguments` or TRL's `GRPOConfig`; anything else gives an example.
    """
    fields = getattr(arguments, "__dataclass_fields__", {})
    set_to = {name: getattr(arguments, name) for name, item in fields.items() if name in OTHER_NAMES and item.init}
    set_to.pop("disable_tqdm", None)  # follows from how much the libraries say, if it is not set
    plain = {name: getattr(value, "value", value) for name, value in set_to.items()}
    changed = {name: value for name, value in plain.items() if value and str(value) != str(fields[name].default)}
    folder = changed.pop("output_dir", "runs/first")
    changed = {name: value for name, value in changed.items() if _has_place(str(meaning(name)))}
    return f"GRAOConfig({', '.join(filter(None, (f'output_dir={folder!r}', _written(changed))))})"


def _has_place(theirs: str) -> bool:
    """Whether a field of a recipe is one of `GRAOConfig` and of a method that is known."""
    path = theirs.partition(" ")[0].split(".")
    beside = path[0] in ("output", *_ELSEWHERE) or path == ["method", "name"]
    return not beside and (path[0] != "data" or path[-1] in PromptsConfig.__dataclass_fields__)


def _written(values: Mapping[str, Any]) -> str:
    """How fields of a recipe are set in Python, by the names of another trainer.

    Example: `{"num_generations": 8}` is `rollout=RolloutConfig(group_size=8)`.
    """
    sections: dict[str, dict[str, list[str]]] = {}
    alone: list[str] = []
    for name, value in values.items():
        path = str(meaning(name)).partition(" ")[0].split(".")
        section, last = path[0], path[-1]
        shown = "..." if name in OTHER_VALUES or len(repr(value)) > _SHOWN else repr(value)
        if section in _ELSEWHERE:
            alone.append(f"GRAOTrainer takes {_ELSEWHERE[section]}")
        elif path == ["method", "name"]:
            alone.append(f"method={', '.join(f'{method.__name__}()' for method in METHODS.values())}")
        elif len(path) == 1:
            alone.append(f"{'output_dir' if section == 'output' else section}={shown}")
        elif section == "data" and last not in PromptsConfig.__dataclass_fields__:
            alone.append("GRAOTrainer takes train_dataset and eval_dataset")
        else:
            inner = path[1] if len(path) > 2 else ""
            written = f"{last!r}: {shown}" if inner == "trainer" else f"{last}={shown}"
            told = sections.setdefault(_class_of(section, last), {}).setdefault(inner, [])
            told += [] if written in told else [written]
    around = {"": "{}", "trainer": "trainer={{{}}}", "vllm": f"vllm={VLLMConfig.__name__}({{}})"}
    for opened, parts in sections.items():
        alone.append(f"{opened}({', '.join(around[inner].format(', '.join(told)) for inner, told in parts.items())})")
    return ", ".join(dict.fromkeys(alone))


def _class_of(section: str, name: str) -> str:
    """`rollout=RolloutConfig`: the section of a `GRAOConfig` that has a field, with its class."""
    if section == "method":
        kind: Any = next(method for method in METHODS.values() if hasattr(method, name))
    else:
        kind = GRAOConfig.__dataclass_fields__[section].default_factory
    return f"{section}={kind.__name__}"
