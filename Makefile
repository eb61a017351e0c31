# make test   create .venv, install everything the tests need, run the whole suite
# make demo   create .venv, train MNM-p in the maze of doors, evaluate it, write runs/demo/
# make test-fast   the tests not marked slow, in less than a minute
# make lint   ruff and mypy

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-fast lint clean

# One install serves every target. EnvPool has no wheel for some machines; everything else works without it.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, found " + sys.version.split()[0]) if sys.version_info < (3, 11) else 0'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[envpool]' \
		|| echo 'EnvPool could not be installed here: MiniGrid runs on the slower sync backend.'
	touch $@

# A worker per core; a file stays with one worker, so that its tests share what they prepare.
PYTEST := $(BIN)/python -m pytest tests -n auto --dist loadfile --no-loadscope-reorder

test: $(STAMP)
	$(PYTEST)

test-fast: $(STAMP)
	$(PYTEST) -m "not slow"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

demo: $(STAMP)
	rm -rf runs/demo
	$(BIN)/python train_rl.py --preset demo --run-dir runs/demo
	$(BIN)/python evaluate.py runs/demo --episodes 100 --json runs/demo/evaluation.json --gif runs/demo/recall.gif

clean:
	rm -rf $(VENV) build dist *.egg-info
