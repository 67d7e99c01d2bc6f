# `make demo` and `make test` need nothing but Python >= 3.11, make and git.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
PEERS  := .venv-bench
CODE   := fedsim strategies privacy scenarios tests examples benchmarks docs

.DEFAULT_GOAL := help

.PHONY: help
help: ## Show what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The environment is made once, and anew when what it is made from changes.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "fedsim needs Python 3.11 or newer: make PYTHON=python3.12 ..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

.PHONY: setup
setup: $(READY) ## Make .venv with everything in it

.PHONY: demo
demo: $(READY) ## Train one model over 240 unlike clients; under a minute, no download
	$(BIN)/fedsim run digits_quickstart

.PHONY: test
test: $(READY) ## Run the fast tests
	$(BIN)/python -m pytest -m "not slow" -n auto --dist loadscope

.PHONY: test-slow
test-slow: $(READY) ## Run the tests that start Flower's servers or train on real data
	$(BIN)/python -m pytest -m slow -n auto --dist loadscope

.PHONY: lint
lint: $(READY) ## Check form
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)

.PHONY: format
format: $(READY) ## Put the code into form
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

.PHONY: type
type: $(READY) ## Check types, strictly
	$(BIN)/mypy

.PHONY: check
check: lint type ## Check everything but the tests

# The peers get an environment of their own: one of them wants old versions (benchmarks/peers.txt).
$(PEERS)/.ready: pyproject.toml constraints.txt benchmarks/peers.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[bench]'
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r benchmarks/peers.txt
	@touch $@

.PHONY: bench
bench: $(PEERS)/.ready ## Measure the engine beside plain PyTorch, Flower, pfl and Opacus (15 minutes)
	$(PEERS)/bin/python -m benchmarks.engine --wait 30 --out bench.json

.PHONY: bench-private
bench-private: $(READY) ## Measure what protecting examples costs, beside Opacus (2 minutes)
	$(BIN)/python -m benchmarks.private_cost --out private.json

.PHONY: bench-auditing
bench-auditing: $(READY) ## Measure many small trainings as one program, beside loops (3 minutes)
	$(BIN)/python -m benchmarks.auditing --out auditing.json

.PHONY: bench-accounting
bench-accounting: $(READY) ## Measure how long questions for an epsilon take (1 minute)
	$(BIN)/python -m benchmarks.accounting --out accounting.json

.PHONY: growth
growth: $(READY) ## Measure that cost and memory do not grow with the population
	$(BIN)/python -m benchmarks.growth --out growth.json --plot docs/images/growth.png

.PHONY: clean
clean: ## Remove what make has made
	rm -rf $(VENV) $(PEERS) .mypy_cache .ruff_cache .pytest_cache .hypothesis
