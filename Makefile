# `make run` shows the main job, `make test` verifies it. Each sets up its requirements first.
PYTHON ?= python3
ARGS ?=
WORKERS ?= 3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help run test check static bench chaos up lock clean

help:
	@echo "make run    set up, start everything, submit a sample, show the result"
	@echo "            ARGS=--exit stops after the summary; ARGS=\"--file listings.csv\" submits your own file"
	@echo "make test   style, types, import rules and every test, on real Kafka and PostgreSQL"
	@echo "make check  the fast part of it: style, types, import rules, unit tests"
	@echo "make bench  measure each stage and its floor (docs/performance.md)"
	@echo "make chaos  inject faults under load and check every promise; ARGS=\"--minutes 30 --seed 7\""
	@echo "make up     start everything, without data"
	@echo "make lock   resolve requirements/*.txt again after a change in pyproject.toml"
	@echo "make clean  remove the environment and the local stack's data (the downloaded jars stay in ~/.cache/piepowder)"

run:
	@$(PYTHON) deploy/environment.py local
	@exec $(BIN)/python -m piepowder run $(ARGS)

up:
	@$(PYTHON) deploy/environment.py local
	@exec $(BIN)/python -m piepowder up $(ARGS)

test: static
	@echo "== Kafka's jars"
	@$(BIN)/python -m deploy.local.jars
	@echo "== every test, in $(WORKERS) processes on one Kafka and one PostgreSQL"
	@$(BIN)/python -m pytest -n $(WORKERS) --ignore=tests/e2e/test_chaos_short.py tests/e2e tests/integration \
		tests/contract tests/unit tests/property tests/architecture $(ARGS)
	@echo "== a short chaos run, alone: its load and its faults need the whole machine"
	@exec $(BIN)/python -m pytest tests/e2e/test_chaos_short.py

check: static
	@echo "== unit, property and architecture tests"
	@exec $(BIN)/python -m pytest -n 2 tests/unit tests/property tests/architecture $(ARGS)

static:
	@$(PYTHON) deploy/environment.py dev
	@echo "== style"
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@echo "== types"
	@$(BIN)/mypy
	@echo "== import rules"
	@$(BIN)/lint-imports

bench:
	@$(PYTHON) deploy/environment.py dev
	@exec $(BIN)/python -m tests.bench $(ARGS)

chaos:
	@$(PYTHON) deploy/environment.py dev
	@exec $(BIN)/python -m tests.chaos $(ARGS)

lock:
	@$(PYTHON) deploy/environment.py dev
	@$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
		--no-emit-index-url --no-emit-find-links pyproject.toml -o requirements/run.txt
	@$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
		--no-emit-index-url --no-emit-find-links --extra local --group build pyproject.toml -o requirements/local.txt
	@$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
		--no-emit-index-url --no-emit-find-links --extra local --group dev pyproject.toml -o requirements/dev.txt

clean:
	rm -rf .venv .piepowder .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
