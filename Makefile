# `make help` lists what can be done; `.ci/run` calls the same targets.

PYTHON ?=
VENV := .venv
CLIENTS := .venv-clients
BIN := $(VENV)/bin
ARGS ?=
MINUTES ?= 10
# What the page's browser loads of others.
BROWSER_CODE := src/spreadpilot_core/ibkr/http_api/page/static/vendor/package-lock.json
# Tests mostly wait for real parts, so that more of them than processors run at once.
WORKERS ?= 4
# What measures coverage; on Python 3.11 it doubles the time of the tests.
COV ?=
# Where it is set, a few tests that fail among the others are run once more, alone.
SECOND_CHANCE ?=
# What `make lock` runs; uv is needed for nothing else.
UV ?= uv
LOCK := $(UV) pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --quiet

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export NO_MKDOCS_2_WARNING := 1

.DEFAULT_GOAL := help
CHECKS := style types imports repository coverage docs
.PHONY: $(CHECKS:%=check-%) help setup demo test retest cluster parts check bench soak docs picture screenshots lock clean
.DELETE_ON_ERROR:

help: ## this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 18

setup: $(VENV)/.dev $(CLIENTS)/.ready $(BROWSER_CODE) ## make .venv with everything, and .venv-clients with the other client libraries

demo: $(VENV)/.runtime ## three simulated gateways start, fail and recover before your eyes (ARGS="--page", "--followers 5")
	@$(if $(filter --page,$(ARGS)),$(BIN)/python tools/fetch_browser_code.py || true)
	@$(BIN)/gateway-manager demo $(ARGS)

test: setup ## all tests (ARGS="tests/unit -k leases")
	@$(if $(COV),rm -f .coverage .coverage.*)
	$(if $(SECOND_CHANCE),$(BIN)/python tools/retest.py )$(BIN)/pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder $(COV) $(ARGS)

retest: setup ## what failed in the last run once more, one after the other, with nothing beside it
	$(BIN)/pytest -v --last-failed --last-failed-no-failures none $(ARGS)

cluster: $(VENV)/.dev ## build the Kubernetes cluster that tests use where it is built, and helm (once; some minutes)
	PYTHONPATH=tests $(BIN)/python -m real_parts.kubernetes.build
	PYTHONPATH=tests $(BIN)/python -c 'from support.helm import helm_program; print(helm_program())'

parts: cluster ## build every real part that tests use: a FerretDB, a Collector, bots in Rust and Node, the cluster (once; some minutes)
	PYTHONPATH=tests $(BIN)/python -c 'from support.mongo import ferretdb_program; print(ferretdb_program())'
	PYTHONPATH=tests $(BIN)/python -c 'from support.collector import program; print(program())'
	PYTHONPATH=tests $(BIN)/python -c 'from support.other_languages import built_node_bot, built_rust_bot; print(built_node_bot(), built_rust_bot())'

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
	$(BIN)/python tools/write_metrics.py --check
	$(BIN)/python tools/write_dashboard.py --check
	$(BIN)/python tools/write_benchmarks.py --check
	$(BIN)/mkdocs build --strict --quiet

bench: $(VENV)/.dev ## every benchmark, one after the other (ARGS="get_client large_fleet")
	$(BIN)/python -m benchmarks $(ARGS)

soak: setup ## the long tests: a fleet in trouble for MINUTES=10, compared exactly at the end
	MINUTES=$(MINUTES) $(BIN)/pytest -m soak --timeout $$(($(MINUTES) * 60 + 900)) $(ARGS)

docs: $(VENV)/.dev ## the documentation on http://127.0.0.1:8000
	$(BIN)/mkdocs serve

picture: $(VENV)/.dev ## draw docs/demo.svg from a real run of the demo
	$(BIN)/python tools/draw_demo.py docs/demo.svg

screenshots: $(VENV)/.dev ## take docs/pictures from a real run (needs Debian's prometheus and chromium)
	$(BIN)/python tools/take_screenshots.py docs/pictures $(ARGS)

lock: ## renew requirements/*.txt from pyproject.toml (needs uv)
	$(LOCK) pyproject.toml --all-extras --group dev --output-file requirements/dev.txt
	$(LOCK) pyproject.toml --constraints requirements/dev.txt --output-file requirements/runtime.txt
	$(LOCK) pyproject.toml --all-extras --constraints requirements/dev.txt --output-file requirements/service.txt
	$(LOCK) --group build --constraints requirements/dev.txt --output-file requirements/build.txt
	$(LOCK) pyproject.toml requirements/clients.in --constraints requirements/dev.txt --output-file requirements/clients.txt

clean: ## remove both environments and everything that was built
	rm -rf $(VENV) $(CLIENTS) .nox .cache site dist .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find src tests tools benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(BROWSER_CODE): package-lock.json $(VENV)/.dev
	@$(BIN)/python tools/fetch_browser_code.py && touch $@ || true

# The demo needs the run-time packages and what builds ours; the tests put theirs on top. Each is redone only when its lock
# file changes.
# A lock file is complete (`check-imports` asks pip), hence --no-deps: an older pip, as Python 3.11's own, takes the newest
# release for a requirement with extras, not the locked one, and then refuses it for its missing hash.

$(BIN)/python $(CLIENTS)/bin/python:
	@python=$$(PYTHON="$(PYTHON)" tools/find_python.sh) && "$$python" -m venv $(patsubst %/bin/python,%,$@)

$(VENV)/.runtime: requirements/runtime.txt requirements/build.txt | $(BIN)/python
	@PYTHON=$(BIN)/python tools/find_python.sh >/dev/null || { echo "Remove $(VENV), which was made with it." >&2; exit 1; }
	@echo "Setting up $(VENV): the run-time packages."
	@$(BIN)/python -m pip install --quiet --require-hashes --no-deps $(^:%=-r %)
	@$(BIN)/python -m pip install --quiet --no-build-isolation --no-deps --editable .
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.runtime
	@echo "Setting up $(VENV): the developers' packages."
	@$(BIN)/python -m pip install --quiet --require-hashes --no-deps -r $<
	@touch $@

$(CLIENTS)/.ready: requirements/clients.txt requirements/build.txt | $(CLIENTS)/bin/python
	@echo "Setting up $(CLIENTS): ib_insync and the official ibapi beside ib_async."
	@$(CLIENTS)/bin/python -m pip install --quiet --require-hashes --no-deps $(^:%=-r %)
	@$(CLIENTS)/bin/python -m pip install --quiet --no-build-isolation --no-deps --editable .
	@touch $@
