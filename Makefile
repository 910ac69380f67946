# `make demo` and `make test` are all that a newcomer types; `make setup` prepares development.
PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: setup demo test lint clean

setup: .venv/dev

demo: .venv/all
	$(BIN)/python -m pgn_bench.demo -o demo

test: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadfile

lint: .venv/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/mypy

clean:
	rm -rf .venv demo exports

.venv/dev .venv/all: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[$(@F)]"
	@touch $@
