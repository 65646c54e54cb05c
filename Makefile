# `make demo` and `make test` set everything up on a fresh machine with Python 3.11 and make.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= 2

.PHONY: help setup demo test slow check format clean

help:  ## List the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(VENV)/.ready  ## Make the virtual environment with everything in it

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

demo: setup  ## Simulate 12 subjects, evaluate three decoders, write the report
	$(BIN)/emodecode demo --out demo-out --overwrite

test: setup  ## Run the default test suite (under 5 minutes on 2 cores)
	$(BIN)/python -m pytest -n $(WORKERS)

slow: setup  ## Run the tests that take longer
	$(BIN)/python -m pytest -n $(WORKERS) -m slow

check: setup  ## Formatting, lint, types, the layer contract, links in the docs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -p no:cacheprovider tests/test_docs.py

format: setup  ## Format and fix what ruff can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## Remove the environment and what was made
	rm -rf $(VENV) demo-out .mypy_cache .ruff_cache .pytest_cache
