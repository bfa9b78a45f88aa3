# encnet-pipeline. `make demo` and `make test` need Python 3.11 or newer, make and git; the rest is installed in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := encnet pipeline workflows infra tests
BENCHMARKS := $(filter-out __init__ measure,$(basename $(notdir $(wildcard tests/benchmarks/*.py))))

.PHONY: help install demo test check drills bench bench-peers clean

help:            ## this list
	@sed -n 's/^\([a-z-]*\): .*## /  make \1: /p' Makefile

install: $(VENV)/installed ## everything into .venv

$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ": make PYTHON=python3.12 ..." if sys.version_info < (3, 11) else 0)'
	@echo "Installing into $(VENV): about 3 minutes and 7 GB of disk."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: install ## the main job, end to end, on this machine
	$(BIN)/encnet demo

test: install ## unit and integration tests, a file in each of two processes
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

check: install ## format, lint, types, import contracts
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports

drills: install ## break things on purpose, and the tests that take long
	$(BIN)/python -m pytest tests/drills
	$(BIN)/python -m pytest -m long

bench: install ## measure
	@for name in $(BENCHMARKS); do $(BIN)/python -m tests.benchmarks.$$name || exit 1; done

bench-peers: install ## what `bench` compares the loader with, in a folder of its own
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps --target $(VENV)/peers --upgrade \
	    --requirement tests/benchmarks/peers.txt

clean: ## remove what was built here (not the stack's data)
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +
