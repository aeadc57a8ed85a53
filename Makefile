# make run    start the server on 127.0.0.1:2525; needs Python 3.11 or later and nothing else
# make test   set up .venv and run all tests and checks
# make docs   write the pages that are made from the code
# make bench  print what a message costs

PYTHON ?= python3
BIN = .venv/bin

.PHONY: run test lint types unit docs bench clean

run:
	@$(PYTHON) -c 'import sys; sys.exit("qpsmtpd needs Python 3.11 or later; try: make run PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	@PYTHONPATH=src $(PYTHON) -m qpsmtpd run

test: lint types unit

lint: .venv/ready
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: .venv/ready
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python

unit: .venv/ready
	$(BIN)/pytest

docs: .venv/ready
	$(BIN)/python docs/generate.py

bench: .venv/ready
	$(BIN)/python bench/core.py

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis dist
