"""Modules that are imported on first use.

`grao --help` reads the settings of methods, which are defined in the files of the methods. Importing torch there would
delay it by seconds, so these files import torch from this module. All others import it normally.
"""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

__all__ = ["core", "torch"]


class LazyModule(ModuleType):
    """Placeholder that imports its module when one of its attributes is first accessed."""

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module(self.__name__), name)


if TYPE_CHECKING:
    import torch

    from grao import core
else:
    torch, core = LazyModule("torch"), LazyModule("grao.core")
