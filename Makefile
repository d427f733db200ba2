# make demo: the main job on built-in data.  make test: all fast tests.  Each sets up .venv first if need be.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-docs test-faults test-cluster lint bench lock install wheel clean

demo: $(STAMP)
	$(BIN)/orchestrator demo

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

# Every command, study and program that the pages print: minutes.
test-docs: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m docs -n 2 --dist load tests/docs

# Kills, starves and cuts off real processes: about an hour.
test-faults: $(STAMP)
	$(BIN)/python -m pytest -m faults tests/faults

# Several hosts on this machine, and Ray's cluster launcher between them: needs root, and
# apt-get install iproute2 openssh-server openssh-client rsync
test-cluster: $(STAMP)
	$(BIN)/python -m pytest -m cluster tests/cluster

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/python tests/benchmarks/run_all.py

install: $(STAMP)

# What is installed is what requirements.lock says, then this project, editable, on top.
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "error: Python 3.11 to 3.13 is needed; give one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "error: on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@echo "installing into $(VENV): a few minutes, 5 GB"
	$(BIN)/python -m pip install -q --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation \
	  --config-settings editable_mode=compat -e .
	@touch $@

# Pins the newest versions that pyproject.toml admits, for Python 3.11 to 3.13.
lock:
	@test -x $(BIN)/uv || { echo "error: run 'make install' first"; exit 1; }
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --extra dev --upgrade --no-emit-index-url \
	  --no-emit-find-links --no-annotate --custom-compile-command "make lock" pyproject.toml -o requirements.lock

wheel: $(STAMP)
	$(BIN)/python -m pip wheel -q --no-deps --no-build-isolation -w dist .

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find orchestrator tasks tests -name __pycache__ -prune -exec rm -rf {} +
