# `make demo` and `make test` set up everything they need; the other targets are for people who change the code.
.PHONY: setup demo test test-fast check bench mini mini-b mini-vl mini-sinks checkpoints

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# Tests reach no network, and one thread per process leaves the second core to the second worker.
OFFLINE := HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 PIP_NO_INDEX=1 OMP_NUM_THREADS=1
PYTEST := $(OFFLINE) $(RUN)/python -m pytest -n 2 --dist loadfile

setup: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(RUN)/python || $(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --quiet -c constraints.txt torch==2.13.0 hatchling
	$(RUN)/python -m pip install --quiet -c constraints.txt --no-build-isolation -e '.[dev,notebook,vision]'
	touch $@

demo: setup
	$(RUN)/interp find-heads --task ioi --model mini

test: setup
	$(PYTEST)

test-fast: setup
	$(PYTEST) -m "not slow and not matrix and not network"

check: setup
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/pyright

bench: setup
	$(RUN)/python -m tests.benchmarks

mini mini-b: setup
	$(RUN)/python -m circuits.training.mini $@

mini-vl: setup
	$(RUN)/python -m circuits.training.vision.train

mini-sinks: setup
	$(RUN)/python -m circuits.training.sinks.train

# The models of the kept training steps, in checkpoints/MODEL/checkpoints/step-00100 and so on, for interp emergence.
MODEL ?= mini
checkpoints: setup
	$(RUN)/python -m circuits.training.mini $(MODEL) --work checkpoints/$(MODEL) --out checkpoints/$(MODEL)/model
