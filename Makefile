# Every target does its own set-up: a fresh machine with python3 (3.11 to 3.13) and make is enough.
PYTHON ?= python3
PYTHONS ?= 3.11 3.12 3.13
VENV   := .venv
BIN    := $(VENV)/bin
DEMO_METHODS ?= zeroshot linear adaptformer full mvadapter
RUNS   ?= runs
export OMP_NUM_THREADS ?= 1
# Where processes share cores, threads that wait by spinning keep others from working.
export OMP_WAIT_POLICY ?= passive

.DEFAULT_GOAL := help
.PHONY: help setup demo test regression regression-record wheel lint format report bench-fixture bench-perf faults fuzz versions audit clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.installed ## virtual environment with everything pinned in constraints.txt

# A virtual environment holds its own place in its scripts: in a clone that was moved it is made anew.
PLACE := cd $(VENV) && pwd -P
MOVED := $(shell test -s $(VENV)/.installed && test "$$(cat $(VENV)/.installed)" != "$$($(PLACE))" && echo --clear)
ifneq ($(MOVED),)
.PHONY: $(VENV)/.installed
endif

$(VENV)/.installed: setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
		{ echo "petl_bench needs Python 3.11, 3.12 or 3.13: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(MOVED) $(VENV) || { echo "on Debian: apt-get install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@($(PLACE)) > $@

demo: setup ## generate clips, train on the CPU, print the leaderboard
	rm -rf demo
	$(BIN)/petl-bench demo demo --methods $(DEMO_METHODS)

# Tests often wait, for processes that end and for time that passes: a third worker uses what two leave of two cores.
test: setup ## all tests but those of the next target
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -q --ignore tests/regression

regression: setup ## every method trains on a small backbone and is compared with recorded figures; faults must show
	$(BIN)/python -m pytest -n 2 --dist load -q tests/regression

regression-record: setup ## records these figures anew, for the commit that is checked out (RECIPES: only of some)
	$(BIN)/python -m tests.regression.record $(RECIPES)

wheel: setup ## build the wheel, install it where nothing else is, use it in an empty folder
	$(BIN)/python -m pytest -q tests/integration/test_wheel.py

lint: setup ## ruff and pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: setup ## rewrite files as ruff wants them
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

report: setup ## leaderboard of the runs below RUNS (default: runs): make report RUNS=dir
	$(BIN)/petl-bench report $(RUNS)

# May be interrupted: a later start does what is missing. The rates are chosen before (docs/bench_fixture.md).
bench-fixture: setup ## every method, backbone and task on the diagnostic clips with three seeds (hours on two cores)
	$(BIN)/python -m benchmarks.fixture

# BEFORE: a checkout of 3e531d0, through which official codes are compared (docs/performance.md).
bench-perf: setup ## speed, bytes and growth against their goals, as a table and benchmarks/results/perf.json (half an hour)
	$(BIN)/python -m benchmarks.perf --output benchmarks/results/perf.json $(if $(BEFORE),--before $(BEFORE))

faults: setup ## kill, fill disks, flip bits, give bad files to the suite, print what held (45 minutes)
	$(BIN)/python -m benchmarks.faults

fuzz: setup ## 100,000 random inputs for every reader of files (Linux on x86_64)
	$(BIN)/python -m benchmarks.fuzz --executions 100000

# Resolves what an installation needs from binary packages alone, with and without the pins, and checks the types.
versions: setup ## try Python 3.11 to 3.13 (PYTHONS): are there packages for it, do the types hold
	$(BIN)/python -m build --no-isolation --wheel --outdir build/versions .
	@for version in $(PYTHONS); do for pins in /dev/null constraints.txt; do \
		$(BIN)/python -m pip install --quiet --dry-run --ignore-installed --only-binary=:all: --target build/versions \
			--python-version $$version --constraint $$pins "$$(echo build/versions/*.whl)[dev]" || exit; \
		echo "Python $$version resolves (constraints: $$pins)"; done; \
		$(BIN)/pyright --pythonversion $$version || exit; done

# Strict: where PyPI's list of holes cannot be read (a mirror has none), an audit of nothing would look like a clean one.
audit: setup ## look up known holes of everything that is pinned (asks pypi.org)
	$(BIN)/pip-audit --strict --requirement constraints.txt --no-deps --disable-pip

clean: ## remove what can be made again; runs and reports stay
	rm -rf $(VENV) demo build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
