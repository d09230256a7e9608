# The same targets that CI calls. Nothing here needs root, Docker or Node; Python 3.11 or newer and git are enough.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
ARGS ?=
B ?= poll
# One more than there are cores: tests wait for servers half of the time. The tests of a module share a running hub, so a
# module goes to one worker, and the long ones come first.
WORKERS ?= $(shell expr $$(nproc 2>/dev/null || echo 2) + 1)
SPREAD := --dist loadscope --no-loadscope-reorder

export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help
help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(STAMP) ## Make .venv with the locked dependencies (done by the other targets when needed)

$(STAMP): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; $(PYTHON) is older. Run: make PYTHON=/path/to/python3.11 ..."; exit 2; }
	@echo "Installing the locked dependencies into .venv (once, about a minute) ..."
	@rm -rf .venv
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock || \
	  { echo "The package index cannot be reached. Connect, or point pip to a mirror (PIP_INDEX_URL), and run again."; exit 1; }
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $(STAMP)

.PHONY: demo
demo: $(STAMP) ## The main job on real software: publish, roll out, prove, roll back (ARGS=--headless ends by itself)
	@$(BIN)/sdx demo up $(ARGS)

.PHONY: cluster
cluster: $(STAMP) ## Two hubs, PostgreSQL, S3 and a TLS proxy as processes; the story runs through it (ARGS=--headless)
	@$(BIN)/sdx demo cluster up $(ARGS)

.PHONY: test
test: $(STAMP) ## Every test; the slow sweeps in their reduced form
	@$(BIN)/python -m pytest -n $(WORKERS) $(SPREAD) -m "not full" $(ARGS)

.PHONY: lint
lint: $(STAMP) ## Style, types, import contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

.PHONY: format
format: $(STAMP) ## Rewrite the code in the project's style
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format --quiet .

.PHONY: faults
faults: $(STAMP) ## The whole power-cut sweep, a cluster's longest outages, hubs killed in a rollout (long)
	@$(BIN)/python -m pytest -n $(WORKERS) -m full tests/faults/test_power_cut.py tests/faults/test_power_cut_enrol.py tests/faults/test_cluster.py tests/faults/test_rollout_killed.py $(ARGS)

.PHONY: conformity
conformity: $(STAMP) ## schemathesis at length over every operation of the API, on both databases (long)
	@$(BIN)/python -m pytest -m full tests/integration/test_api_conformity.py $(ARGS)

.PHONY: limits
limits: $(STAMP) ## A payload of 1 GiB from build to craft, with hub and agent below 200 MB (long)
	@$(BIN)/python -m pytest -m full -s tests/faults/test_large_payload.py $(ARGS)

.PHONY: bench
bench: $(STAMP) ## Measure against a peer in the same run: make bench B=poll | agent | tls | million | growth | gates | rollout
	@$(BIN)/python -m bench.$(B) $(ARGS)

.PHONY: lock
lock: ## Write the locks anew from pyproject.toml (needs the package index)
	@$(PYTHON) -m venv .venv/lock
	@.venv/lock/bin/python -m pip install --quiet uv
	@.venv/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --extra dev \
	  --no-emit-package sdx-hub --no-header --output-file requirements.lock pyproject.toml
	@.venv/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --extra hub --extra otel \
	  --no-emit-package sdx-hub --no-header --no-annotate --constraints requirements.lock \
	  --output-file deploy/requirements-hub.lock pyproject.toml

.PHONY: clean
clean: ## Remove .venv, caches and the demo's folder
	@rm -rf .venv .demo .bench build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
