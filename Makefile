# Two commands do all the set-up: `make demo` and `make test`. Both install into .venv and leave the system alone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The benchmarks compare with other packages, which have an environment of their own, so that no test leans on them.
BENCH := .venv-bench
INTEGRATIONS := .venv-integrations
DOCS := .venv-docs
# glibc returns large buffers to the system after each step, and the page faults double large-batch steps on a CPU;
# the thresholds have effect only when they are set before Python starts (docs/benchmarks.md, "Timings on a CPU").
export MALLOC_MMAP_MAX_ ?= 0
export MALLOC_TRIM_THRESHOLD_ ?= 100000000000

.PHONY: demo test docs integrations check lint types studies bench kappa regret clean

$(VENV)/.torch: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt torch
	touch $@

$(VENV)/.core: $(VENV)/.torch pyproject.toml
	$(BIN)/pip install --quiet -c constraints.txt -e .
	touch $@

$(VENV)/.dev: $(VENV)/.core
	$(BIN)/pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

# One thread: its steps are so small that two threads only wait for each other, and on a busy machine for much else.
demo: $(VENV)/.core
	OMP_NUM_THREADS=1 $(BIN)/batchwright demo --out runs/demo

# One torch thread a worker: on a busy machine two threads are slower than one.
test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow" tests

lint: $(VENV)/.dev
	$(BIN)/ruff format --check src tests benchmarks examples docs/site docs/tables.py
	$(BIN)/ruff check src tests benchmarks examples docs/site docs/tables.py

types: $(VENV)/.dev
	$(BIN)/mypy

# The callbacks, Ray and Optuna against the real libraries, in an environment of their own; `make test` skips what is not installed.
$(INTEGRATIONS)/.libraries: constraints.txt pyproject.toml
	$(PYTHON) -m venv $(INTEGRATIONS)
	$(INTEGRATIONS)/bin/pip install --quiet -c constraints.txt torch
	$(INTEGRATIONS)/bin/pip install --quiet -c constraints.txt -e ".[dev,lightning,transformers,tensorboard,tune,wandb]"
	touch $@

integrations: $(INTEGRATIONS)/.libraries
	OMP_NUM_THREADS=1 $(INTEGRATIONS)/bin/python -m pytest tests/integrations tests/tuning tests/test_examples.py

check: lint types test

# The site, into site/; open site/index.html. A warning is an error, and nothing in it is fetched from elsewhere when it is read.
$(DOCS)/.site: constraints.txt pyproject.toml
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/pip install --quiet -c constraints.txt torch
	$(DOCS)/bin/pip install --quiet -c constraints.txt -e ".[docs]"
	touch $@

docs: $(DOCS)/.site
	OMP_NUM_THREADS=1 NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict

studies: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow --timeout 3600 tests
	OMP_NUM_THREADS=1 $(BIN)/batchwright study --all --preset laptop --out runs/studies --resume

# The packages of the second list name torchvision among their requirements and run without it; what else they need is in the first.
$(BENCH)/.peers: constraints.txt pyproject.toml benchmarks/requirements.txt benchmarks/requirements-bare.txt
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/pip install --quiet -c constraints.txt torch
	$(BENCH)/bin/pip install --quiet -c constraints.txt -e . -r benchmarks/requirements.txt
	$(BENCH)/bin/pip install --quiet -c constraints.txt --no-deps -r benchmarks/requirements-bare.txt
	touch $@

bench: $(BENCH)/.peers
	OMP_NUM_THREADS=1 $(BENCH)/bin/python -m benchmarks.all

# Regenerates the prior of kappa (critical batch size over noise scale) from the built-in tasks.
kappa: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.sweeps
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.branch_table
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.kappa

# How good plans are: needs the sweeps that `make kappa` leaves in runs/sweeps.
regret: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.regret

clean:
	rm -rf build dist site src/*.egg-info .pytest_cache .mypy_cache .ruff_cache
