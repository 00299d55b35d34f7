# Needs Python 3.11 or later, with venv, and nothing else; everything is installed into .venv.
PYTHON ?= python3
VENV ?= .venv
BASE ?= .venv-base
BIN := $(VENV)/bin
DEMO ?= demo

.PHONY: help setup demo test test-base bench lint format clean

help:
	@echo "make demo    train the sample data for 2,000 iterations, with curves in TensorBoard"
	@echo "make test    run all tests"
	@echo "make bench   measure what telemetry costs the training thread"
	@echo "make lint    ruff and mypy"
	@echo "make format  let ruff format the code"
	@echo "make clean   remove what these commands made"

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt Makefile
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else f"Python 3.11 or later is needed, $(PYTHON) is {v.major}.{v.minor}: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[train,tensorboard,wandb,mlflow,dev]'
	@touch $@

# The base install alone: no torch, no backend. It runs the tests of the core against the built wheel.
$(BASE)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(BASE)
	$(BASE)/bin/python -m pip install --quiet --constraint constraints.txt pytest hypothesis
	@touch $@

demo: setup
	$(BIN)/aimnet2mult sample-data $(DEMO)/data
	$(BIN)/aimnet2mult train --config $(DEMO)/data/train.yaml --model $(DEMO)/data/model.yaml \
		--threads 1 --telemetry-dir $(DEMO)/runs

test: setup test-base
	$(BIN)/pytest

test-base: $(BASE)/.installed
	$(BASE)/bin/python -m pip install --quiet --constraint constraints.txt --force-reinstall --no-deps .
	$(BASE)/bin/python -m pip install --quiet --constraint constraints.txt .
	$(BASE)/bin/pytest tests/telemetry

bench: setup
	$(BIN)/python benchmarks/due_point.py

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf $(VENV) $(BASE) $(DEMO) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
