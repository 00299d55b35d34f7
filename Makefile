# Needs Python 3.11 or later, with venv, and nothing else; everything is installed into .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= demo

# The sinks that have an extra of their own.
SINKS := tensorboard wandb mlflow
CSV := examples/telemetry-sink-csv
PIP := -m pip install --quiet --constraint constraints.txt
WHEEL = $$(ls dist/aimnet2mult-*.whl)

.PHONY: help setup wheel demo test test-base $(SINKS:%=test-%) test-mlflow-skinny test-rest bench lint docs format clean

help:
	@echo "make demo    train the sample data for 2,000 iterations, with curves in TensorBoard"
	@echo "make test    run all tests"
	@echo "make test-wandb  (and so on) run the tests of one sink, with its extra alone installed"
	@echo "make chaos   kill, starve and cut off runs, for half an hour or more; CHAOS_N=100 for a tenth of the kills"
	@echo "make bench   measure what telemetry costs, beside others, for a quarter of an hour; BENCH_N=0.1 for a rough run"
	@echo "make lint    ruff and mypy"
	@echo "make docs    build the documentation site into build/site"
	@echo "make format  let ruff format the code"
	@echo "make clean   remove what these commands made"

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt Makefile $(CSV)/pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else f"Python 3.11 or later is needed, $(PYTHON) is {v.major}.{v.minor}: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP) --editable '.[train,tensorboard,wandb,mlflow,plot,dev]' --editable $(CSV)
	@touch $@

# Environments that have less, for tests of the built wheel.
$(VENV)-%/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python $(PIP) pytest hypothesis
	@touch $@

.PRECIOUS: $(VENV)-%/.installed

wheel: setup
	rm -rf dist
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist . ./$(CSV)

demo: setup
	$(BIN)/aimnet2mult sample-data $(DEMO)/data
	$(BIN)/aimnet2mult train --config $(DEMO)/data/train.yaml --model $(DEMO)/data/model.yaml \
		--threads 1 --telemetry-dir $(DEMO)/runs

# Each sink is tested where nothing but its extra is installed; what needs them all, or none, in the first environment.
# Two at a time, the longest first.
test: setup
	$(MAKE) --no-print-directory --jobs=2 --output-sync=target \
		test-mlflow-skinny test-rest test-wandb test-base test-tensorboard

test-rest: setup
	$(BIN)/pytest $(SINKS:%=--ignore=tests/sinks/%)

# The base install alone, and a stranger's sink beside it: no torch, no backend.
test-base: wheel $(VENV)-base/.installed
	$(VENV)-base/bin/python $(PIP) $(WHEEL)
	$(VENV)-base/bin/python $(PIP) --force-reinstall --no-deps dist/*.whl
	$(VENV)-base/bin/pytest tests/telemetry
	cd $(CSV) && $(abspath $(VENV))-base/bin/pytest

$(SINKS:%=test-%): test-%: wheel $(VENV)-%/.installed
	$(VENV)-$*/bin/python $(PIP) "$(WHEEL)[$*]"
	$(VENV)-$*/bin/python $(PIP) --force-reinstall --no-deps $(WHEEL)
	$(VENV)-$*/bin/pytest tests/sinks/$*

# A client without the server and its database; the server is that of the whole MLflow.
test-mlflow-skinny: test-mlflow $(VENV)-mlflow-skinny/.installed
	$(VENV)-mlflow-skinny/bin/python $(PIP) $(WHEEL) mlflow-skinny
	$(VENV)-mlflow-skinny/bin/python $(PIP) --force-reinstall --no-deps $(WHEEL)
	MLFLOW_SERVER_BIN=$(abspath $(VENV))-mlflow/bin/mlflow $(VENV)-mlflow-skinny/bin/pytest tests/sinks/mlflow/test_server.py

# Its figures stand in docs/explanation/reliability.md.
chaos: setup
	$(BIN)/pytest -m chaos -p no:logging tests/chaos

# Writes benchmarks/results.json, docs/explanation/performance.md and its picture; BENCH_OUT=FOLDER writes them there.
bench: $(VENV)/.bench
	$(BIN)/python benchmarks/run.py

$(VENV)/.bench: $(VENV)/.installed
	$(BIN)/python $(PIP) --editable '.[bench]'
	@touch $@

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# The base install is enough: the API reference is read from the sources, without importing torch or a backend.
docs: $(VENV)-docs/.installed
	NO_MKDOCS_2_WARNING=1 $(VENV)-docs/bin/mkdocs build --strict --quiet
	@if grep -rnoE '<(script|link|img|iframe)[^>]* (src|href)="(https?:)?//[^"]*"' build/site --include='*.html'; \
		then echo "error: the site must not load anything from elsewhere"; exit 1; fi
	@echo "the site is in build/site"

$(VENV)-docs/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python $(PIP) --editable '.[docs]'
	@touch $@

format: setup
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf $(VENV) $(VENV)-* $(DEMO) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
