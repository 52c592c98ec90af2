"""Plain functions as rewards, in TRL's calling convention: f(prompts, completions, **columns) -> list[float | None].

Completions are texts, or lists with one assistant message where the prompt is a list of messages. The columns are
those of the prompt's row, and its `reference`. The function may be asynchronous. It scores every completion and every
reference in one call; None is missing.
"""

import importlib
import importlib.util
import inspect
import math
import sys
import traceback
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from grao.errors import InputError, RewardUnavailableError
from grao.rewards.event_loop import run_awaitable
from grao.rewards.reward import Prompt, RewardBatch

RewardFunction = Callable[..., Sequence[float | None] | Awaitable[Sequence[float | None]]]
Relative = Callable[[Tensor, Tensor], Tensor]
"""(B, G) scores of completions, (B, 1) scores of references -> R(o, y)."""


def difference(completions: Tensor, references: Tensor) -> Tensor:
    """R(o, y) = r(o) - r(y)."""
    return completions - references


def verdict(tie_band: float = 0.0) -> Relative:
    """R(o, y) = sign(r(o) - r(y)) in {1, 0, -1}; differences up to `tie_band` are ties."""

    def compare(completions: Tensor, references: Tensor) -> Tensor:
        gap = completions - references
        return torch.where(gap.abs() <= tie_band, torch.zeros_like(gap), gap.sign())

    return compare


class FunctionReward:
    """A reward from a scoring function r(x), made relative to the reference.

    Args:
        function: in TRL's convention; called with those keyword arguments that it accepts.
        relative: how two scores become R(o, y).
        name: for logs; by default the function's own.
    """

    def __init__(self, function: RewardFunction, relative: Relative = difference, name: str | None = None) -> None:
        self.function = function
        self._relative = relative
        self._name: str = name or getattr(function, "__name__", None) or type(function).__name__

    @property
    def name(self) -> str:
        """Short name for logs."""
        return self._name

    def relative(self, batch: RewardBatch) -> Tensor:
        """See `Reward.relative`."""
        width = len(batch.completions[0]) + 1
        rows = [{"reference": y, **row} for y, row in zip(batch.references, batch.columns, strict=True)]
        columns: dict[str, list[Any]] = {
            name: [row.get(name) for row in rows for _ in range(width)]
            for name in dict.fromkeys(name for row in rows for name in row)
        }
        ids = zip(batch.completion_ids, batch.reference_ids, strict=True)
        columns["completion_ids"] = [list(answer) for group, y in ids for answer in (*group, y)]
        scores = self.scores(
            [prompt for prompt in batch.prompts for _ in range(width)],
            [x for group, y in zip(batch.completions, batch.references, strict=True) for x in (*group, y)],
            columns,
        ).view(-1, width)
        return self._relative(scores[:, :-1], scores[:, -1:])

    def scores(self, prompts: Sequence[Prompt], answers: Sequence[str], columns: dict[str, list[Any]]) -> Tensor:
        """r(x) for each of N answers, (N,) float64, NaN where the function gave None, NaN or infinity.

        Raises:
            InputError: if the function takes what there is not, raises, gives no number, or not one result for each
                answer.
        """
        messages = [prompt if isinstance(prompt, str) else [dict(message) for message in prompt] for prompt in prompts]
        completions = [
            answer if isinstance(prompt, str) else [{"role": "assistant", "content": answer}]
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
        arguments = {**columns, "prompts": messages, "completions": completions}
        try:
            values = self.function(**self._accepted(arguments))
            if inspect.isawaitable(values):
                values = run_awaitable(values)
        except (InputError, RewardUnavailableError):
            raise
        except Exception as error:
            raise InputError(f"reward {self.name}: {_where(error)} raised {type(error).__name__}: {error}") from error
        return self._checked(values, len(answers))

    def _accepted(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Those of the arguments that the function takes; all of them if it has **kwargs."""
        signature = inspect.signature(self.function)
        takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.parameters.values())
        accepted = {name: given for name, given in arguments.items() if takes_all or name in signature.parameters}
        try:
            signature.bind(**accepted)
        except TypeError as error:
            raise InputError(f"reward {self.name}: {error}; there are only {', '.join(arguments)}") from error
        return accepted

    def _checked(self, values: Any, expected: int) -> Tensor:
        try:
            found = list(values)
        except TypeError as error:
            message = f"reward {self.name} must return a list of {expected} numbers, not {type(values).__name__}"
            raise InputError(message) from error
        if len(found) != expected:
            raise InputError(f"reward {self.name} returned {len(found)} values for {expected} answers; return one each")
        for place, value in enumerate(found):
            try:
                number = math.nan if value is None else float(value)
            except (TypeError, ValueError) as error:
                message = f"reward {self.name} returned {value!r} for answer {place + 1}; return a number or None"
                raise InputError(message) from error
            found[place] = number if math.isfinite(number) else math.nan
        return torch.tensor(found, dtype=torch.float64)


def load_function(reference: str, folder: Path | None = None) -> RewardFunction:
    """The function behind `package.module:function` or `file.py:function`.

    Args:
        reference: as above; a module may also lie in the working directory.
        folder: where a relative `file.py` is looked for if it is not in the working directory.

    Raises:
        InputError: if there is no such module or function, or its import fails.
    """
    place, colon, name = reference.rpartition(":")
    if not colon or not place or not name:
        raise InputError(f"rewards: {reference!r} is no function; write package.module:function or file.py:function")
    try:
        module = _from_file(place, folder) if place.endswith(".py") else _from_package(place)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"rewards: cannot import {place!r}: {type(error).__name__}: {error}") from error
    function = getattr(module, name, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise InputError(f"rewards: {place!r} has no function {name!r}; it has {', '.join(known) or 'none'}")
    return function  # type: ignore[no-any-return]


def _from_package(name: str) -> Any:
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    return importlib.import_module(name)


def _from_file(place: str, folder: Path | None) -> Any:
    path = Path(place).expanduser()
    if not path.exists() and folder is not None:
        path = folder / path
    if not path.is_file():
        raise InputError(f"rewards: there is no file {place!r}")
    name = f"grao_reward_{path.stem}"  # must not hide a module of the file's name
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"rewards: {place!r} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _where(error: Exception) -> str:
    """`file.py, line 12`, the innermost place in which the exception arose."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}"
