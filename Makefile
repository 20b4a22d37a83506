# Needs make and Python 3.11 or later with its venv module; everything else goes into .venv.

PYTHON ?= $(shell python3.11 -c 'import ensurepip, venv' 2>/dev/null && echo python3.11 || echo python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: demo test bench clean

demo: $(VENV)/.demo
	$(BIN)/wcodec demo

# Runs ruff and mypy too, in tests/test_guards.py.
test: $(VENV)/.test
	$(BIN)/python -m pytest --numprocesses auto

bench: $(VENV)/.bench
	$(BIN)/python -m bench.coders --update docs/benchmarks.md
	$(BIN)/python -m bench.rans --update docs/benchmarks.md
	$(BIN)/python -m bench.archive --update docs/benchmarks.md
	$(BIN)/python -m bench.infer --update docs/benchmarks.md
	$(BIN)/python -m bench.rate_distortion --update docs/benchmarks.md

# The environment, with the extras of the same name: made anew, or brought up to date, when a requirement changes.
$(VENV)/.bench $(VENV)/.demo $(VENV)/.test: $(VENV)/.%: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --upgrade --constraint constraints.txt setuptools
	$(PIP) install --no-build-isolation --constraint constraints.txt --editable '.[$*]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
