# Every target does its own set-up: a fresh machine with python3 (3.11 or 3.12) and make is enough.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
DEMO_METHODS ?= zeroshot linear adaptformer full mvadapter
RUNS   ?= runs
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint format report faults clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.installed ## virtual environment with everything pinned in constraints.txt

$(VENV)/.installed: setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' || \
		{ echo "petl_bench needs Python 3.11 or 3.12: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV) || { echo "on Debian: apt-get install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: setup ## generate clips, train on the CPU, print the leaderboard
	rm -rf demo
	$(BIN)/petl-bench fixture demo/fixture
	$(BIN)/petl-bench fixture demo/stills --layout stills
	$(BIN)/petl-bench fit --config fixture_pretrain --runs_dir demo/pretrain
	cp demo/pretrain/*/full/*/*/seed0/adapter.safetensors demo/tiny_clip.safetensors
	for method in $(DEMO_METHODS); do \
		$(BIN)/petl-bench fit --config fixture_$$method --runs_dir demo/runs || exit; done
	$(BIN)/petl-bench report demo/runs --output demo/report

test: setup ## all tests
	$(BIN)/python -m pytest -n 2 --dist loadfile -q

lint: setup ## ruff and pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: setup ## rewrite files as ruff wants them
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

report: setup ## leaderboard of the runs below RUNS (default: runs)
	$(BIN)/petl-bench report $(RUNS)

faults: setup ## kill, fill disks, flip bits, give bad files to the suite, print what held (20 minutes)
	$(BIN)/python -m benchmarks.faults

clean: ## remove what can be made again; runs and reports stay
	rm -rf $(VENV) demo build dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
