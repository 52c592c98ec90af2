"""Sampling: prompts in, groups of completions out."""
