# Everything starts here: `make demo`, `make test`, `make check`. Set-up happens by itself, in .venv.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OLDEST := .venv-oldest
CODE := videovit tools tests datasets setup.py
DEMO := output/demo

.PHONY: help setup demo test test-oldest test-slurm check format format-check lint types clean clean-demo

help:
	@echo "make setup   install everything into .venv; the others do it by themselves"
	@echo "make demo    render the demo data set, train, test and shuffle-test a small MViT, predict (under 10 minutes)"
	@echo "make clean-demo   remove what make demo made: the next one starts over"
	@echo "make test    run the tests"
	@echo "make check   format check, lint, types, tests"
	@echo "make test-oldest  the tests with the oldest versions that setup.py allows, in a .venv of their own"
	@echo "make test-slurm   as root on Debian: start a Slurm cluster of virtual nodes here, test runs on it, remove it"
	@echo "make format  put the code into the house format"
	@echo "make clean   remove .venv, output/ and caches"

setup: $(VENV)/.complete

# Debian keeps venv in a package of its own; as root it is installed, otherwise its name is told.
$(VENV)/.complete: setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; found: $$($(PYTHON) --version). Name one with PYTHON=..."; exit 1; }
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
	$(BIN)/python tools/run_net.py --cfg configs/Demo/MVIT_TINY.yaml \
	  DATA.PATH_TO_DATA_DIR $(DEMO)/data OUTPUT_DIR $(DEMO)/run
	$(BIN)/python tools/predict.py --cfg $(DEMO)/run/config.yaml --checkpoint $(DEMO)/run \
	  --json $(DEMO)/run/prediction.json $$(ls $(DEMO)/data/test/*.mp4 | head -n 2)
	@echo "pictures:   $(DEMO)/data/preview.png (the data), $(DEMO)/run/shuffle_eval.png (accuracy by frame order)"
	@echo "logs:       $(DEMO)/run/stdout.log, $(DEMO)/run/stats.jsonl, $(DEMO)/run/shuffle_eval.json"
	@echo "again:      the model is trained; make demo now only tests. make clean-demo starts over"

clean-demo:
	rm -rf $(DEMO)

test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-oldest:
	$(PYTHON) -m venv $(OLDEST)
	sed -nE 's/^ +"([a-z0-9-]+)>=([^"]+)",$$/\1==\2/p' setup.py > $(OLDEST)/constraints.txt
	$(OLDEST)/bin/pip install --quiet --disable-pip-version-check --no-compile -e '.[dev]' -c $(OLDEST)/constraints.txt
	$(OLDEST)/bin/python -m pytest -n 2 --dist loadfile

# 13 nodes: two for each of the runs that go on side by side, one in reserve
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
