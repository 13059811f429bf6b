# `make run` and `make test` set everything up by themselves, in .venv, from any python3 of 3.11 or later.
PYTHON ?= python3
RECIPE ?= recipes/pocket.toml
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin

# Installed again whenever what is to be installed changes.
DIGEST := $(shell cat pyproject.toml .ci/install_torch.py | cksum | cut -d' ' -f1)
RUN := $(VENV)/.run-$(DIGEST)
TEST := $(VENV)/.test-$(DIGEST)

DASHBOARD := $(VENV)/.dashboard-$(DIGEST)

.PHONY: run dashboard test lint format install clean

run: $(RUN)
	@$(BIN)/qwenforge run $(RECIPE) $(ARGS)

dashboard: $(DASHBOARD)
	@$(BIN)/qwenforge dashboard $(ARGS)

# A thread a worker: threads of several workers on the same cores wait for one another, ten times as long.
test: $(TEST)
	@OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/pytest -n $(WORKERS) --dist loadfile $(ARGS)

lint: $(TEST)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(TEST)
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

install: $(TEST)

$(RUN):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or later is needed: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 2; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade pip || true
	$(BIN)/python .ci/install_torch.py
	@# torch stays exactly as chosen: no other requirement may replace it by another build
	@$(BIN)/python -c 'from importlib.metadata import version; print("torch==" + version("torch"))' > $(VENV)/torch.txt
	$(BIN)/python -m pip install --quiet --constraint $(VENV)/torch.txt --editable .
	@rm -f $(VENV)/.run-*
	@touch $@

$(DASHBOARD): $(RUN)
	$(BIN)/python -m pip install --quiet --constraint $(VENV)/torch.txt --editable '.[dashboard]'
	@rm -f $(VENV)/.dashboard-*
	@touch $@

$(TEST): $(RUN)
	$(BIN)/python -m pip install --quiet --constraint $(VENV)/torch.txt --editable '.[test]'
	@rm -f $(VENV)/.test-*
	@touch $@

# Results stay: they are in .qwenforge, remove that folder by hand.
clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
