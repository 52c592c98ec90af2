"""Sampling: groups of completions from prompts."""
