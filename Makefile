# The front door. Everything below also runs by hand, out of .venv/bin and deploy/dev.
SHELL := /bin/bash
BIN := .venv/bin
CACHE := $(or $(DEV_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/kennel)
# The tests use the programs of the system first; what the set-up fetched comes last.
export PATH := $(CURDIR)/.venv/bin:$(PATH):$(CACHE)/nix:$(CACHE)/bin
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-down stack test lint format bench campaign lock

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | while IFS=$$'\t' read -r name what; do printf 'make %-10s %s\n' "$$name" "$$what"; done

setup: ## install what is missing on this machine, tests included
	@deploy/dev/setup tests

demo: ## set up, start the local stack and show a push going live
	@deploy/dev/setup stack
	@deploy/dev/demo $(ARGS)

demo-down: ## stop the local stack and remove its state
	@deploy/dev/stack down

stack: ## run the local stack in this terminal until ^C
	@deploy/dev/setup stack
	@deploy/dev/stack up

test: ## set up and run the tests; ARGS="-k webhook -x" goes to pytest
	@deploy/dev/setup tests
	@python -m pytest $(ARGS)

lint: ## check style and types
	@deploy/dev/setup python
	ruff check .
	ruff format --check .
	mypy

format: ## let ruff mend the style
	@deploy/dev/setup python
	ruff check --fix .
	ruff format .

bench: ## measure against the targets; writes docs/benchmarks.md
	@deploy/dev/setup tests
	@deploy/dev/bench $(ARGS)

campaign: ## kill it, confuse it, attack it, at length; writes docs/reliability.md
	@deploy/dev/setup tests
	@deploy/dev/campaign $(ARGS)

lock: ## renew requirements.lock
	@deploy/dev/setup python
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --upgrade \
	  --group dev --output-file requirements.lock pyproject.toml
