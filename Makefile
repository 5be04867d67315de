# Each target does its own set-up: the first one makes .venv and installs exreid into it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PYTEST = $(BIN)/python -m pytest -n $(or $(J),3) --no-loadscope-reorder

.PHONY: demo test test-all fuzz chaos lint format docs package bench clean
.DEFAULT_GOAL := help

help:  ## List the targets.
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "exreid needs Python 3.11 or newer; $(PYTHON) is older. Try: make PYTHON=python3.12 ..."; exit 1; }
	@echo "Installing into $(VENV) (once; PyTorch is large, this takes a few minutes) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --upgrade pip
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-compile -e ".[dev]"
	@$(BIN)/python -m compileall -qq -j 0 -x '/tests?/' $(VENV)/lib || true  # pip would use one CPU; some files are for other Pythons
	@touch $@

demo: $(INSTALLED)  ## See it work on drawn animals: three methods compared, identification, report (3 minutes).
	@$(BIN)/exreid demo

test: $(INSTALLED)  ## Run the tests in J processes (3), two of them with Ray.
	@$(PYTEST)

test-all: $(INSTALLED)  ## Also run those that take minutes: several nodes, sweeps, jobs, kills, full disks.
	@$(PYTEST) -m ""

fuzz: $(INSTALLED)  ## Try N mutated inputs (1500) at every entry point; SEED=1 for others.
	@$(BIN)/python -m tests.fuzz --cases $(or $(N),1500) --seed $(or $(SEED),0)

chaos: $(INSTALLED)  ## Kill N runs (12) at random moments, run them again, compare the numbers.
	@$(BIN)/python -m tests.chaos --kills $(or $(N),12) --seed $(or $(SEED),0)

lint: $(INSTALLED)  ## Check style (ruff) and types (mypy).
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(INSTALLED)  ## Rewrite the code in the project's style.
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

docs: $(INSTALLED)  ## Build the documentation into site/; a broken link is an error.
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

package: $(INSTALLED)  ## Build wheel and sdist into dist/, check them, run the wheel outside the checkout.
	@.ci/package

# rivals.py alone downloads: gigabytes, into a folder that it must be told.
BENCHMARKS := $(filter-out benchmarks/rivals.py,$(wildcard benchmarks/[a-z]*.py))
bench: $(INSTALLED)  ## Run each benchmark's quick version.
	@set -e; for f in $(BENCHMARKS); do echo "== $$f"; $(BIN)/python $$f --quick; done

clean:  ## Remove the environment and tool caches.
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build dist *.egg-info
