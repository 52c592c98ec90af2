"""One file per alignment method: its settings, and how much each answer counts.

The files of this folder are all imported here, and each registers what it defines: a new method is a new file.
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
"""The section `method` of a recipe: one of the methods, told apart by its name; GRAO is the default."""
