"""Plain functions as rewards, in TRL's calling convention: f(prompts, completions, **columns) -> list[float | None].

Completions are texts, or lists of one assistant message if the prompt is a list of messages. The columns are those of
the prompt's row, and `reference`, `completion_ids`, `trainer_state`, `log_metric` and `log_extra`. The function may be
asynchronous. It scores every completion and every reference in one call; None means missing.
"""

import hashlib
import importlib.util
import inspect
import math
import re
import sys
import traceback
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from reprlib import repr as shortened
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import TrainerState

from grao.config.recipe import Recipe
from grao.config.rewards import RewardConfig
from grao.errors import InputError, RewardUnavailableError, one_line
from grao.rewards.base import Columns, Relative, ScoredReward, difference, relative_of, result_of, start_awaitable
from grao.types import Prompt

_GIVEN = ("reference", "completion_ids", "prompts", "completions", "trainer_state", "log_metric", "log_extra")
"""Arguments that a function may take besides the columns of the data."""
_EXACT = re.compile("float64|int|bool", re.IGNORECASE)
"""Dtypes of tensors and arrays that are more precise than float32."""
_MISREADINGS = (TypeError, AttributeError, KeyError)
"""Exceptions of a function that mistakes messages for text, or text for messages."""

RewardFunction = Callable[..., Sequence[float | None] | Awaitable[Sequence[float | None]]]


class FunctionReward(ScoredReward):
    """A reward from a scoring function r(x).

    Args:
        function: in TRL's convention; called with the keyword arguments that it accepts.
        relative: computes R(o, y) from the scores of completions and references.
        name: for logs; by default the function's own.

    Raises:
        InputError: if `function` is not callable, or is a class.
    """

    def __init__(self, function: RewardFunction, relative: Relative = difference, name: str | None = None) -> None:
        kind = type(function).__name__
        if inspect.isclass(function):
            raise InputError(f"rewards: {function.__name__} is a class; pass an instance of it, or a function")
        if not callable(function):
            raise InputError(f"rewards: {shortened(function)} is not a reward; pass a function or a reward model")
        named = function.func if isinstance(function, partial) else function
        super().__init__(name or str(getattr(named, "__name__", type(named).__name__)), relative)
        self.function = function
        state = TrainerState(max_steps=1, num_train_epochs=1)  # functions may divide by these numbers
        self.surroundings = {"trainer_state": state, "log_metric": _dropped, "log_extra": _dropped}
        """Arguments that TRL's trainer passes besides texts and columns; in training, the trainer sets them."""
        try:
            self._signature = inspect.signature(function)
        except ValueError as error:
            problem = f"cannot inspect the arguments of this {kind}"
            raise InputError(f"reward {self.name}: {problem}; wrap it in a Python function") from error
        self.reserved = frozenset(self._accepted(dict.fromkeys(_GIVEN)))

    @property
    def counts_tokens(self) -> bool:
        """Whether the function has a parameter `completion_ids`."""
        return "completion_ids" in self._signature.parameters

    @classmethod
    def from_section(cls, function: str, section: RewardConfig, recipe: Recipe) -> "FunctionReward":
        """See `grao.rewards.mix.SOURCES`."""
        return cls(load_function(function), relative_of(section), section.name)

    def scores(self, prompts: Sequence[Prompt], answers: Sequence[str], columns: Columns) -> Tensor:
        """See `ScoredReward.scores`; NaN where the function returned None, NaN or infinity.

        Raises:
            InputError: if the function requires an argument that does not exist, raises an error, or does not return
                one number or None per answer.
            RewardUnavailableError: if the function raises it.
        """
        arguments = {
            **{name: list(map(_copied, values)) for name, values in columns.items()},
            "prompts": [prompt if isinstance(prompt, str) else list(map(_copied, prompt)) for prompt in prompts],
            "completions": [
                answer if isinstance(prompt, str) else [{"role": "assistant", "content": answer}]
                for prompt, answer in zip(prompts, answers, strict=True)
            ],
            **self.surroundings,
        }
        accepted = self._accepted(arguments)
        try:
            self._signature.bind(**accepted)
        except TypeError as error:
            raise InputError(f"reward {self.name}: {error}; available are {', '.join(arguments)}") from error
        try:
            result = self.function(**accepted)
            if inspect.isawaitable(result):
                result = result_of(start_awaitable(result))
            values = self._listed(result, len(answers))
        except (InputError, RewardUnavailableError):
            raise
        except (Exception, SystemExit) as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]  # the innermost
            where = f"{Path(frame.filename).name}, line {frame.lineno}"
            why = f"raised {type(error).__name__}: {one_line(error, 500)}{_misread(error, prompts)}"
            raise InputError(f"reward {self.name}: {where} {why}") from error
        return self._checked(values, len(answers))

    def _accepted(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments that the function accepts; all of them if it has **kwargs."""
        parameters = self._signature.parameters
        takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        return {name: value for name, value in arguments.items() if takes_all or name in parameters}

    def _listed(self, result: Any, expected: int) -> list[Any]:
        """Return the function's result as a list, and set `precision` from its dtype."""
        dtype = ""
        if hasattr(result, "__array__"):
            result = result.detach() if isinstance(result, Tensor) else np.asarray(result)
            dtype = str(result.dtype)
            result = (result.reshape(-1) if expected in result.shape else result).tolist()  # (N, 1) or (1, N) too
        self.precision = torch.float64 if _EXACT.search(dtype) else torch.float32
        if not isinstance(result, Iterable) or isinstance(result, str | bytes | Mapping | Set):
            kind = type(result).__name__
            raise InputError(f"reward {self.name} must return a list of {expected} numbers, not {kind}")
        return list(result)

    def _checked(self, values: list[Any], expected: int) -> Tensor:
        """Return one number for each answer, (N,) float64."""
        if len(values) != expected:
            message = f"reward {self.name} returned {len(values)} values for {expected} answers; return one per answer"
            raise InputError(message)
        for index, value in enumerate(values):
            try:
                values[index] = math.nan if value is None else float(value.item() if hasattr(value, "item") else value)
            except (TypeError, ValueError, RuntimeError, OverflowError) as error:
                shown = f"{shortened(value)} for answer {index + 1}"
                raise InputError(f"reward {self.name} returned {shown}; return a number or None") from error
        return torch.tensor(values, dtype=torch.float64).nan_to_num(math.nan, math.nan, math.nan)


def _dropped(name: str, value: Any) -> None:
    """Discard a value: replaces `log_metric` outside of training, and always `log_extra` (TRL's completion table)."""


def _copied(value: Any) -> Any:
    """Copy a value of the data, so that a function may modify it."""
    if isinstance(value, Mapping):
        return {key: _copied(inside) for key, inside in value.items()}
    return type(value)(map(_copied, value)) if type(value) in (list, tuple) else value


def _misread(error: BaseException, prompts: Sequence[Prompt]) -> str:
    """Explain the type of completions, if the function's error suggests that it expects another."""
    if not isinstance(error, _MISREADINGS):
        return ""
    if not all(isinstance(prompt, str) for prompt in prompts):
        return "; completions are lists of messages, like the prompts: completion[0]['content'] is the text"
    advice = "completions are plain texts, like the prompts, not messages: use them directly, or set data.chat: true"
    return f"; {advice}" if "string ind" in str(error) else ""


def load_function(reference: str) -> RewardFunction:
    """Import the function that `package.module:function` or `file.py:function` names.

    A file can import its neighbours, by name or relatively.

    Args:
        reference: as above; modules in the working directory are found too.

    Raises:
        InputError: if there is no such module or function, the import fails, or the name is that of a class.
    """
    source, _, name = reference.rpartition(":")
    if not source or not name:
        raise InputError(f"rewards: {reference!r} is not a function; write package.module:function or file.py:function")
    try:
        module = _from_file(source) if source.endswith(".py") else _from_package(source)
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        why = f"{type(error).__name__}: {one_line(error, 500)}"
        raise InputError(f"rewards: cannot import {source!r}: {why}") from error
    function = getattr(module, name, None)
    if inspect.isclass(function):
        raise InputError(f"rewards: {name!r} in {source!r} is a class; name a function, or an instance of the class")
    if not callable(function):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise InputError(f"rewards: {source!r} has no function {name!r}; it has {', '.join(known) or 'none'}")
    return function  # type: ignore[no-any-return]


def _from_package(name: str) -> Any:
    if (folder := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, folder)
    return importlib.import_module(name)


def _from_file(source: str) -> Any:
    path = Path(source).expanduser().absolute()
    if not path.is_file():
        raise InputError(f"rewards: there is no file {source!r}")
    if path.stat().st_size > _LONGEST_FILE:
        raise InputError(f"rewards: {source!r} has {path.stat().st_size:,} bytes, too many for a Python file")
    package = f"grao_rewards_{hashlib.sha256(str(path.parent).encode()).hexdigest()[:8]}"
    sys.modules.setdefault(package, ModuleType(package)).__path__ = [str(path.parent)]  # for relative imports
    name = f"{package}.{path.stem.replace('.', '_')}"  # must not shadow a module with the file's name
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"rewards: {source!r} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    with _importing_beside(str(path.parent)):
        spec.loader.exec_module(module)
    return module


_LONGEST_FILE = 10_000_000
"""Maximum size of a reward file in bytes."""
_FOLDERS: list[str] = []
"""Folders of all reward files imported so far."""


@contextmanager
def _importing_beside(folder: str) -> Iterator[None]:
    """Put a folder first on the import path while a file in it is imported, and last afterwards.

    Meanwhile, modules beside other reward files are set aside: two folders may hold modules of the same name.
    """
    siblings = {path.stem for path in Path(folder).iterdir()}
    shared = {name for name in siblings & sys.modules.keys() if _folder_of(sys.modules[name]) in _FOLDERS}
    aside = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in shared}
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
        sys.modules.update(aside)
        if folder not in _FOLDERS:
            _FOLDERS.append(folder)
            sys.path.append(folder)


def _folder_of(module: ModuleType) -> str:
    """Return the folder that a module was imported from."""
    file = Path(getattr(module, "__file__", None) or "")
    return str(file.parents[1] if file.stem == "__init__" else file.parent)
