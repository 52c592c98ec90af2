"""What others call a setting, a command or a class, and its name here (`other_trainers.yaml`)."""

from grao.files import read_packaged

_OTHERS = read_packaged("grao.config", "other_trainers.yaml")
OTHER_NAMES: dict[str, str] = _OTHERS["names"]
"""Name of a setting in TRL or transformers -> the field of a recipe."""
WORDS: dict[str, str] = _OTHERS["words"]
"""What else a setting is called -> the field of a recipe."""
OTHER_VALUES: list[str] = _OTHERS["other values"]
"""Those whose value means something else here."""
ABSENT: dict[str, str] = _OTHERS["absent"]
"""Setting of TRL that has no counterpart -> why."""
UNFIT: dict[str, str] = _OTHERS["unfit"]
"""Field of transformers.TrainingArguments that has no place here -> why."""
ARGUMENTS: dict[str, str] = _OTHERS["arguments"]
"""Argument of another trainer -> that of GRAOTrainer."""
ABSENT_ARGUMENTS: dict[str, str] = _OTHERS["absent arguments"]
"""Argument of another trainer that has no counterpart -> why."""
CLASSES: dict[str, str] = _OTHERS["classes"]
"""Class of TRL or transformers -> what stands in its place."""
COMMANDS: dict[str, str] = _OTHERS["commands"]
"""Command by another name -> what to type."""


def meaning(name: str) -> str | None:
    """The field of a recipe that a name means elsewhere; None if it means none.

    Args:
        name: `batch-size`, `lora_r`; of a dotted one the last part counts.
    """
    word = name.rpartition(".")[2].lower().replace("-", "_")
    return OTHER_NAMES.get(word) or WORDS.get(word)
