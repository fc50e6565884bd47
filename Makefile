# Everything a newcomer needs: `make demo`, `make test`. Needs git, make and Python >= 3.11 with venv.
.DEFAULT_GOAL := help
.PHONY: help env bench-env demo up down test lint fmt lock docs

# The first that is new enough; python3 if none is, so that the bootstrap can say so.
PYTHON ?= $(shell for name in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$name && exit; \
	done; echo python3)
BIN := .venv/bin

help: ## List these targets
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)$$/\1|\2/p' $(MAKEFILE_LIST) | \
		while IFS='|' read -r name text; do printf '  make %-10s %s\n' "$$name" "$$text"; done

env: ## Build the locked environment in .venv (done by every other target when needed)
	@$(PYTHON) scripts/bootstrap.py

bench-env: env ## Build the benchmark's locked environment in .venv-bench (done by `make bench` when needed)
	@$(PYTHON) scripts/bootstrap.py --bench

demo: env ## Start the whole system, play the scenario, verify it, stop everything
	@$(BIN)/paypost demo

up: env ## Start the whole system and keep it running; prints the addresses
	@$(BIN)/paypost up

down: env ## Stop what `make up` started
	@$(BIN)/paypost down

test: env ## Format, lint, types, import rules and all tests on real Kafka and PostgreSQL
	@$(BIN)/python scripts/checks.py test

lint: env ## The checks of `make test` without its tests
	@$(BIN)/python scripts/checks.py lint

fmt: env ## Format the code and fix what can be fixed
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

lock: env ## Resolve the dependencies anew into requirements.lock
	@$(PYTHON) scripts/bootstrap.py --lock

docs: env ## Write docs/asyncapi and docs/openapi anew from the services
	@$(BIN)/python scripts/documents.py
