# Everything a contributor does, from a fresh clone. `make help` lists the targets.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.installed
BESIDE := --numprocesses logical --maxprocesses 4 --dist loadfile  # a process holds up to 3 GiB
NATIVE := $(wildcard adapters_store/kernels/csrc/* server/runners/ops/csrc/*)

.DEFAULT_GOAL := help
.PHONY: help install check format test test-quick ops-tools test-ops demo serve serve-pictures bench loadtest chaos image-check clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*  ## ' $(MAKEFILE_LIST) | awk -F ':.*  ## ' '{printf "  make %-12s %s\n", $$1, $$2}'

install: $(READY)  ## make .venv and install the project with everything its checks and tests need

$(READY): pyproject.toml constraints.txt setup.py $(NATIVE)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev,loadtest]'
	touch $@

check: $(READY)  ## format, lint, types, layers, Dockerfile
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint Dockerfile

format: $(READY)  ## rewrite the sources in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test: $(READY)  ## the whole test suite, a real Redis-protocol server and a real model included
	$(BIN)/pytest -m 'not ops' $(BESIDE)

test-quick: $(READY)  ## the suite without what takes more than a few seconds
	$(BIN)/pytest -m 'not slow and not ops' $(BESIDE)

ops-tools: $(READY)  ## fetch Prometheus into .cache/ops, without root, where it is not on PATH
	$(BIN)/python -m deploy.monitoring.ops_tools

test-ops: ops-tools  ## a real Prometheus over real servers: rules, alerts, every panel of the dashboards
	$(BIN)/pytest -m ops tests/ops

demo: $(READY)  ## base, each example adapter, two together: answers with receipts, switch times, a sheet of pictures
	$(BIN)/shira demo

serve: $(READY)  ## serve the default base model on 127.0.0.1:8000
	$(BIN)/shira serve --model SmolLM2-135M-Instruct@package

serve-pictures: $(READY)  ## serve the emoji model on 127.0.0.1:8001
	$(BIN)/shira serve --model examples/emoji/model --dtype float32 --port 8001 --data-dir .cache/pictures

bench: $(READY)  ## switch benchmark against LoRA fusing, torch scatter and the memory floor
	$(BIN)/shira bench switch

loadtest: $(READY)  ## two minutes of texts, pictures and uploads against servers started for it; fails on a broken objective
	$(BIN)/python -m loadtest.run

chaos: $(READY)  ## break real servers under load (kills, Redis, disk, clock, memory), half an hour; writes docs/chaos
	$(BIN)/python -m loadtest.chaos --report docs/chaos

image-check: $(READY)  ## execute the Dockerfile's steps and its entry point in clean roots (as root, minutes); writes docs/image-check.md
	$(BIN)/python -m deploy.image

clean:  ## remove the environment and every cache
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .cache
