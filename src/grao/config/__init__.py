"""Recipes: strict YAML and command-line options to validated dataclasses. Does not import torch."""
