PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help install demo test test-all test-tools lint docs bench clean

help: ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

install: $(STAMP) ## Create .venv with the package and everything that the tests need

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,demo]"
	touch $@

demo: $(STAMP) ## Segment a drawn scene and a photograph with the bundled models, and ask a question about a photograph
	-$(BIN)/amodal models fetch aura-small
	$(BIN)/python examples/demo.py

# One test process per CPU core with one thread each: two processes with several threads each take ten times as long.
test: $(STAMP) lint ## Run the checks and the fast tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n auto --dist loadfile

test-all: $(STAMP) lint ## Run the checks and all tests
	$(BIN)/python -m pytest

test-tools: $(STAMP) ## Install each supported other tool separately and run its tests
	$(BIN)/python -m pytest -m tools tests/test_other_tools.py

lint: $(STAMP) ## Check style, spelling, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(STAMP) ## Build the documentation site into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(STAMP) ## Measure speed; BENCH="--quick objects" selects benchmarks and options
	$(BIN)/python benchmarks/suite.py $(BENCH)

clean: ## Remove the environment and what the demo and the documentation build wrote
	rm -rf $(VENV) demo-output site
