# Start here: `make demo`, `make test`, `make check`. They install everything into .venv first.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OLDEST := .venv-oldest
CODE := videovit tools tests datasets examples docs/pictures setup.py
DEMO := output/demo
# For 2 cores: some tests only wait, so a third process has something to compute.
PARALLEL := -n 3 --dist loadfile --no-loadscope-reorder

.PHONY: help setup demo test test-oldest test-slurm check format format-check lint types clean clean-demo

help:
	@echo "make setup   install everything into .venv (the other targets do it too)"
	@echo "make demo    render the demo data set, train, test and shuffle-test a small MViT, predict (under 10 minutes)"
	@echo "make clean-demo   remove the output of make demo, so that the next one starts over"
	@echo "make test    run the tests"
	@echo "make check   check format, lint and types, and run the tests"
	@echo "make test-oldest  run the tests with the oldest versions that setup.py allows, in a separate .venv"
	@echo "make test-slurm   start a virtual Slurm cluster, test preemption and node loss, remove it (as root on Debian)"
	@echo "make format  format the code, and fix what the linter can"
	@echo "make clean   remove .venv, output/ and caches"

setup: $(VENV)/.complete

# On Debian, venv is a separate package: root installs it here; other users see which package to install.
$(VENV)/.complete: setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; found: $$($(PYTHON) --version). Select one with PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then apt-get update -qq && apt-get install -y -qq python3-venv; \
	  else echo "Python's venv is missing; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; fi; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile --upgrade pip
	@echo "installing into $(VENV): about 6 GB with PyTorch's CUDA libraries, 1 to 5 minutes"
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile -e '.[dev]'
	@touch $@

demo: setup
	$(BIN)/python datasets/demo/prepare.py --output $(DEMO)/data
	$(BIN)/videovit run --cfg Demo/MVIT_TINY \
	  DATA.PATH_TO_DATA_DIR $(DEMO)/data OUTPUT_DIR $(DEMO)/run
	$(BIN)/videovit predict --cfg $(DEMO)/run/config.yaml --checkpoint $(DEMO)/run \
	  --json $(DEMO)/run/prediction.json $$(ls $(DEMO)/data/test/*.mp4 | head -n 2)
	@echo "pictures:   $(DEMO)/data/preview.png (the data), $(DEMO)/run/shuffle_eval.png (accuracy per frame order)"
	@echo "logs:       $(DEMO)/run/stdout.log, $(DEMO)/run/stats.jsonl, $(DEMO)/run/shuffle_eval.json"
	@echo "again:      make demo now only tests, since the model is trained; make clean-demo starts over"

clean-demo:
	rm -rf $(DEMO)

test: setup
	$(BIN)/python -m pytest $(PARALLEL)

test-oldest:
	$(PYTHON) -m venv $(OLDEST)
	sed -nE 's/^ +"([a-z0-9-]+)>=([^"]+)",$$/\1==\2/p' setup.py > $(OLDEST)/constraints.txt
	$(OLDEST)/bin/pip install --quiet --disable-pip-version-check --no-compile -e '.[dev]' -c $(OLDEST)/constraints.txt
	$(OLDEST)/bin/python -m pytest $(PARALLEL)

# 13 nodes: two for each of the runs that run side by side, and a spare one
test-slurm: setup
	$(BIN)/python tests/slurm/cluster.py --nodes 13 $(BIN)/python -m pytest tests/slurm

check: setup format-check lint types test

format-check: setup
	$(BIN)/ruff format --check $(CODE)

lint: setup
	$(BIN)/ruff check $(CODE)

types: setup
	$(BIN)/mypy

format: setup
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

clean:
	rm -rf $(VENV) $(OLDEST) output build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
