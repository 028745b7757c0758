# Everything a person does here. Each target does its own set-up; `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
APP ?= examples.board:app
UP_FLAGS ?=
SEEDS ?= 300
RUNS ?= 100000
PYTEST_FLAGS ?=
# Modules of `make integration` at once: its tests wait more than they work.
WORKERS ?= $(shell echo $$((2 * $$(nproc))))

# The tests start hundreds of processes, and each would compile everything anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup engines up test unit integration check fmt lint types floors sim scale fuzz fuzz-resp bench performance docs proto clean

help: ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/run.stamp: pyproject.toml scripts/make-venv
	@scripts/make-venv "$(PYTHON)" $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[examples]'
	@touch $@

$(VENV)/dev.stamp: $(VENV)/run.stamp
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[examples,dev]'
	@touch $@

setup: $(VENV)/dev.stamp ## Make the virtual environment with everything a developer needs

engines: ## Install the real servers that the tests meet (Debian, as root; elsewhere say what is missing)
	@scripts/install-engines

up: $(VENV)/run.stamp ## Start three nodes, three instances of the board and the gateway (APP=module:app, UP_FLAGS=…)
	@$(BIN)/noctule up $(APP) $(UP_FLAGS)

test: $(VENV)/dev.stamp engines ## Run every test: those of `make unit`, and then those of `make integration`
	@$(MAKE) --no-print-directory --keep-going unit integration

unit: $(VENV)/dev.stamp ## Run the tests that need no processes, in seconds
	@$(BIN)/python -m pytest -m 'not integration' --ignore tests/integration -n auto $(PYTEST_FLAGS)

integration: $(VENV)/dev.stamp engines ## Run the tests with real processes and engines
	@$(BIN)/python -m pytest -m integration -n $(WORKERS) tests/integration tests/contracts $(PYTEST_FLAGS)

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

bench: $(VENV)/dev.stamp engines ## Measure consensus, log, transports, simulator, checker, throughput, elections, failover, restart and scale; more than an hour
	@$(BIN)/python bench/consensus.py
	@$(BIN)/python bench/wal.py
	@$(BIN)/python bench/transport.py
	@$(BIN)/python -m noctule.verify.sim.speed
	@$(BIN)/python bench/checker.py
	@$(BIN)/python bench/throughput.py
	@$(BIN)/python bench/throughput.py --partitions 3 16 64 1024
	@$(BIN)/python bench/etcd.py
	@$(BIN)/python bench/eventual.py
	@$(BIN)/python bench/clients.py
	@$(BIN)/python bench/gateway.py
	@$(BIN)/python bench/registry.py
	@$(BIN)/python bench/elections.py
	@$(BIN)/python bench/failover.py
	@$(BIN)/python bench/restart.py
	@$(BIN)/python bench/partitions.py
	@$(BIN)/python bench/migration.py
	@$(BIN)/python bench/scale.py
	@$(BIN)/python bench/breaker.py
	@$(BIN)/python bench/refresh.py
	@$(BIN)/python bench/kits.py
	@$(BIN)/python bench/gaps.py

performance: $(VENV)/dev.stamp engines ## Measure what docs/reference/performance.md shows, and write it anew; half an hour
	@$(BIN)/python bench/throughput.py --json bench/results/throughput.json
	@$(BIN)/python bench/throughput.py --partitions 3 16 64 1024 --json bench/results/partitions.json
	@$(BIN)/python bench/etcd.py --json bench/results/etcd.json
	@$(BIN)/python bench/eventual.py --json bench/results/eventual.json
	@$(BIN)/python bench/clients.py --json bench/results/clients.json
	@$(BIN)/python bench/gateway.py --json bench/results/gateway.json
	@$(BIN)/python bench/registry.py --json bench/results/registry.json
	@$(BIN)/python bench/kits.py --json bench/results/kits.json
	@$(BIN)/python bench/gaps.py --json bench/results/gaps.json
	@$(BIN)/python bench/render_performance.py

docs: $(VENV)/dev.stamp ## Write the reference pages anew from the code
	@$(BIN)/python scripts/render_reference.py

proto: $(VENV)/dev.stamp ## Write the messages of the gRPC services anew from proto/
	@PYTHON=$(BIN)/python scripts/make-proto

clean: ## Remove the virtual environment and caches (never the data under .noctule)
	@rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
