"""Names of settings, commands and classes in other libraries and their equivalents here (`other_trainers.yaml`)."""

from grao.files import read_packaged

_OTHERS = read_packaged("grao.config", "other_trainers.yaml")
OTHER_NAMES: dict[str, str] = _OTHERS["names"]
"""Setting of TRL or transformers -> field of a recipe."""
WORDS: dict[str, str] = _OTHERS["words"]
"""Setting of other libraries, or a common term -> field of a recipe."""
OTHER_VALUES: list[str] = _OTHERS["other values"]
"""Settings whose values do not carry over to their equivalents."""
ABSENT: dict[str, str] = _OTHERS["absent"]
"""Setting of TRL or transformers without equivalent -> reason."""
UNFIT: dict[str, str] = _OTHERS["unfit"]
"""Field of transformers.TrainingArguments that is not supported -> reason."""
ARGUMENTS: dict[str, str] = _OTHERS["arguments"]
"""Argument of another trainer -> argument of GRAOTrainer."""
ABSENT_ARGUMENTS: dict[str, str] = _OTHERS["absent arguments"]
"""Argument of another trainer without equivalent -> reason."""
CLASSES: dict[str, str] = _OTHERS["classes"]
"""Class of TRL or transformers -> its equivalent."""
COMMANDS: dict[str, str] = _OTHERS["commands"]
"""Other name of a command -> what to type."""


def meaning(name: str) -> str | None:
    """Return the field of a recipe that corresponds to a name from elsewhere, or None.

    Args:
        name: such as `batch-size` or `lora_r`; only the last part of a dotted name counts.
    """
    word = name.rpartition(".")[2].lower().replace("-", "_")
    return OTHER_NAMES.get(word) or WORDS.get(word)
