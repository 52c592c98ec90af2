# Each target makes .venv by itself; nothing but Python 3.11 or newer is needed.
PYTHON ?= python3
BIN := .venv/bin
# Without an NVIDIA GPU the tested versions are installed: their torch has a CPU build, newer ones pull CUDA.
CONSTRAINTS := $(shell command -v nvidia-smi >/dev/null 2>&1 || echo -c constraints-cpu.txt)

# What is imported is compiled once, then, and not by each process anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: quickstart compare test check results format clean

quickstart: .venv/installed
	$(BIN)/grao quickstart

compare: .venv/installed
	$(BIN)/grao compare --config recipes/studies/sandbox-weak.yaml
	$(BIN)/grao compare --config recipes/studies/sandbox-able.yaml

test: .venv/developing
	$(BIN)/python -m pytest -n 2

check: .venv/developing
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/size.py
	$(BIN)/python scripts/results.py --check

results: .venv/developing
	$(BIN)/python scripts/results.py

format: .venv/developing
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "grao needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml constraints-cpu.txt | .venv/bin/python
	$(BIN)/pip install --quiet --no-compile $(CONSTRAINTS) --editable .
	touch $@

.venv/developing: pyproject.toml constraints-cpu.txt | .venv/bin/python
	$(BIN)/pip install --quiet --no-compile $(CONSTRAINTS) --editable '.[test,check]'
	touch $@ .venv/installed

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
