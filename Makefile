# Every target installs what it needs into $(VENV). Python 3.11 or newer is required: make PYTHON=python3.12 test
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
ROUNDS ?= 7
FUZZ_SECONDS ?= 600
FUZZ_DIR ?= /tmp/nilr-fuzz
FUZZ_TARGETS ?= pickle array parquet table manifest pack
# The oldest and the newest Python that runs here; FLOOR_TORCH=2.13.0 spares `make floors` the download of its lowest torch.
runs = $(foreach minor,$(1),$(shell python3.$(minor) -c 'print("python3.$(minor)")' 2>/dev/null))
OLDEST = $(firstword $(call runs,11 12 13) python3)
NEWEST = $(lastword python3 $(call runs,11 12 13 14))
FLOOR_GOAL ?= test
FLOOR_TESTS ?= tests
FLOOR_TORCH ?= $(shell sed -n 's/^ *"torch>=\(.*\)",/\1/p' pyproject.toml)
BIN := $(VENV)/bin
# .ci/run sets other extras, and uv, which is faster
EXTRAS ?= dev
PIP_INSTALL ?= $(BIN)/python -m pip install --quiet
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

INSTALLS = pyproject.toml $(CONSTRAINTS) hatch_build.py $(wildcard nilr/meta/engine/*.[ch])

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow faults loggers fuzz lint check floors newest peers bench bench-packing docs site wheels

help:
	@echo "make demo           install nilr into $(VENV) and run it on generated images"
	@echo "make test           run the tests that take seconds"
	@echo "make test-slow      run the tests that take minutes"
	@echo "make faults         test kills, signals, full disks and concurrent commands; prints counts"
	@echo "make loggers        install TensorBoard, wandb and MLflow (250 MB), and test --log with them"
	@echo "make fuzz           fuzz the file readers, two at a time; FUZZ_SECONDS=$(FUZZ_SECONDS) of CPU time each"
	@echo "make lint           check format, lint and types"
	@echo "make check          make lint and make test (what CI runs)"
	@echo "make floors         make test with the lowest versions that pyproject.toml allows, on $(OLDEST)"
	@echo "make newest         make test with the newest versions, on $(NEWEST)"
	@echo "make peers          download learn2learn, for the tests of models from there"
	@echo "make bench          compare the speed with other libraries; ARGS=--scaling measures the cost by size"
	@echo "make bench-packing  compare prepare-data with decoding alone, on the real Mini-ImageNet; ROUNDS=$(ROUNDS)"
	@echo "make docs           regenerate docs/cli.md, docs/man, docs/schemas, what shells complete, and the tables of the findings"
	@echo "make site           build the documentation as a site, in site/; fails on a broken link"
	@echo "make wheels         build the source distribution and a wheel, in dist/"
	@echo "Variables: PYTHON=$(PYTHON), VENV=$(VENV), OLDEST=$(OLDEST), NEWEST=$(NEWEST), FLOOR_TORCH=$(FLOOR_TORCH)"

demo: $(VENV)/installed
	$(BIN)/nilr demo

test: $(VENV)/installed-dev
	$(PYTEST) -m "not slow" $(TESTS)

test-slow: $(VENV)/installed-dev
	$(PYTEST) -m slow

faults: $(VENV)/installed-dev
	$(PYTEST) tests/faults

loggers: $(VENV)/installed-dev
	$(PIP_INSTALL) -c $(CONSTRAINTS) -e '.[tensorboard,wandb,mlflow]'
	$(PYTEST) tests/test_loggers.py

# Findings and the grown corpus stay in FUZZ_DIR; a second run continues from there.
fuzz: $(VENV)/installed-dev
	$(PIP_INSTALL) -c $(CONSTRAINTS) -e '.[fuzz]'
	for target in $(FUZZ_TARGETS); do mkdir -p $(FUZZ_DIR)/$$target/found $(FUZZ_DIR)/$$target/corpus; done
	printf '%s\n' $(FUZZ_TARGETS) | OMP_NUM_THREADS=1 xargs -P 2 -I{} sh -c '$(BIN)/python -m tests.fuzz.fuzzer {} $(FUZZ_SECONDS) \
		-timeout=5 -rss_limit_mb=2048 -max_len=65536 -print_final_stats=1 \
		-artifact_prefix=$(FUZZ_DIR)/{}/found/ $(FUZZ_DIR)/{}/corpus tests/fuzz/corpus/{} > $(FUZZ_DIR)/{}/log 2>&1; \
		status=$$?; echo "{}: status $$status, log in $(FUZZ_DIR)/{}/log"; exit $$status'

lint: $(VENV)/installed-dev
	$(BIN)/ruff format --check nilr tests docs
	$(BIN)/ruff check nilr tests docs
	$(BIN)/mypy nilr

check: lint test

floors:
	mkdir -p .venv-floors
	sed -nE 's/^ *"([a-z0-9_-]+)>=([0-9.]+).*/\1==\2/p' pyproject.toml | sed 's/^torch==.*/torch==$(FLOOR_TORCH)/' \
		> .venv-floors/lowest.txt
	$(MAKE) $(FLOOR_GOAL) TESTS='$(FLOOR_TESTS)' VENV=.venv-floors PYTHON=$(OLDEST) CONSTRAINTS=.venv-floors/lowest.txt

newest:
	rm -rf .venv-newest
	$(MAKE) test VENV=.venv-newest PYTHON=$(NEWEST) CONSTRAINTS=/dev/null

# learn2learn's own files, for `make bench` and the tests of imported models
peers: $(VENV)/installed
	$(PIP_INSTALL) -c $(CONSTRAINTS) -e '.[peers]'
	$(BIN)/python tests/benchmarks/peers.py --rounds 0

bench: $(VENV)/installed
	$(PIP_INSTALL) -c $(CONSTRAINTS) -e '.[bench]'
	$(BIN)/python tests/benchmarks/peers.py $(ARGS)

bench-packing: $(VENV)/installed
	$(BIN)/python tests/benchmarks/packing.py --rounds $(ROUNDS)

docs: $(VENV)/installed-dev
	$(BIN)/python docs/generate.py
	$(BIN)/python docs/findings_tables.py

# NO_MKDOCS_2_WARNING: Material prints a notice about its successor, which reads the same mkdocs.yml
site: $(VENV)/installed
	$(PIP_INSTALL) -c $(CONSTRAINTS) -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --clean

wheels: $(VENV)/installed
	$(PIP_INSTALL) -c $(CONSTRAINTS) -e '.[release]'
	$(BIN)/python -m build --outdir dist

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("nilr needs Python 3.11 or newer: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(INSTALLS) | $(BIN)/python
	$(PIP_INSTALL) -c $(CONSTRAINTS) -e .
	touch $@

$(VENV)/installed-dev: $(INSTALLS) | $(BIN)/python
	$(PIP_INSTALL) -c $(CONSTRAINTS) -e '.[$(EXTRAS)]'
	touch $@ $(VENV)/installed
