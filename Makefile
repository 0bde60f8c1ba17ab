# make demo | test | lint | docs | bench, and the longer test-interpret, test-aot, test-native, test-scale, test-extract,
# fuzz, soak, stand-in; clean. Each creates .venv (or .venv-extract) on its own; PYTHON names the interpreter for it (3.11 to 3.13).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
EXTRACT_VENV ?= .venv-extract
DEMO := runs/demo
TOY := runs/toy
MUTATIONS ?= 20000
MINUTES ?= 20
KILLS ?= 50
# Tests and benchmarks of one process each use one thread: two pytest workers share two cores.
ONE_THREAD := OMP_NUM_THREADS=1
NATIVE := $(wildcard csrc/cpu/*.cpp csrc/cpu/*.h csrc/selective_scan/*.h)

.PHONY: demo test test-interpret test-aot test-native test-scale extract-env test-extract fuzz soak stand-in lint format docs bench clean help

help:
	@sed -n '1,2s/^# //p' Makefile

$(VENV)/.installed: setup.py pyproject.toml constraints/base.txt $(NATIVE)
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v[:2] <= (3, 13) else f"handcraft needs Python 3.11 to 3.13, {sys.executable} is {v.major}.{v.minor}: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints/base.txt -e '.[test,bench,docs]'
	@touch $@

# What the tests of the GPU kernels need; they run without a GPU.
$(VENV)/.gpu: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints/base.txt -e '.[gpu,cuda]'
	@touch $@

$(TOY)/manifest.json: | $(VENV)/.installed
	$(BIN)/handcraft data toy $(TOY)

demo: $(VENV)/.installed $(TOY)/manifest.json
	$(BIN)/handcraft run demo --data $(TOY) --out $(DEMO) --seeds 1

test: $(VENV)/.gpu
	$(ONE_THREAD) $(BIN)/python -m pytest -n 2

# The Triton kernels in Triton's interpreter, on the CPU.
test-interpret: $(VENV)/.gpu
	TRITON_INTERPRET=1 $(ONE_THREAD) $(BIN)/python -m pytest -n 2 tests/ops -m triton

# Every Triton kernel compiled for three generations of GPUs, and what the assembler says of it. FORMS=all: for every
# shape of AOT_CASES, a quarter of an hour of CPU time, which also writes benchmarks/results/aot.{json,md}.
test-aot: $(VENV)/.gpu
	PYTHONPATH=tests $(ONE_THREAD) $(BIN)/python -m aot.run $(if $(filter all,$(FORMS)),--all)

# Recorded calls of the CPU library again, under AddressSanitizer and UndefinedBehaviorSanitizer.
test-native: $(VENV)/.installed
	HANDCRAFT_SANITIZERS=1 $(ONE_THREAD) $(BIN)/python -m pytest tests/ops/test_sanitizers.py

# Training in several processes by torchrun, and compiled by torch.compile's code generator: ten minutes.
test-scale: $(VENV)/.installed
	HANDCRAFT_SCALE=1 $(ONE_THREAD) $(BIN)/python -m pytest tests/pipeline/test_torchrun.py

# A second environment, for `handcraft extract`: MediaPipe needs an older numpy than the rest.
extract-env: $(EXTRACT_VENV)/.installed
	@echo "$(EXTRACT_VENV)/bin/handcraft extract VIDEOS OUT"

$(EXTRACT_VENV)/.installed: setup.py pyproject.toml constraints/extract.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v[:2] <= (3, 12) else f"MediaPipe 0.10.21 needs Python 3.11 or 3.12, {sys.executable} is {v.major}.{v.minor}: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(EXTRACT_VENV)
	$(EXTRACT_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints/extract.txt -e '.[extract,pose,ray]' pytest
	@touch $@

# The real detector, on the real videos of ../shared/data/videos where they are, and on generated ones.
test-extract: $(EXTRACT_VENV)/.installed
	$(EXTRACT_VENV)/bin/python -m pytest tests/extract

fuzz: $(VENV)/.installed
	PYTHONPATH=tests $(BIN)/python -m fuzz.run --mutations $(MUTATIONS)

# Import, generate and train, killed at random moments: results must not change, memory must not grow. MINUTES=2 KILLS=6
# to try it.
soak: $(VENV)/.installed
	PYTHONPATH=tests $(ONE_THREAD) $(BIN)/python -m soak.run --minutes $(MINUTES) --kills $(KILLS) --out runs/soak

# All stages of the recipe lsfb on data of LSFB's size, with trainings of a few steps.
stand-in: $(VENV)/.installed
	$(BIN)/python benchmarks/stand_in.py

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.installed
	$(BIN)/python -m sphinx -W -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

bench: $(VENV)/.installed
	$(BIN)/python -m pytest benchmarks/ --benchmark-only --benchmark-json=benchmarks/results/latest.json
	$(BIN)/python benchmarks/report.py benchmarks/results/latest.json

clean:
	rm -rf $(VENV) $(EXTRACT_VENV) $(TOY) $(DEMO) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .benchmarks
	rm -rf docs/_build docs/_generated kernels/_cpu*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
