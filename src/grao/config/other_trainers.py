"""What settings of TRL and transformers are called here (`other_trainers.yaml`)."""

from importlib.resources import files

import yaml

_OTHERS = yaml.safe_load(files("grao.config").joinpath("other_trainers.yaml").read_text("utf-8"))
OTHER_NAMES: dict[str, str] = _OTHERS["names"]
"""Name of a setting -> the field of a recipe."""
OTHER_VALUES: list[str] = _OTHERS["other values"]
"""Those whose value means something else here."""
ABSENT: dict[str, str] = _OTHERS["absent"]
"""Setting of TRL that has no counterpart -> why."""
UNFIT: dict[str, str] = _OTHERS["unfit"]
"""Field of transformers.TrainingArguments that has no place here -> why."""
