# `make help` lists what can be done; `.ci/run` calls the same targets.

PYTHON ?= $(shell tools/find_python.sh)
VENV := .venv
CLIENTS := .venv-clients
BIN := $(VENV)/bin
ARGS ?=
MINUTES ?= 10
# Tests mostly wait for real parts, so that more of them than processors run at once.
WORKERS ?= 4
# What `make lock` runs; uv is needed for nothing else.
UV ?= uv
LOCK := $(UV) pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --quiet

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export NO_MKDOCS_2_WARNING := 1

.DEFAULT_GOAL := help
CHECKS := style types imports repository coverage docs
.PHONY: $(CHECKS:%=check-%) help setup demo test check bench soak docs picture lock clean
.DELETE_ON_ERROR:

help: ## this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 18

setup: $(VENV)/.dev $(CLIENTS)/.ready ## make .venv with everything, and .venv-clients with the other client libraries

demo: $(VENV)/.runtime ## three simulated gateways start, fail and recover before your eyes (ARGS="--followers 5")
	@$(BIN)/gateway-manager demo $(ARGS)

test: setup ## all tests, with coverage (ARGS="tests/unit -k leases")
	@rm -f .coverage .coverage.*
	$(BIN)/pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder --cov --cov-report= $(ARGS)

check: $(CHECKS:%=check-%) ## style, types, imports, sizes, coverage, docs

check-style: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

check-types: $(VENV)/.dev
	$(BIN)/mypy

check-imports: setup
	PYTHONPATH=. $(BIN)/lint-imports
	$(BIN)/python -m pip check
	$(CLIENTS)/bin/python -m pip check

check-repository: $(VENV)/.dev
	$(BIN)/python tools/check_repository.py

check-coverage: $(VENV)/.dev
	$(BIN)/python tools/check_coverage.py

check-docs: $(VENV)/.dev
	$(BIN)/python tools/write_settings.py --check
	$(BIN)/mkdocs build --strict --quiet

bench: $(VENV)/.dev ## every benchmark, one after the other (ARGS="get_client large_fleet")
	$(BIN)/python -m benchmarks $(ARGS)

soak: setup ## the long tests: a fleet in trouble for MINUTES=10, compared exactly at the end
	MINUTES=$(MINUTES) $(BIN)/pytest -m soak --timeout $$(($(MINUTES) * 60 + 900)) $(ARGS)

docs: $(VENV)/.dev ## the documentation on http://127.0.0.1:8000
	$(BIN)/mkdocs serve

picture: $(VENV)/.dev ## draw docs/demo.svg from a real run of the demo
	$(BIN)/python tools/draw_demo.py docs/demo.svg

lock: ## renew requirements/*.txt from pyproject.toml (needs uv)
	$(LOCK) --group dev --output-file requirements/dev.txt
	$(LOCK) --group build --constraints requirements/dev.txt --output-file requirements/runtime.txt
	$(LOCK) --group build requirements/clients.in --constraints requirements/dev.txt --output-file requirements/clients.txt

clean: ## remove both environments and everything that was built
	rm -rf $(VENV) $(CLIENTS) .cache site dist .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find src tests tools benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# The demo needs the run-time packages alone; the tests put theirs on top. Each is redone only when its lock file changes.
# A lock file is complete (`check-imports` asks pip), hence --no-deps: an older pip, as Python 3.11's own, takes the newest
# release for a requirement with extras, not the locked one, and then refuses it for its missing hash.

$(BIN)/python $(CLIENTS)/bin/python:
	@test -n "$(PYTHON)"
	@$(PYTHON) -m venv $(patsubst %/bin/python,%,$@)

$(VENV)/.runtime: requirements/runtime.txt | $(BIN)/python
	@echo "Setting up $(VENV): the run-time packages."
	@$(BIN)/python -m pip install --quiet --require-hashes --no-deps -r $<
	@$(BIN)/python -m pip install --quiet --no-build-isolation --no-deps --editable .
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.runtime
	@echo "Setting up $(VENV): the developers' packages."
	@$(BIN)/python -m pip install --quiet --require-hashes --no-deps -r $<
	@touch $@

$(CLIENTS)/.ready: requirements/clients.txt | $(CLIENTS)/bin/python
	@echo "Setting up $(CLIENTS): ib_insync and the official ibapi beside ib_async."
	@$(CLIENTS)/bin/python -m pip install --quiet --require-hashes --no-deps -r $<
	@$(CLIENTS)/bin/python -m pip install --quiet --no-build-isolation --no-deps --editable .
	@touch $@
