# `make` alone lists the targets. Every target makes its own .venv first; nothing is installed twice.

VENV    := .venv
BIN     := $(VENV)/bin
PIP     := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
RESULTS ?= outputs/demo
WORKERS ?= 3
SOURCES := faelles catalogue strategies server client simulations configs tests

# One thread for each process: municipalities run side by side, and digests do not depend on the machine's core count.
export OMP_NUM_THREADS := 1
# Flower asks nobody and tells nobody.
export FLWR_TELEMETRY_ENABLED := 0
export FLWR_DISABLE_UPDATE_CHECK := 1
# The tests start some hundred processes: modules are compiled for the first one, and not for each.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo demo-sim test lint soak bench measure results clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.installed ## run a live federation of 8 municipalities on this machine, over TLS, and write report.html
	@$(BIN)/python -m simulations.demo --folder $(RESULTS)

demo-sim: $(VENV)/.installed ## simulate a federation of all 98 municipalities on synthetic data and write report.html
	@rm -rf $(RESULTS)-sim
	@$(BIN)/faelles-sim usecase=elder-admission compare=true hydra.run.dir=$(RESULTS)-sim

test: lint ## run everything CI runs: lint, types, import contracts, tests
	@echo "pytest ($(WORKERS) workers)"
	@$(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.installed-test ## check style, types and the arrows between the packages
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/ruff format --check $(SOURCES)
	@$(BIN)/mypy
	@$(BIN)/lint-imports

soak: $(VENV)/.installed-test ## run the long counts of the statistical and endurance tests
	@$(BIN)/python -m pytest -q -n $(WORKERS) -m soak --timeout 3600

bench: $(VENV)/.installed-bench ## print how fast a simulated round is, beside other simulators (long; leave the machine alone)
	@$(BIN)/python -m simulations.speed

measure: $(VENV)/.installed ## measure the other rows of docs/results.md again (long)
	@$(BIN)/python -m simulations.custody
	@$(BIN)/python -m simulations.attacks
	@$(BIN)/python -m simulations.wire
	@$(BIN)/python -m simulations.results --run

results: $(VENV)/.installed ## print the rows of docs/results.md with the command of each
	@$(BIN)/python -m simulations.results

clean: ## remove the environment, caches and results
	@rm -rf $(VENV) build dist outputs multirun .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +

# The tested versions are 3.11 and 3.12: take the first that answers, whatever it is called.
$(VENV)/bin/python:
	@for python in $(or $(PYTHON),python3.11 python3.12 python3); do \
	  if $$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null; then \
	    echo "creating $(VENV) with $$python"; exec $$python -m venv $(VENV); \
	  fi; \
	done; \
	echo "expected Python 3.11 or 3.12, found `$(or $(PYTHON),python3) --version 2>&1`: install it or say make PYTHON=PATH" >&2; \
	exit 1

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "installing faelles and the pinned set (once; PyTorch makes it a few minutes)"
	@$(PIP) -e .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	@echo "installing what the tests need (once)"
	@$(PIP) -e '.[test]'
	@touch $@

$(VENV)/.installed-bench: $(VENV)/.installed
	@echo "installing what the measurements need (once)"
	@$(PIP) -e '.[bench]'
	@# Without what it asks for: its dp-accounting is older than ours, and extras bring the rest.
	@$(PIP) --no-deps pfl==0.6.0
	@touch $@
