# `make demo` and `make test` are all there is to know; both set up .venv first when it is missing.
SHELL := /bin/bash
BIN := .venv/bin
# Python 3.11 or 3.12: the first of these that runs and is one of them
PYTHON ?= $(shell for p in python3.11 python3.12 python3; do $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && { echo $$p; break; }; done)
DEMO_DATA := data/twin/demo
DEMO_OUT := results/demo
WORKERS ?= 2

.PHONY: help setup demo one test test-all test-slurm bench bench-scale bench-gpu lab nbs docs check
help:
	@echo "make demo      a simulated experiment of 12 genotypes, from photographs to the report"
	@echo "make test      notebooks and tests; no root, no network, no GPU"
	@echo "make test-all  what 'make test' leaves out: real Slurm, Chromium, kill campaigns, full-size encoders"
	@echo "make test-slurm  of those, the jobs on a real Slurm on this machine (root, Debian packages)"
	@echo "make one       train one fold on one backbone (once the demo's experiment is there)"
	@echo "make bench     the benchmarks, as ratios; SHORT=1 with small sizes, to see that they run"
	@echo "make bench-scale  what ten times as many plants cost, step by step; takes long"
	@echo "make bench-gpu    what a GPU makes of features and of a study"
	@echo "make lab       JupyterLab on the exploring notebooks"
	@echo "make nbs       run all notebooks in place, clean and export them"
	@echo "make docs      all notebooks as a small site to read and search offline, in _docs/; runs none of them"
	@echo "make check     are notebooks clean and the package in step?"

# TORCH_INDEX: where torch and torchvision come from instead of the package index, such as PyTorch's own wheels without GPU libraries
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt
OF_PACKAGE := settings.ini setup.py pyproject.toml constraints.txt

setup: .venv/.dev
# what running needs
.venv/.ready: $(OF_PACKAGE)
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 is needed; set PYTHON=/path/to/python3.11"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(if $(TORCH_INDEX),$(PIP) --no-deps --index-url $(TORCH_INDEX) torch torchvision)
	$(PIP) -e .
	touch $@
# and what changing and testing needs
.venv/.dev: .venv/.ready
	$(PIP) -e '.[dev]'
	touch $@

demo: .venv/.ready
	@$(BIN)/faba twin $(DEMO_DATA) --genotypes 12 --seed 1
	@$(BIN)/faba run demo --data $(DEMO_DATA) --out $(DEMO_OUT)

one: .venv/.ready
	@$(BIN)/faba twin $(DEMO_DATA) --genotypes 12 --seed 1
	@$(BIN)/faba features --data $(DEMO_DATA) --backbones morphology
	@$(BIN)/faba train one --data $(DEMO_DATA) --out results/one --shard 1/12
	@$(BIN)/faba status results/one

# one process more than cores, as many tests wait for something
test: setup
	$(BIN)/python -m pytest -n $$(($(WORKERS) + 1)) --dist worksteal -m "not full and not slurm"

# each file by one of the processes, those with many tests first
test-all: setup
	$(BIN)/python -m pytest -n $$(($(WORKERS) + 1)) --dist loadfile -m "full or slurm"

test-slurm: setup
	$(BIN)/python -m pytest -m slurm tests/test_slurm.py

bench: setup
	$(BIN)/python tests/bench.py $(if $(SHORT),--short)

# one experiment of the usual size, three and ten times as large
bench-scale: setup
	$(BIN)/python tests/bench.py scale

# on a machine with a GPU; elsewhere a trial at a tiny size
bench-gpu: setup
	$(BIN)/python tests/bench.py gpu

lab: .venv/.ready
	$(BIN)/jupyter lab --notebook-dir=. nbs/90_explore

nbs: setup
	$(BIN)/python tests/run_notebooks.py

docs: setup
	$(BIN)/python nbs/docs/build.py

check: setup
	$(BIN)/python -m pytest -q tests/test_repository.py
