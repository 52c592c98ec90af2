"""The recipe of a run: strict YAML and options into checked dataclasses. Free of torch."""

from grao.config.parse import dump_recipe, load_recipe
from grao.config.recipe import Recipe

__all__ = ["Recipe", "dump_recipe", "load_recipe"]
