# Everything runs in .venv, which the first target that needs it makes from Python 3.11 or newer: the first of these that
# really runs (a version manager's shim can be there without a Python behind it).
CHECK := import sys; sys.version_info >= (3, 11) and print(sys.executable)
PYTHON ?= $(firstword $(foreach p,python3 python3.13 python3.12 python3.11,$(shell $(p) -c '$(CHECK)' 2>/dev/null)))
BIN := .venv/bin
READY := .venv/.ready
export PYTHONDONTWRITEBYTECODE := 1

.PHONY: demo test lint types contracts tests faults bench

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

# In a store of its own under this folder, never the user's, and with the usual defaults, whatever the user's are.
DEMO := --store .demo/store
demo: export CONCEPTCTL_CONFIG := .demo/config.toml
CONCEPTS := .demo/concepts
LEARN := $(DEMO)
demo: $(READY)
	rm -rf .demo
	$(BIN)/conceptctl bench data $(CONCEPTS) --concepts 2
	$(BIN)/conceptctl init $(DEMO)
	$(BIN)/conceptctl learn $(CONCEPTS)/person-000/train --token alice --class person $(LEARN)
	$(BIN)/conceptctl learn $(CONCEPTS)/waterfall-000/train --token falls --class waterfall $(LEARN)
	$(BIN)/conceptctl fold $(DEMO)
	$(BIN)/conceptctl generate "a photo of a V*alice" -n 9 -o .demo/alice $(DEMO)
	$(BIN)/conceptctl generate "a photo of a V*falls" -n 9 -o .demo/falls $(DEMO)
	$(BIN)/conceptctl generate "a photo of V*alice next to V*falls" -n 9 -o .demo/both $(DEMO)
	$(BIN)/conceptctl eval --images alice=$(CONCEPTS)/person-000/heldout --images falls=$(CONCEPTS)/waterfall-000/heldout \
	    --report .demo/report.html $(DEMO)
	$(BIN)/conceptctl log $(DEMO)
	@echo "look at .demo/report.html and the contact-sheet.png in .demo/alice, .demo/falls and .demo/both"

test: lint types contracts tests

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

contracts: $(READY)
	$(BIN)/lint-imports --cache-dir .venv/.cache/imports

# One worker a core, each on one thread: two threads of one worker mostly wait for each other.
tests: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/pytest -m 'not long' -n auto --dist loadfile

# The long forms of the fault tests: hours on a small machine. T1 to T3 need strace, T4 the right to mount.
faults: $(READY)
	$(BIN)/pytest -m long -s tests/faults

bench: $(READY)
	$(BIN)/python benchmarks/store.py
