"""The ways in which a run ends early. The command line prints their text as one line, never a traceback."""

from collections.abc import Sequence


class InputError(ValueError):
    """A mistake in what the user gave: one line that names file, row and field and says what to do. Exit code 2."""


class RewardUnavailableError(RuntimeError):
    """The reward cannot be had at the moment. The checkpoint is kept and the run can be resumed. Exit code 3."""


class BrokenNumbersError(ArithmeticError):
    """Weights, a loss, a gradient or logits are not finite. Nothing of it is saved, the last checkpoint counts. Exit
    code 4."""


class TimeUpError(Exception):
    """The time that a study was given does not do for its next run. What is finished is kept. Exit code 0."""

    def __init__(self, left: int) -> None:
        super().__init__(f"{left} run{'s are' if left > 1 else ' is'} left")


def one_line(error: BaseException, length: int | None = 300) -> str:
    """What another library says, on one line."""
    return " ".join(str(error).split())[:length] or type(error).__name__


def listed(sentences: Sequence[str], file: str = "") -> str:
    """Sentences in one line, with the file that several begin with, and advice behind a semicolon, only once."""
    text = sentences[0]
    for each in sentences[1:]:
        if file and file in text:
            each = each.removeprefix(f"{file}, ").removeprefix(f"{file}: ")
        fact, _, advice = each.partition("; ")
        text += (" " if text.endswith("?") else "; ") + fact + f"; {advice}" * (advice not in text)
    return text
