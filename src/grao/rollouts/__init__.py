"""Sampling: prompts in, groups of completions out."""

from grao.rollouts.generator import Completion, Generator, Sampling, draw_key
from grao.rollouts.huggingface import HuggingFaceGenerator

__all__ = ["Completion", "Generator", "HuggingFaceGenerator", "Sampling", "draw_key"]
