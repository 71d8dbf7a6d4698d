# Everything a developer or a newcomer runs. `make` alone lists the targets.
#
#   make demo                         the environment, a small detector trained from scratch, its score and its pictures
#   make test PYTHON=python3.12       with another Python
#   make test VENV=/opt/env INSTALL=no    in a ready environment, installing nothing
#
# The environment is set up again only when pyproject.toml changes.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON  ?= python3
VENV    ?= .venv
INSTALL ?= yes
ARGS    ?=

PY := $(VENV)/bin/python
# $(call needs,EXTRA): the stamp of an installed extra, or the interpreter alone where the environment is taken as it is.
needs = $(if $(filter no,$(INSTALL)),$(PY),$(VENV)/.installed-$(1))

DEMO_CONFIG := configs/effdet_b0_shapes.py
DEMO_DIR    := work_dirs/demo

# Distributions that the engine is tested with beside the installed one; all of them are imported as `mmengine`.
ENGINES := mmengine-0.11.0rc3 onedl-mmengine-0.10.12
# Another torch gets an environment of its own.
TORCH_VENV = .venv-torch-$(TORCH)

.PHONY: help demo test test-all test-engines $(ENGINES:%=test-engine-%) test-torch lint format docs clean

help:
	@echo "make demo      train a small detector on generated pictures, score it, draw what it finds"
	@echo "make test      the tests that take seconds          (ARGS='-k name' to choose)"
	@echo "make test-all  the slow ones as well"
	@echo "make test-engines            the engine's tests with other distributions of mmengine"
	@echo "make test-torch TORCH=2.6.0  the tests with another torch, in an environment of its own"
	@echo "make lint      ruff check, ruff format --check, mypy"
	@echo "make format    let ruff mend what it can"
	@echo "make docs      build the documentation into site/"
	@echo "make clean     remove caches and build output (not .venv, data/ or work_dirs/)"

demo: $(call needs,base)
	$(PY) tools/train.py $(DEMO_CONFIG) --work-dir $(DEMO_DIR)
	$(PY) tools/test.py $(DEMO_CONFIG) $(DEMO_DIR)/best.pth --work-dir $(DEMO_DIR)/test \
	    --show-dir $(DEMO_DIR)/test/pictures 2>&1 | tee $(DEMO_DIR)/test.txt
	@echo
	@echo "Score:    $$(grep -m 1 '^AP50 ' $(DEMO_DIR)/test.txt)"
	@echo "Pictures: $(DEMO_DIR)/test/pictures"

test: $(call needs,test)
	$(PY) -m pytest $(ARGS)

test-all: $(call needs,test)
	$(PY) -m pytest -m "" $(ARGS)

test-engines: $(ENGINES:%=test-engine-%)

# The copy stands before the installed one on the path, also of the programs that tests start; tests/engine/conftest.py
# ends the session where another one was imported.
$(ENGINES:%=test-engine-%): test-engine-%: $(VENV)/engines/%/mmengine/__init__.py $(call needs,test)
	PYTHONPATH="$(abspath $(VENV)/engines/$*)$${PYTHONPATH:+:$$PYTHONPATH}" \
	    EFFDENSE_TEST_MMENGINE="$(subst mmengine-,mmengine==,$*)" $(PY) -m pytest tests/engine $(ARGS)

test-torch:
ifeq ($(TORCH),)
	@echo "Say which torch: make test-torch TORCH=2.6.0" >&2; exit 1
else
	@mkdir -p $(TORCH_VENV)
	@echo "torch==$(TORCH)" > $(TORCH_VENV)/constraints.txt
	PIP_CONSTRAINT="$(abspath $(TORCH_VENV))/constraints.txt" $(MAKE) test VENV=$(TORCH_VENV)
endif

lint: $(call needs,lint)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: $(call needs,lint)
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

docs: $(call needs,docs)
	$(PY) -m mkdocs build --strict

clean:
	rm -rf build dist site .pytest_cache .mypy_cache .ruff_cache *.egg-info
	find effdense tests tools configs -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# One stamp per extra; `base` is the package with what it needs to run.
$(VENV)/.installed-base: pyproject.toml | $(PY)
	$(PY) -m pip install --quiet -e .
	@touch $@

$(VENV)/.installed-%: pyproject.toml | $(PY)
	$(PY) -m pip install --quiet -e ".[$*]"
	@touch $@

# Alone, without what it depends on: that came with the package, and pip would bring other versions of it.
$(VENV)/engines/%/mmengine/__init__.py: | $(PY)
ifneq ($(INSTALL),no)
	$(PY) -m pip install --quiet --no-deps --target $(VENV)/engines/$* "$(subst mmengine-,mmengine==,$*)"
else
	@echo "INSTALL=no takes $(VENV) as it is, but there is no $(@D)." >&2; exit 1
endif

# Editable installs from pyproject.toml alone need pip 21.3, newer than the one some Python 3.10 bring along.
$(VENV)/bin/python:
ifneq ($(INSTALL),no)
	@command -v $(PYTHON) >/dev/null || { echo "There is no '$(PYTHON)' here; name one: make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	    echo "effdense needs Python 3.10 or newer; '$(PYTHON)' is $$($(PYTHON) -V 2>&1). Name another: make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet "pip>=21.3"
else
	@echo "INSTALL=no takes $(VENV) as it is, but there is no $(PY)." >&2; exit 1
endif
