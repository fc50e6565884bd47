# Everything a newcomer needs: `make demo`, `make test`. Needs git, make and Python >= 3.11 with venv.
.DEFAULT_GOAL := help
.PHONY: help env bench-env bench bench-size soak demo up down test lint fmt lock docs faults sre-check k8s-check sbom audit

# The first that is new enough; python3 if none is, so that the bootstrap can say so.
PYTHON ?= $(shell for name in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$name && exit; \
	done; echo python3)
BIN := .venv/bin
BENCH_BIN := .venv-bench/bin
BENCH = $(BENCH_BIN)/python -m bench.pipeline

help: ## List these targets
	@sed -n 's/^\([a-z0-9-]*\):[^#]*## \(.*\)$$/\1|\2/p' $(MAKEFILE_LIST) | \
		while IFS='|' read -r name text; do printf '  make %-10s %s\n' "$$name" "$$text"; done

env: ## Build the locked environment in .venv (done by every other target when needed)
	@$(PYTHON) scripts/bootstrap.py

bench-env: env ## Build the benchmark's locked environment in .venv-bench (done by `make bench` when needed)
	@$(PYTHON) scripts/bootstrap.py --bench

bench: bench-env ## Measure the whole pipeline against its goals (QUICK=1 short, ONLY='max ack' some); writes docs/benchmark
	@$(BENCH) $(if $(QUICK),--quick) $(if $(ONLY),--only $(ONLY)) $(if $(YARDSTICKS),--yardsticks $(YARDSTICKS)) \
		$(if $(ROUNDS),--rounds $(ROUNDS))

bench-size: bench-env ## Measure with 1, 10 and 100 million payments held, as far as the disk allows (SIZES='1 10')
	@$(BENCH_BIN)/python -m bench.pipeline.size $(if $(SIZES),--millions $(SIZES))

soak: bench-env ## An hour of load, with the memory of each service watched (DURATION=3600 seconds)
	@$(BENCH_BIN)/python -m bench.pipeline.soak $(if $(DURATION),--seconds $(DURATION))

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

# make faults | make faults ONLY=22 SEED=7 | make faults MIXES=200 [JOBS=3] [SEED=7]
faults: env ## Break the system in every way of tests/faults, prove what held, write docs/reliability.md
	@$(BIN)/python -m tests.faults $(if $(ONLY),--only $(ONLY)) $(if $(SEED),--seed $(SEED)) \
		$(if $(MIXES),--mixes $(MIXES)) $(if $(JOBS),--jobs $(JOBS)) $(if $(FOLDER),--folder $(FOLDER)) \
		$(if $(SOAK_MINUTES),--soak-minutes $(SOAK_MINUTES))

sre-check: env ## Real Prometheus beside the product: every panel, rule and alert, real outages
	@$(BIN)/python -m deploy.observability.check

docs: env ## Write docs/asyncapi, docs/openapi and docs/operating/metrics.md anew
	@$(BIN)/python scripts/documents.py
	@$(BIN)/python deploy/k8s/generate_rules.py

k8s-check: env ## Apply deploy/k8s to a real API server: admission, rollout, drain, upgrade (builds it once)
	@$(BIN)/pytest deploy/k8s/check

sbom: env ## Write a bill of materials and the licences of what the images hold into dist/image
	@$(BIN)/python scripts/image.py sbom

audit: env ## Ask what is known against the images' dependencies
	@$(BIN)/python scripts/image.py audit
