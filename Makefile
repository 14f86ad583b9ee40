# `make demo` and `make test` each do all set-up: a virtual environment, the tested pins, camkit itself.

PYTHON ?= $(shell command -v python3.11 || echo python3)
VENV ?= .venv
OUT ?= demo

BIN := $(VENV)/bin
# One stamp per extra, so that the second command installs nothing again.
DEMO := $(VENV)/.camkit-demo
TEST := $(VENV)/.camkit-test
INPUTS := pyproject.toml constraints.txt

.PHONY: demo test coverage lint format clean
.NOTPARALLEL:

demo: $(DEMO)
	$(BIN)/camkit demo --out $(OUT)

test: $(TEST)
	$(BIN)/pytest

coverage: $(TEST)
	$(BIN)/pytest --cov

lint: $(TEST)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy camkit benchmarks tests

format: $(TEST)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(OUT) build dist *.egg-info .coverage .mypy_cache .pytest_cache .ruff_cache

$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)

$(DEMO): $(INPUTS) | $(BIN)/pip
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[demo]'
	touch $@

# What the tests need contains what the demo needs.
$(TEST): $(INPUTS) | $(BIN)/pip
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test,bench]'
	touch $(DEMO) $@
