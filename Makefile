# `make run` and `make test` set everything up by themselves, in .venv, from any python3 of 3.11 or later with pip.
PYTHON ?= python3
RECIPE ?= recipes/pocket.toml
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2

# Installed again whenever what is to be installed changes.
STAMP := $(VENV)/.installed-$(shell cksum pyproject.toml .ci/install_torch.py | cksum | cut -d' ' -f1)

.PHONY: run test lint format install clean

run: $(STAMP)
	@$(BIN)/qwenforge run $(RECIPE) $(ARGS)

test: $(STAMP)
	@$(BIN)/pytest -n $(WORKERS) --dist loadfile $(ARGS)

lint: $(STAMP)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(STAMP)
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

install: $(STAMP)

$(STAMP):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or later is needed: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade pip || true
	$(BIN)/python .ci/install_torch.py
	@# torch exactly as chosen: no other requirement may replace it by another build
	@$(BIN)/python -c 'from importlib.metadata import version; print("torch==" + version("torch"))' > $(VENV)/chosen.txt
	$(BIN)/python -m pip install --constraint $(VENV)/chosen.txt --editable '.[test]'
	@rm -f $(VENV)/.installed-*
	@touch $@

# Results stay: they are in .qwenforge, remove that folder by hand.
clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
