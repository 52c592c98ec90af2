"""Prompts with reference answers: read from files or the hub, divided by prompt, turned into token ids."""
