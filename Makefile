# Each target does all set-up it needs: a virtual environment, the tested pins, camkit itself.

# The first that runs; the pins are tested with 3.11.
PYTHON ?= $(shell for each in python3.11 python3.12 python3.13 python3.10 python3; do \
	$$each -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && echo $$each && break; done)
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
DIST := $(VENV)/.camkit-dist
INPUTS := pyproject.toml constraints/tested.txt
INSTALL := $(BIN)/pip install --quiet --constraint constraints/tested.txt --editable
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist worksteal

.PHONY: demo check test coverage lint format pictures docs dist matrix oldest clean
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

# Source distribution and wheel, into dist/.
dist: $(DIST)
	rm -rf dist
	$(BIN)/python -m build --quiet
	$(BIN)/twine check --strict dist/*

# Every set of versions in an environment of its own, and docs/compatibility.md. SETS="oldest fork" runs some of them.
matrix:
	$(PYTHON) -m tests.compatibility $(SETS)

# The quick tests with the lowest versions, where there is a Python 3.10.
oldest:
	$(PYTHON) -m tests.compatibility --tests --if-possible oldest $(if $(ENVIRONMENTS),--environments $(ENVIRONMENTS))

print-%:
	@echo "$($*)"

clean:
	rm -rf $(VENV) $(OUT) build dist *.egg-info .coverage .mypy_cache .pytest_cache .ruff_cache

$(BIN)/pip:
	@test -n "$(PYTHON)" || { echo "camkit needs Python 3.10 or newer: none found; give PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(CHECK): $(INPUTS) | $(BIN)/pip
	@echo "installing into $(VENV): about a minute"
	$(INSTALL) '.[check,opencv]'
	touch $@

$(DEMO): $(INPUTS) | $(BIN)/pip
	@echo "installing into $(VENV): about a minute"
	$(INSTALL) '.[demo]'
	touch $@

# What benchmarks need contains what tests need, and that what the quick tests and the demo need.
$(TEST): $(INPUTS) | $(BIN)/pip
	@echo "installing into $(VENV): about a minute"
	$(INSTALL) '.[bench]'
	touch $(CHECK) $(DEMO) $@

$(DOCS): $(INPUTS) | $(BIN)/pip
	@echo "installing into $(VENV): about a minute"
	$(INSTALL) '.[docs]'
	touch $@

$(DIST): $(INPUTS) | $(BIN)/pip
	$(INSTALL) '.[dist]'
	touch $@
