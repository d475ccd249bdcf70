# Each target does all of its set-up, and nothing twice. Python 3.11 or newer, make and a package registry are needed.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
FAMILY ?=

.PHONY: help demo test lint docs bench ledger readme clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 10

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "paperworks needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)

# A stamp a set of extras: installed again only when what is asked for changes.
$(VENV)/.core: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing paperworks and what it needs into $(VENV) (minutes, once)"
	$(PIP) --editable .
	@touch $@
$(VENV)/.%: pyproject.toml constraints.txt $(VENV)/.core
	$(PIP) --editable '.[$*]'
	@touch $@

demo: $(VENV)/.core  ## colour transfer between two photographs, two papers re-checked, the report: under 5 minutes
	@rm -rf demo
	$(BIN)/paperworks run sinkhorn-newton-sparse --out demo/colour-transfer
	$(BIN)/paperworks check sinkhorn-newton-sparse control-variate-sliced-wasserstein --ledger demo/ledger.jsonl
	$(BIN)/paperworks report --ledger demo/ledger.jsonl --out demo/report.html
	@echo "open demo/colour-transfer/picture.png and demo/report.html"

test: $(VENV)/.test  ## the whole suite
	$(BIN)/python -m pytest -n 2

lint: $(VENV)/.lint $(VENV)/.test  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.docs  ## the documentation, into docs/_build/html
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "open docs/_build/html/index.html"

bench: $(VENV)/.peers  ## the races against other libraries, into docs/races.md; FAMILY=transport narrows it
	$(BIN)/python -m benchmarks $(FAMILY)

ledger: $(VENV)/.core  ## measure every claim again into docs/ledger.jsonl, and the tables that come from it
	@rm -f docs/ledger.jsonl
	$(BIN)/paperworks check --all --ledger docs/ledger.jsonl
	$(BIN)/python docs/pages.py

readme: $(VENV)/.core  ## write the README's tables again from the cards and the ledger
	$(BIN)/python docs/pages.py

clean:  ## remove what the other targets made, but not the environment
	rm -rf demo docs/_build docs/papers docs/reference .pytest_cache .mypy_cache .ruff_cache .hypothesis
