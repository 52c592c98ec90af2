"""Typed records of runs, studies and audits on disk; every file is written completely or not at all."""
