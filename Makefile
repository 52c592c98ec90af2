# Each target makes .venv by itself; nothing but Python 3.11 or newer is needed.
PYTHON ?= python3
BIN := .venv/bin
# Without an NVIDIA GPU the tested versions are installed: their torch has a CPU build, newer ones pull CUDA.
CONSTRAINTS := $(shell command -v nvidia-smi >/dev/null 2>&1 || echo -c constraints-cpu.txt)

# What is imported is compiled once, then, and not by each process anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: quickstart compare real-study test check results format docs wheel clean

quickstart: .venv/installed
	$(BIN)/grao quickstart

compare: .venv/installed
	$(BIN)/grao compare --config recipes/studies/sandbox-weak.yaml
	$(BIN)/grao compare --config recipes/studies/sandbox-able.yaml

# Slices of 8 minutes; stopped anywhere, it goes on where it was. MODELS may be folders.
MODELS ?= HuggingFaceTB/SmolLM2-135M-Instruct Qwen/Qwen2.5-0.5B-Instruct
STUDIES ?= real-helpful real-harmless real-gsm8k
BF16 := $(shell command -v nvidia-smi >/dev/null 2>&1 && echo --base.training.trainer.bf16 true)

real-study: .venv/installed runs/questions/gsm8k.jsonl runs/reward-real-helpful/reward.json runs/reward-real-harmless/reward.json
	@for model in $(MODELS); do for study in $(STUDIES); do \
		folder=runs/real/$$(basename $$model)/$$study; \
		while $(BIN)/grao compare --minutes 8 --config recipes/studies/$$study.yaml $(BF16) \
			--base.model.path $$model --output $$folder || exit 1; \
			! [ $$folder/study.json -nt $$folder/study.yaml ]; do :; done; \
	done; done

runs/questions/gsm8k.jsonl: | .venv/installed
	$(BIN)/python recipes/prepare_questions.py

runs/reward-%/reward.json: | .venv/installed
	$(BIN)/grao reward train --config recipes/reward/$*.yaml

test: .venv/developing
	$(BIN)/python -m pytest -n 2

check: .venv/developing
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/size.py
	PYTHONPATH=benchmarks $(BIN)/python scripts/results.py --check

results: .venv/developing
	PYTHONPATH=benchmarks $(BIN)/python scripts/results.py

format: .venv/developing
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# Into build/docs; warnings, dead links and missing anchors are errors.
docs: .venv/documenting
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

# The sdist and the wheel, into dist/.
wheel: .venv/building
	rm -rf dist
	$(BIN)/python -m build

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "grao needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml constraints-cpu.txt | .venv/bin/python
	$(BIN)/pip install --quiet --no-compile $(CONSTRAINTS) --editable .
	touch $@

.venv/developing: pyproject.toml constraints-cpu.txt | .venv/bin/python
	$(BIN)/pip install --quiet --no-compile $(CONSTRAINTS) --editable '.[test,check]'
	touch $@ .venv/installed

.venv/documenting: pyproject.toml constraints-cpu.txt | .venv/bin/python
	$(BIN)/pip install --quiet --no-compile $(CONSTRAINTS) --editable '.[docs]'
	touch $@ .venv/installed

.venv/building: | .venv/bin/python
	$(BIN)/pip install --quiet 'build>=1.2'
	touch $@

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
