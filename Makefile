# Everything a person does here. Each target does its own set-up; `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
APP ?= examples.board:app
UP_FLAGS ?=
SEEDS ?= 300
RUNS ?= 100000
PYTEST_FLAGS ?=
# make up COMPILED=1, make unit COMPILED=1: the same code, compiled first. What measures, and what meets real processes, always is.
COMPILED ?=
BUILT := build/compiled/run.stamp
BUILT_PYTHON := PYTHONPATH=$(CURDIR)/build/compiled $(BIN)/python
AS_ASKED := $(if $(COMPILED),$(BUILT))

# Modules of `make integration` at once: one more than there are cores, for tests wait as often as they compute. One at a
# time takes 20 minutes; all take 12 minutes of processor time, so on two cores a fourth gains little, and takes it from
# those that wait for a leader.
WORKERS ?= $(shell expr $$(nproc) + 1)

# The tests start hundreds of processes, and each would compile everything anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup compiled engines up test unit integration check fmt lint types floors sim scale fuzz fuzz-resp bench performance docs proto clean

help: ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/run.stamp: pyproject.toml scripts/make-venv
	@scripts/make-venv "$(PYTHON)" $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[examples]'
	@touch $@

$(VENV)/dev.stamp: $(VENV)/run.stamp
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[examples,dev]'
	@touch $@

$(BUILT): $(VENV)/dev.stamp pyproject.toml scripts/compile.py $(shell find src -name '*.py')
	@scripts/install-compiler $(BIN)/python
	@echo "compiling the hot path (a minute)" >&2
	@$(BIN)/python scripts/compile.py
	@touch $@

compiled: $(BUILT) ## Compile what a command passes through, into build/compiled (needs a C compiler)

setup: $(VENV)/dev.stamp ## Make the virtual environment with everything a developer needs

engines: ## Install the real servers that the tests meet (Debian, as root; elsewhere say what is missing)
	@scripts/install-engines

up: $(VENV)/run.stamp $(AS_ASKED) ## Start three nodes, three instances of the board and the gateway (APP=module:app, UP_FLAGS=…)
	@$(if $(COMPILED),$(BUILT_PYTHON),$(BIN)/python) -m noctule up $(APP) $(UP_FLAGS)

test: $(VENV)/dev.stamp engines ## Run every test: those of `make unit`, and then those of `make integration`
	@$(MAKE) --no-print-directory --keep-going unit integration

unit: $(VENV)/dev.stamp $(AS_ASKED) ## Run the tests that need no processes, in seconds
	@$(if $(COMPILED),$(BUILT_PYTHON),$(BIN)/python) -m pytest -m 'not integration' --ignore tests/integration -n auto $(PYTEST_FLAGS)

integration: $(BUILT) engines ## Run the tests with real processes and engines
	@$(BUILT_PYTHON) -m pytest -m integration -n $(WORKERS) tests/integration tests/contracts $(PYTEST_FLAGS)

check: fmt lint types floors unit ## Format, lint, types, floors, fast tests

fmt: $(VENV)/dev.stamp ## Format the code
	@$(BIN)/ruff format .

lint: $(VENV)/dev.stamp ## Lint the code
	@$(BIN)/ruff check .

types: $(VENV)/dev.stamp ## Check the types, strictly
	@$(BIN)/mypy

floors: $(VENV)/dev.stamp ## Check that floors import lower floors only
	@$(BIN)/lint-imports

sim: $(VENV)/dev.stamp ## Run simulated clusters under faults (SEEDS=300, or SEED=n to replay one)
	@$(BIN)/python -m noctule.verify.sim.run $(if $(SEED),--seed $(SEED),--seeds $(SEEDS) --jobs 0)

scale: $(VENV)/dev.stamp ## Simulate 100 nodes with 10,000 partitions, and tell what nodes cost as a cluster grows
	@$(BIN)/python -m noctule.verify.sim.scale

fuzz: $(VENV)/dev.stamp ## Run single Raft groups under random events (SEEDS=300, or SEED=n to replay one)
	@$(BIN)/python -m noctule.verify.sim.fuzz $(if $(SEED),--seed $(SEED),--seeds $(SEEDS))

fuzz-resp: $(VENV)/dev.stamp ## Throw bytes at the parser and the commands of the RESP door, led by coverage (RUNS=100000)
	@$(BIN)/python tests/fuzz/run.py parser -runs=$(RUNS)
	@$(BIN)/python tests/fuzz/run.py commands -runs=$(RUNS)

bench: $(BUILT) engines ## Measure consensus, log, transports, simulator, checker, throughput, elections, failover, restart and scale; more than an hour
	@$(BUILT_PYTHON) bench/consensus.py
	@$(BUILT_PYTHON) bench/wal.py
	@$(BUILT_PYTHON) bench/transport.py
	@$(BUILT_PYTHON) -m noctule.verify.sim.speed
	@$(BUILT_PYTHON) bench/checker.py
	@$(BUILT_PYTHON) bench/throughput.py
	@$(BUILT_PYTHON) bench/throughput.py --partitions 3 16 64 1024
	@$(BUILT_PYTHON) bench/etcd.py
	@$(BUILT_PYTHON) bench/eventual.py
	@$(BUILT_PYTHON) bench/clients.py
	@$(BUILT_PYTHON) bench/gateway.py
	@$(BUILT_PYTHON) bench/registry.py
	@$(BUILT_PYTHON) bench/elections.py
	@$(BUILT_PYTHON) bench/failover.py
	@$(BUILT_PYTHON) bench/restart.py
	@$(BUILT_PYTHON) bench/partitions.py
	@$(BUILT_PYTHON) bench/migration.py
	@$(BUILT_PYTHON) bench/scale.py
	@$(BUILT_PYTHON) bench/breaker.py
	@$(BUILT_PYTHON) bench/refresh.py
	@$(BUILT_PYTHON) bench/kits.py
	@$(BUILT_PYTHON) bench/gaps.py

performance: $(BUILT) engines ## Measure what docs/reference/performance.md shows, and write it anew; half an hour
	@$(BUILT_PYTHON) bench/throughput.py --json bench/results/throughput.json
	@$(BUILT_PYTHON) bench/throughput.py --partitions 3 16 64 1024 --json bench/results/partitions.json
	@$(BUILT_PYTHON) bench/etcd.py --json bench/results/etcd.json
	@$(BUILT_PYTHON) bench/eventual.py --json bench/results/eventual.json
	@$(BUILT_PYTHON) bench/clients.py --json bench/results/clients.json
	@$(BUILT_PYTHON) bench/gateway.py --json bench/results/gateway.json
	@$(BUILT_PYTHON) bench/registry.py --json bench/results/registry.json
	@$(BUILT_PYTHON) bench/kits.py --json bench/results/kits.json
	@$(BUILT_PYTHON) bench/gaps.py --json bench/results/gaps.json
	@$(BIN)/python bench/render_performance.py

docs: $(VENV)/dev.stamp ## Write the reference pages anew from the code
	@$(BIN)/python scripts/render_reference.py

proto: $(VENV)/dev.stamp ## Write the messages of the gRPC services anew from proto/
	@PYTHON=$(BIN)/python scripts/make-proto

clean: ## Remove the virtual environment, what was compiled, and caches (never the data under .noctule)
	@rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
