# make demo | test | test-native | lint | bench | clean. They create .venv on their own; PYTHON names the interpreter to
# create it with (3.11 to 3.13).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO := runs/demo
TOY := runs/toy
# Tests and benchmarks of one process each use one thread: two pytest workers share two cores.
ONE_THREAD := OMP_NUM_THREADS=1

.PHONY: demo test test-native lint format bench clean help

help:
	@sed -n '1,2s/^# //p' Makefile

$(VENV)/.installed: setup.py pyproject.toml constraints/base.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v[:2] <= (3, 13) else f"handcraft needs Python 3.11 to 3.13, {sys.executable} is {v.major}.{v.minor}: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints/base.txt -e '.[test,bench]'
	@touch $@

$(TOY)/manifest.json: | $(VENV)/.installed
	$(BIN)/handcraft data toy $(TOY)

demo: $(VENV)/.installed $(TOY)/manifest.json
	$(BIN)/handcraft run demo --data $(TOY) --out $(DEMO) --seeds 1

test: $(VENV)/.installed
	$(ONE_THREAD) $(BIN)/python -m pytest -n 2

test-native: $(VENV)/.installed
	HANDCRAFT_SANITIZERS=1 $(ONE_THREAD) $(BIN)/python -m pytest tests/ops/test_sanitizers.py

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed
	$(BIN)/python -m pytest benchmarks/ --benchmark-only --benchmark-json=benchmarks/results/latest.json
	$(BIN)/python benchmarks/report.py benchmarks/results/latest.json

clean:
	rm -rf $(VENV) $(TOY) $(DEMO) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
