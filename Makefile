# Everything a contributor does, from a fresh clone. `make help` lists the targets.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.installed
NATIVE := $(wildcard adapters_store/kernels/csrc/* server/runners/ops/csrc/*)

.DEFAULT_GOAL := help
.PHONY: help install check format test test-quick demo serve serve-pictures bench loadtest clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*  ## ' $(MAKEFILE_LIST) | awk -F ':.*  ## ' '{printf "  make %-12s %s\n", $$1, $$2}'

install: $(READY)  ## make .venv and install the project with everything its checks and tests need

$(READY): pyproject.toml constraints.txt setup.py $(NATIVE)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev,loadtest]'
	touch $@

check: $(READY)  ## format, lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)  ## rewrite the sources in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test: $(READY)  ## the whole test suite, a real Redis-protocol server and a real model included
	$(BIN)/pytest

test-quick: $(READY)  ## the suite without what takes more than a few seconds
	$(BIN)/pytest -m 'not slow'

demo: $(READY)  ## base, each example adapter, two together: answers with receipts, switch times, a sheet of pictures
	$(BIN)/shira demo

serve: $(READY)  ## serve the default base model on 127.0.0.1:8000
	$(BIN)/shira serve --model SmolLM2-135M-Instruct@package

serve-pictures: $(READY)  ## serve the emoji model on 127.0.0.1:8001
	$(BIN)/shira serve --model examples/emoji/model --dtype float32 --port 8001 --data-dir .cache/pictures

bench: $(READY)  ## switch benchmark against LoRA fusing, torch scatter and the memory floor
	$(BIN)/shira bench switch

loadtest: $(READY)  ## a short Locust run against a server started for it
	$(BIN)/python -m loadtest.run

clean:  ## remove the environment and every cache
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .cache
