# `make demo` and `make test` each do all set-up: a virtual environment, the tested pins, camkit itself.

PYTHON ?= $(shell command -v python3.11 || echo python3)
VENV ?= .venv
OUT ?= demo

BIN := $(VENV)/bin
# One stamp per extra, so that the second command installs nothing again.
DEMO := $(VENV)/.camkit-demo
TEST := $(VENV)/.camkit-test
INPUTS := pyproject.toml constraints.txt

.PHONY: demo test coverage lint format pictures clean
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
	$(BIN)/mypy camkit benchmarks docs tests

format: $(TEST)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# README.md's picture and tables.
pictures: $(TEST)
	$(BIN)/python -m docs.make

clean:
	rm -rf $(VENV) $(OUT) build dist *.egg-info .coverage .mypy_cache .pytest_cache .ruff_cache

$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)

$(DEMO): $(INPUTS) | $(BIN)/pip
	@echo "installing into $(VENV): about a minute"
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[demo]'
	touch $@

# What benchmarks need contains what tests need, and that what the demo needs.
$(TEST): $(INPUTS) | $(BIN)/pip
	@echo "installing into $(VENV): about a minute"
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[bench]'
	touch $(DEMO) $@
