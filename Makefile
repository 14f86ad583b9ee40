# Each target does all set-up it needs: a virtual environment, the tested pins, camkit itself.

PYTHON ?= $(shell command -v python3.11 || echo python3)
VENV ?= .venv
OUT ?= demo
# How many processes run tests, with one thread each.
WORKERS ?= 2

BIN := $(VENV)/bin
# One stamp per extra, so that the second command installs nothing again.
CHECK := $(VENV)/.camkit-check
DEMO := $(VENV)/.camkit-demo
TEST := $(VENV)/.camkit-test
DOCS := $(VENV)/.camkit-docs
INPUTS := pyproject.toml constraints.txt
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist worksteal

.PHONY: demo check test coverage lint format pictures docs clean
.NOTPARALLEL:

demo: $(DEMO)
	$(BIN)/camkit demo --out $(OUT)

# What needs no framework, no other package of the kind, no GPU and no minutes.
check: $(CHECK)
	$(PYTEST) -m 'not frameworks and not peers and not slow and not cuda'

test: $(TEST)
	$(PYTEST)

coverage: $(TEST)
	$(PYTEST) --cov

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

# The site, into site/; open site/index.html.
docs: $(DOCS)
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) $(OUT) build dist *.egg-info .coverage .mypy_cache .pytest_cache .ruff_cache

$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)

$(CHECK): $(INPUTS) | $(BIN)/pip
	@echo "installing into $(VENV): about a minute"
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[check]'
	touch $@

$(DEMO): $(INPUTS) | $(BIN)/pip
	@echo "installing into $(VENV): about a minute"
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[demo]'
	touch $@

# What benchmarks need contains what tests need, and that what the quick tests and the demo need.
$(TEST): $(INPUTS) | $(BIN)/pip
	@echo "installing into $(VENV): about a minute"
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[bench]'
	touch $(CHECK) $(DEMO) $@

$(DOCS): $(INPUTS) | $(BIN)/pip
	@echo "installing into $(VENV): about a minute"
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $@
