"""Prompts with reference answers: loaded from files or the hub, split by prompt, tokenized."""
