# Every target does its own set-up; a set-up that is current costs milliseconds.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
PY := .venv/bin/python
N ?= 500

.PHONY: help setup demo dev test check format sim sim-planted chaos bench docs peers lock clean

help: ## what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## find a Python, make .venv, install what is locked
	@scripts/setup.sh

demo: setup ## server, services and two engines as processes; 300 orders, two SIGKILLs, the books checked
	$(PY) -m services.demo

dev: setup ## the same processes left running; prints where to look
	$(PY) -m services.demo --dev

test: setup ## the layers and every test, on two cores
	.venv/bin/lint-imports --no-logo
	$(PY) -m pytest -n 2 --dist loadgroup $(ARGS)

check: setup ## ruff, basedpyright (strict), the layers
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/basedpyright
	.venv/bin/lint-imports --no-logo

format: setup ## let ruff rewrite what it can
	.venv/bin/ruff check --fix
	.venv/bin/ruff format

sim: setup ## simulated universes: N=500, SEED=... for one of them
	$(PY) -m tests.simulation --universes $(N) $(if $(SEED),--seed $(SEED))

sim-planted: setup ## every planted bug must be found
	$(PY) -m tests.simulation --planted

peers: ## fetch what tests of other programs need, into .cache/: Node's packages, Prometheus
	@scripts/peers.sh
	@scripts/prometheus.sh

chaos: setup ## real processes, real signals
	CHAOS_SECTIONS=10000 CHAOS_EVENTS=200000 $(PY) -m pytest tests/chaos $(ARGS)

bench: setup ## the benchmark's workloads; WORKLOAD=... for one
	$(PY) -m jetloom.bench $(WORKLOAD)

docs: setup ## write docs/reference/python.md from the code
	$(PY) scripts/reference.py

lock: setup ## resolve pyproject.toml into requirements.lock: hashes, no addresses
	@scripts/lock.sh

clean: ## remove the environment and what tools left
	rm -rf .venv .setup.lock .pytest_cache .ruff_cache .import_linter_cache .hypothesis .coverage .coverage.* htmlcov dist build
	find framework services tests -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
