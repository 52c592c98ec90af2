"""What `GRAOTrainer` is told: a recipe without model, data and rewards, which are objects in Python."""

from dataclasses import field
from typing import Any

from pydantic import model_validator
from pydantic_core import ArgsKwargs

from grao.config.other_trainers import ABSENT, OTHER_NAMES, OTHER_VALUES
from grao.config.recipe import PromptsConfig, RolloutConfig, TrainingConfig
from grao.config.vllm import VLLMConfig
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
    training: TrainingConfig = field(default_factory=TrainingConfig)

    @model_validator(mode="before")
    @classmethod
    def _name_here(cls, given: Any) -> Any:
        """Says what settings of TRL's are called here."""
        for name, value in (given.kwargs or {} if isinstance(given, ArgsKwargs) else given).items():
            if name in cls.__dataclass_fields__:
                continue
            if name in OTHER_NAMES:
                shown = None if name in OTHER_VALUES else value
                raise ValueError(f"{name} is {OTHER_NAMES[name]} here: {_written(OTHER_NAMES[name], shown)}")
            if name in ABSENT:
                raise ValueError(f"{name} has no place here: {ABSENT[name]}; leave it out")
        return given


def _written(theirs: str, value: Any) -> str:
    """How a field of a recipe is set in Python; None stands for a value that is another one here.

    Example: `rollout.group_size` is `rollout=RolloutConfig(group_size=8)`.
    """
    path = theirs.partition(" ")[0].split(".")
    section, name, shown = path[0], path[-1], "..." if value is None or len(repr(value)) > _SHOWN else repr(value)
    if section in _ELSEWHERE:
        return f"GRAOTrainer takes {_ELSEWHERE[section]}"
    if path == ["method", "name"]:
        return f"method={', '.join(f'{method.__name__}()' for method in METHODS.values())}"
    if section == "method":
        kind: Any = next(method for method in METHODS.values() if hasattr(method, name))
    else:
        kind = GRAOConfig.__dataclass_fields__[section].default_factory
    written = f"{name}={shown}"
    if "trainer" in path:
        written = f"trainer={{{name!r}: {shown}}}"
    elif "vllm" in path:
        written = f"vllm={VLLMConfig.__name__}({written})"
    return f"{section}={kind.__name__}({written})"
