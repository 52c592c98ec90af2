"""Errors that end a command. The command line prints them as one line, without a traceback."""

from collections.abc import Sequence


class InputError(ValueError):
    """Invalid user input. The message is one line: file, row and field, what is wrong, what to do. Exit code 2."""


class RewardUnavailableError(RuntimeError):
    """The reward is temporarily unavailable. The run keeps its checkpoint and can be resumed. Exit code 3."""


class BrokenNumbersError(ArithmeticError):
    """Weights, loss, gradients or logits are not finite. Nothing is saved; the last checkpoint stays. Exit code 4."""


class TimeUpError(Exception):
    """The time limit of a study does not allow another run. Finished runs are kept. Exit code 0."""

    def __init__(self, left: int) -> None:
        super().__init__(f"{left} run{'s are' if left > 1 else ' is'} left")


def one_line(error: BaseException, length: int | None = 300) -> str:
    """Return the error's message on one line, cut to `length` characters; the error's type if there is no message."""
    return " ".join(str(error).split())[:length] or type(error).__name__


def listed(sentences: Sequence[str], file: str = "") -> str:
    """Join sentences into one line without repetition.

    Args:
        sentences: each may consist of a fact, a semicolon and advice. Advice is left out if the line contains it.
        file: prefix of the sentences, kept only once.
    """
    text = sentences[0]
    for sentence in sentences[1:]:
        if file and file in text:
            sentence = sentence.removeprefix(f"{file}, ").removeprefix(f"{file}: ")
        fact, _, advice = sentence.partition("; ")
        text += (" " if text.endswith("?") else "; ") + fact + f"; {advice}" * (advice not in text)
    return text
