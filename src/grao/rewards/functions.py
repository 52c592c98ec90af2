"""Plain functions as rewards, in TRL's calling convention: f(prompts, completions, **columns) -> list[float | None].

Completions are texts, or lists with one assistant message where the prompt is a list of messages. The columns are
those of the prompt's row, and its `reference`. The function may be asynchronous. It scores every completion and every
reference in one call; None is missing.
"""

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

from grao.config.recipe import Recipe
from grao.config.rewards import RewardConfig
from grao.errors import InputError, RewardUnavailableError
from grao.rewards.base import Columns, Relative, ScoredReward, difference, relative_of, result_of, start_awaitable
from grao.types import Prompt

RewardFunction = Callable[..., Sequence[float | None] | Awaitable[Sequence[float | None]]]


class FunctionReward(ScoredReward):
    """A reward from a scoring function r(x).

    Args:
        function: in TRL's convention; called with those keyword arguments that it accepts.
        relative: how two scores become R(o, y).
        name: for logs; by default the function's own.
    """

    def __init__(self, function: RewardFunction, relative: Relative = difference, name: str | None = None) -> None:
        super().__init__(name or getattr(function, "__name__", None) or type(function).__name__, relative)
        self.function = function

    @classmethod
    def from_section(cls, function: str, section: RewardConfig, recipe: Recipe) -> "FunctionReward":
        """See `grao.rewards.mix.SOURCES`."""
        return cls(load_function(function), relative_of(section), section.name)

    def scores(self, prompts: Sequence[Prompt], answers: Sequence[str], columns: Columns) -> Tensor:
        """See `ScoredReward.scores`; NaN where the function gave None, NaN or infinity.

        Raises:
            InputError: if the function takes what there is not, raises, gives no number, or not one result for each
                answer.
        """
        messages = [prompt if isinstance(prompt, str) else [dict(message) for message in prompt] for prompt in prompts]
        completions = [
            answer if isinstance(prompt, str) else [{"role": "assistant", "content": answer}]
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
        try:
            values = self.function(**self._accepted({**columns, "prompts": messages, "completions": completions}))
            if inspect.isawaitable(values):
                values = result_of(start_awaitable(values))
        except (InputError, RewardUnavailableError):
            raise
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]  # the innermost
            place = f"{Path(frame.filename).name}, line {frame.lineno}"
            raise InputError(f"reward {self.name}: {place} raised {type(error).__name__}: {error}") from error
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
        """What the function returned, as (N,) float64."""
        try:
            values = list(values)
        except TypeError as error:
            message = f"reward {self.name} must return a list of {expected} numbers, not {type(values).__name__}"
            raise InputError(message) from error
        if len(values) != expected:
            message = f"reward {self.name} returned {len(values)} values for {expected} answers; return one each"
            raise InputError(message)
        for index, value in enumerate(values):
            try:
                values[index] = math.nan if value is None else float(value)
            except (TypeError, ValueError) as error:
                message = f"reward {self.name} returned {value!r} for answer {index + 1}; return a number or None"
                raise InputError(message) from error
        return torch.tensor(values, dtype=torch.float64).nan_to_num(math.nan, math.nan, math.nan)


def load_function(reference: str) -> RewardFunction:
    """The function behind `package.module:function` or `file.py:function`.

    Args:
        reference: as above; a module may also lie in the working directory.

    Raises:
        InputError: if there is no such module or function, or its import fails.
    """
    source, _, name = reference.rpartition(":")
    if not source or not name:
        raise InputError(f"rewards: {reference!r} is no function; write package.module:function or file.py:function")
    try:
        module = _from_file(source) if source.endswith(".py") else _from_package(source)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"rewards: cannot import {source!r}: {type(error).__name__}: {error}") from error
    function = getattr(module, name, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise InputError(f"rewards: {source!r} has no function {name!r}; it has {', '.join(known) or 'none'}")
    return function  # type: ignore[no-any-return]


def _from_package(name: str) -> Any:
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    return importlib.import_module(name)


def _from_file(source: str) -> Any:
    path = Path(source).expanduser()
    if not path.is_file():
        raise InputError(f"rewards: there is no file {source!r}")
    name = f"grao_reward_{path.stem}"  # must not hide a module of the file's name
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"rewards: {source!r} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
