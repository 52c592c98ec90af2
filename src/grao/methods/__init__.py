"""Alignment methods, one file each: settings, and the weight of each answer.

All files of this folder are imported here, and each registers its method. To add a method, add a file.
"""

from functools import reduce
from importlib import import_module
from operator import or_
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Annotated

from pydantic import Discriminator, Tag

from grao.methods.base import METHODS, Method, method_name

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

if TYPE_CHECKING:
    MethodSection = Method
else:
    _KINDS = sorted(METHODS.values(), key=lambda kind: (kind.name != "grao", kind.name))
    MethodSection = Annotated[
        reduce(or_, (Annotated[kind, Tag(kind.name)] for kind in _KINDS)), Discriminator(method_name)
    ]
"""Type of the recipe section `method`: one of the methods, selected by its name. GRAO is the default."""
