PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help install demo test test-all lint clean

help: ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

install: $(STAMP) ## Create .venv with everything

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,demo]"
	touch $@

demo: $(STAMP) ## Segment an example and a photograph with the bundled model
	$(BIN)/python examples/demo.py

test: $(STAMP) lint ## Checks and the fast tests
	$(BIN)/python -m pytest -m "not slow"

test-all: $(STAMP) lint ## All tests
	$(BIN)/python -m pytest

lint: $(STAMP) ## ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean: ## Remove the environment and what the demo wrote
	rm -rf $(VENV) demo-output
