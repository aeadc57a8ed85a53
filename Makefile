# make run    start the server on 127.0.0.1:2525; needs Python 3.11 or later and nothing else
# make test   set up .venv and run all tests and checks
# make docs   write the pages that are made from the code
# make compare  play the same dialogues to the mail servers of this machine, and show where they differ
# make bench  print what a message costs, here and with other servers (about eight minutes)

PYTHON ?= python3
BIN = .venv/bin

.PHONY: run test lint types unit docs compare bench clean

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
	$(BIN)/pytest -n 2

docs: .venv/ready
	$(BIN)/python docs/generate.py

# --discreet: that servers differ is everybody's business, and by which octets is their authors' first.
compare: .venv/ready
	$(BIN)/python tests/peers/compare.py --discreet

# What cannot be had of the other servers is left out, and the table says so.
bench: .venv/bench-ready
	@if command -v npm >/dev/null && [ ! -d bench/node_modules ]; then \
		npm install --prefix bench --no-package-lock --no-audit --no-fund --loglevel=error || true; fi
	$(BIN)/python bench/compare.py --goals --json bench/figures.json
	$(BIN)/python bench/core.py --fast --processes 3 --quiet

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

.venv/bench-ready: .venv/ready
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev,bench]'
	touch $@

clean:
	rm -rf bench/load bench/figures.json bench/node_modules
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis dist
