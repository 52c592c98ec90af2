"""Modules that are imported when they are first used.

The settings of a method stand in the file of the method, and `grao --help` reads them: with torch imported at the top
of those files it would take seconds to answer. They import torch from here instead. Nothing else does.
"""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

__all__ = ["core", "torch"]


class LazyModule(ModuleType):
    """Stands for a module and imports it at the first look at one of its names."""

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module(self.__name__), name)


if TYPE_CHECKING:
    import torch

    from grao import core
else:
    torch, core = LazyModule("torch"), LazyModule("grao.core")
