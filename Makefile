# Requires only Python 3.11 or later with venv; everything is installed into .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= demo

# Sinks, each with an extra of the same name.
SINKS := tensorboard wandb mlflow
EXAMPLE_SINKS := examples/telemetry-sink-csv examples/telemetry-sink-postgres
PIP := -m pip install --quiet
# Everything but torch comes with hashes; the build backend is in the environment, so that pip does not download another.
HASHED := $(PIP) --no-deps --require-hashes --requirement
LOCAL := $(PIP) --no-deps --no-build-isolation
TORCH := $(shell sed -n 's/^\(torch==[^ ]*\) .*/\1/p' requirements/all.txt)
WHEEL = $$(ls dist/aimnet2mult-*.whl)
TOOLS := $(VENV)-tools/bin

# The unpacked sdist without its packages: tests that run there can only import the installed wheel.
OUTSIDE := build/outside
COVERAGE := build/coverage
# $(call covered,ENVIRONMENT,FOLDER,TESTS) runs pytest and writes the coverage of all its processes to $(COVERAGE)/$@.
covered = mkdir -p $(COVERAGE) && rm -f $(COVERAGE)/$@ $(COVERAGE)/$@.* \
	&& export COVERAGE_FILE=$(abspath $(COVERAGE))/$@ \
	&& (cd $(2) && $(abspath $(1))/bin/coverage run $(abspath $(1))/bin/pytest $(3)) \
	&& $(1)/bin/coverage combine --quiet

.PHONY: help setup dist demo test test-base $(SINKS:%=test-%) test-mlflow-skinny test-rest test-lowest test-slurm test-gpu test-hosts \
	coverage chaos mutation bench lint docs lock audit sbom format clean

help:
	@echo "make demo    train the sample data for 2,000 iterations, and say how to see the curves"
	@echo "make test    run all tests and measure coverage"
	@echo "make test-wandb  (and so on) run the tests of one sink with only its extra installed"
	@echo "make test-lowest  run all tests with the lowest versions that pyproject.toml allows"
	@echo "make test-slurm  train on a SLURM cluster on this machine; a quarter of an hour; requires root on Debian or Ubuntu"
	@echo "make test-gpu  run the tests that need a CUDA device"
	@echo "make test-hosts  train with nequip and MACE, and compare the curves with their own"
	@echo "make dist    build the wheel and the sdist, and check them"
	@echo "make chaos   test kills, outages and failing disks; half an hour or more; CHAOS_N=100 for a tenth of the kills"
	@echo "make bench   measure telemetry overhead against other loggers; about 15 minutes, BENCH_N=0.1 for a rough run"
	@echo "make mutation  measure how many small faults in the code the tests notice; an hour or more"
	@echo "make lint    ruff, mypy, import-linter, codespell and the list of licenses"
	@echo "make docs    build the documentation site into build/site"
	@echo "make lock    pin and hash the dependencies of all environments, after a change in pyproject.toml"
	@echo "make audit   look for known vulnerabilities of the dependencies, and write an SBOM (build/sbom.json)"
	@echo "make format  fix and format the code with ruff"
	@echo "make clean   remove everything that these targets create"

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml requirements/dev.txt Makefile $(EXAMPLE_SINKS:%=%/pyproject.toml)
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else f"Python 3.11 or later is needed, $(PYTHON) is {v.major}.{v.minor}: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(HASHED) requirements/dev.txt
	$(BIN)/python $(PIP) $(TORCH)
	$(BIN)/python $(LOCAL) --editable . $(EXAMPLE_SINKS:%=--editable %)
	$(BIN)/python -m pip check
	@touch $@

# Smaller environments: for tests of the built wheel, and for building it and the documentation.
$(VENV)-%/.installed: requirements/%.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python $(HASHED) $<
	@touch $@

.PRECIOUS: $(VENV)-%/.installed

# The wheel is built from the sdist, so that the sdist is known to be complete.
dist: $(VENV)-tools/.installed
	rm -rf dist $(OUTSIDE)
	$(TOOLS)/python -m build --quiet --no-isolation --outdir dist
	$(TOOLS)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist $(EXAMPLE_SINKS:%=./%)
	$(TOOLS)/twine check --strict dist/*
	mkdir -p $(OUTSIDE)
	tar -xzf dist/aimnet2mult-*.tar.gz --strip-components=1 -C $(OUTSIDE)
	cd $(OUTSIDE) && rm -r telemetry sinks aimnet2mult

demo: setup
	$(BIN)/aimnet2mult sample-data $(DEMO)/data
	$(BIN)/aimnet2mult train --config $(DEMO)/data/train.yaml --model $(DEMO)/data/model.yaml \
		--threads 1 --telemetry-dir $(DEMO)/runs
	@echo
	@echo "To see the curves of all runs of the demo:"
	@echo "  in a browser, live:  $(BIN)/telemetry view $(DEMO)/runs"
	@echo "  in the terminal:     $(BIN)/telemetry show $$(ls -td $(DEMO)/runs/*/ | head -1)"
	@echo "  in TensorBoard:      $(BIN)/tensorboard --logdir $(DEMO)/runs"

# Each sink is tested in an environment with only its extra; all other tests run in $(VENV), or without any extra.
# Two targets run at a time, the longest first.
test: setup
	$(MAKE) --no-print-directory --jobs=2 --output-sync=target \
		test-mlflow-skinny test-rest test-wandb test-base test-tensorboard test-hosts
	$(MAKE) --no-print-directory coverage

test-rest: setup
	$(call covered,$(VENV),.,$(SINKS:%=--ignore=tests/sinks/%))

# The base installation and third-party sinks: no torch, no built-in backend. Without PostgreSQL, the tests of its sink are
# skipped.
test-base: dist $(VENV)-base/.installed
	$(VENV)-base/bin/python $(PIP) --force-reinstall --no-deps dist/*.whl
	$(VENV)-base/bin/python -m pip check
	$(call covered,$(VENV)-base,$(OUTSIDE),tests/telemetry)
	for sink in $(EXAMPLE_SINKS); do (cd $(OUTSIDE)/$$sink && $(abspath $(VENV))-base/bin/pytest) || exit 1; done

$(SINKS:%=test-%): test-%: dist $(VENV)-%/.installed
	$(VENV)-$*/bin/python $(PIP) --force-reinstall --no-deps $(WHEEL)
	$(VENV)-$*/bin/python -m pip check
	$(call covered,$(VENV)-$*,$(OUTSIDE),tests/sinks/$*)

# MLflow's client without its server and database; the server comes from the environment with the complete MLflow.
test-mlflow-skinny: test-mlflow $(VENV)-mlflow-skinny/.installed
	$(VENV)-mlflow-skinny/bin/python $(PIP) --force-reinstall --no-deps $(WHEEL)
	export MLFLOW_SERVER_BIN=$(abspath $(VENV))-mlflow/bin/mlflow; \
		$(call covered,$(VENV)-mlflow-skinny,$(OUTSIDE),tests/sinks/mlflow/test_server.py)

# Direct dependencies at their lowest versions, all others at their newest; `-W default` because old releases warn about
# newer dependencies.
LOWEST_EXTRAS := train tensorboard wandb mlflow plot view convert dispersion system hosts testing
test-lowest: dist
	$(PYTHON) -m venv --clear $(VENV)-lowest
	$(TOOLS)/uv pip install --quiet --python $(VENV)-lowest --resolution lowest-direct \
		--requirements pyproject.toml $(LOWEST_EXTRAS:%=--extra %)
	$(TOOLS)/uv pip install --quiet --python $(VENV)-lowest hypothesis omegaconf playwright
	$(TOOLS)/uv pip install --quiet --python $(VENV)-lowest --no-deps dist/*.whl
	cd $(OUTSIDE) && $(abspath $(VENV))-lowest/bin/pytest -W default

# Installs SLURM, and starts and stops a cluster of two nodes on this machine.
# docs/explanation/reliability.md quotes its figures.
test-slurm: setup
	tests/slurm/lab.sh run $(BIN)/pytest -m slurm -p no:logging tests/slurm

# Trainings of other frameworks, each in an environment of its own, which contains the packages of $(VENV) as well: their
# requirements exclude one another.
HOSTS := nequip mace
test-hosts: $(HOSTS:%=test-%)

$(HOSTS:%=test-%): test-%: setup $(VENV)-%/.installed
	purelib='import sysconfig; print(sysconfig.get_path("purelib"))'; \
		($(BIN)/python -c "$$purelib"; echo $(abspath .)) > $$($(VENV)-$*/bin/python -c "$$purelib")/shared.pth
	$(VENV)-$*/bin/python -m pytest -q -p no:cacheprovider examples/$*/tests

# On the GPU of this machine; tools/gpu_check.py also measures there.
test-gpu: setup
	$(BIN)/pytest -m gpu -W default tests

# The floor is in pyproject.toml. Requires the coverage data of all environments in $(COVERAGE).
coverage: $(VENV)-tools/.installed
	$(TOOLS)/coverage combine --quiet --keep --data-file=$(COVERAGE).db $(COVERAGE)/*
	$(TOOLS)/coverage report --data-file=$(COVERAGE).db --skip-covered --sort=cover

# docs/explanation/reliability.md quotes its figures.
chaos: setup
	$(BIN)/pytest -m chaos -p no:logging tests/chaos

# The minimum is the percentage that must be noticed; `python tools/mutation --help` lists the options.
mutation: setup
	$(BIN)/python tools/mutation --minimum 92

# Writes benchmarks/results.json, docs/explanation/performance.md and its figure; BENCH_OUT=FOLDER changes the folder.
bench: $(VENV)/.bench
	$(BIN)/python benchmarks/run.py

$(VENV)/.bench: $(VENV)/.installed requirements/bench.txt
	$(BIN)/python $(HASHED) requirements/bench.txt
	@touch $@

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/python tools/licenses_page.py --check

# The base installation is enough: the API reference is read from the sources, without importing torch or a backend.
docs: $(VENV)-docs/.installed
	$(VENV)-docs/bin/python $(LOCAL) --editable .
	NO_MKDOCS_2_WARNING=1 $(VENV)-docs/bin/mkdocs build --strict --quiet
	@if grep -rnoE '<(script|link|img|iframe)[^>]* (src|href)="(https?:)?//[^"]*"' build/site --include='*.html'; \
		then echo "error: the site must not load external resources"; exit 1; fi
	@echo "the site is in build/site"

# After a change of the dependencies in pyproject.toml; `make lock LOCK=--upgrade` takes the newest versions.
lock: $(VENV)-tools/.installed
	tools/lock.sh $(LOCK)

# Known vulnerabilities of all pinned versions, and a bill of materials (SBOM) of what the extra `all` installs.
audit: $(VENV)-tools/.installed
	$(TOOLS)/pip-audit --strict --require-hashes --disable-pip --requirement requirements/all.txt
	$(MAKE) --no-print-directory sbom

sbom: $(VENV)-tools/.installed
	mkdir -p build
	$(TOOLS)/uv pip compile --quiet --universal --generate-hashes --no-annotate --constraint requirements/all.txt \
		pyproject.toml --extra all --output-file build/requirements-sbom.txt
	$(TOOLS)/cyclonedx-py requirements --output-file build/sbom.json build/requirements-sbom.txt

format: setup
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf $(VENV) $(VENV)-* $(DEMO) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
