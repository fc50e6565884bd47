# Everything a newcomer needs: `make demo`, `make test`. Needs git, make and Python >= 3.11 with venv.
.DEFAULT_GOAL := help
.PHONY: help env demo up down test lint fmt lock

PYTHON ?= $(shell command -v python3.11 || command -v python3 || echo python3)
BIN := .venv/bin

help: ## List these targets
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)$$/\1|\2/p' $(MAKEFILE_LIST) | \
		while IFS='|' read -r name text; do printf '  make %-6s %s\n' "$$name" "$$text"; done

env: ## Build the locked environment in .venv (done by every other target when needed)
	@$(PYTHON) scripts/bootstrap.py

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
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

lock: env ## Resolve the dependencies anew into requirements.lock
	@$(PYTHON) scripts/bootstrap.py --lock
