# Everything a person does with a clone: try it, test it, check it. `make` alone lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2
export PIP_DISABLE_PIP_VERSION_CHECK := 1
INSTALL := $(BIN)/python -m pip install -qq --constraint constraints.txt --editable

.PHONY: help demo test test-fast test-web fuzz docs lint types format clean
help:
	@echo "make demo    track the bundled clip with the bundled model; results in demo/"
	@echo "make test    run the test suite     make test-fast   what is quick, under a minute"
	@echo "make fuzz    give every parser what nobody meant to write, for a minute"
	@echo "make test-web  drive the page of annotate in chromium, which it installs on Debian"
	@echo "make docs    build the site into build/site, strictly"
	@echo "make lint    ruff: rules and format      make format  mend what ruff can mend"
	@echo "make types   pyright on src              make clean   remove what was built"

# An environment whose creation failed half-way has no pip, and is made anew.
$(BIN)/pip:
	@$(PYTHON) -m venv --clear $(VENV) || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && apt-get install -y -qq python3-venv && $(PYTHON) -m venv --clear $(VENV); \
	  else echo "python3 -m venv failed: install your system's python3-venv package" >&2; exit 1; fi; }

$(VENV)/.core: pyproject.toml constraints.txt | $(BIN)/pip
	@echo "installing tempomask into $(VENV), once; a minute, or more where torch is yet to come"
	@$(INSTALL) . && touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(BIN)/pip
	@echo "installing tempomask and what its tests need into $(VENV)"
	@$(INSTALL) '.[test]' && touch $(VENV)/.core $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/pip
	@echo "installing tempomask and the developers' tools into $(VENV)"
	@$(INSTALL) '.[dev]' && touch $(VENV)/.core $(VENV)/.test $@

$(VENV)/.docs: pyproject.toml constraints.txt | $(BIN)/pip
	@echo "installing tempomask and what builds its documentation into $(VENV)"
	@$(INSTALL) '.[docs]' && touch $(VENV)/.core $@

demo: $(VENV)/.core
	@$(BIN)/tempomask demo --out demo

# One thread a worker: two workers with two threads each would fight over two cores.
test: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -q -m "not web"

test-fast: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -q -m "not slow and not web"

# One page at a time: a browser and a server are as much as two cores can do.
test-web: $(VENV)/.test
	@command -v chromium >/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && apt-get install -y -qq chromium; \
	  else echo "the tests of the page need chromium: install your system's package" >&2; exit 1; fi; }
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m web tests/web

# `make fuzz FUZZ_EXAMPLES=5000 FUZZ_REPORT=docs/results/fuzz.json` counts them for docs/limits.md.
FUZZ_EXAMPLES ?= 300
fuzz: $(VENV)/.test
	FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) FUZZ_REPORT=$(FUZZ_REPORT) OMP_NUM_THREADS=1 \
	  $(BIN)/python -X faulthandler -m pytest -q tests/fuzz

docs: $(VENV)/.docs
	$(BIN)/python -m docs.tables --check
	$(BIN)/python -m docs.site

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/pyright src

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf build dist demo .pytest_cache .ruff_cache .hypothesis
	find src tests benchmarks recipes studies docs examples -name __pycache__ -type d -prune -exec rm -rf {} +
