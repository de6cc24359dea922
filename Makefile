# Every target does its own set-up in .venv and is quick the second time.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Files of tests side by side, in the order of their names: those that take longest come first. What makes real faults, with
# real deadlines, has the machine to itself.
SIDE_BY_SIDE := -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
ALONE := tests/faults

.PHONY: demo test test-all check bench clean help
.DEFAULT_GOAL := help

help: ## say what there is to make
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

# The stamp of each set-up is the time of the last install; it is renewed when the project file changes.
$(VENV)/.demo: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "setting up $(VENV) …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[all]'
	@touch $@

$(VENV)/.dev: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "setting up $(VENV) for development …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@ $(VENV)/.demo

demo: $(VENV)/.demo ## watch an agent go wrong, be stopped and be undone
	@$(BIN)/rescind demo $(ARGS)

test: $(VENV)/.dev ## run the tests
	@$(BIN)/python -m pytest $(if $(ARGS),$(ARGS),$(SIDE_BY_SIDE) --ignore $(ALONE))
	@$(if $(ARGS),,$(BIN)/python -m pytest $(ALONE))

test-all: $(VENV)/.dev ## run the tests, the slow ones too
	@$(BIN)/python -m pytest -m '' $(if $(ARGS),$(ARGS),$(SIDE_BY_SIDE) --ignore $(ALONE))
	@$(if $(ARGS),,$(BIN)/python -m pytest -m '' $(ALONE))

check: $(VENV)/.dev ## lint, format, types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/pyright
	@$(BIN)/python -m pytest -q tests/test_architecture.py

bench: $(VENV)/.dev ## measure, and print ratios
	@$(BIN)/python -m bench $(ARGS)

clean: ## remove what the other targets made
	rm -rf $(VENV) build dist bench/out .mypy_cache .ruff_cache .pytest_cache .hypothesis
