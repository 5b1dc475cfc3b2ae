# Everything that people and CI run. Needs a C toolchain, Rust (cargo) and Python >= 3.10; the rest is fetched into .venv.

PYTHON ?= python3
VENV ?= .venv
MODEL ?= demo
PYTEST_ARGS ?=
COMPARE_ARGS ?=

BIN := $(VENV)/bin
# PyO3 asks this one how to build: what embeds Python runs the same interpreter and packages.
export PYO3_PYTHON := $(abspath $(BIN))/python
STAMP := $(VENV)/.ostro-installed
TOOLS := $(VENV)/.ostro-tools
RUST_SOURCES := $(shell find rust/kernels rust/python -name '*.rs' -o -name 'Cargo.toml') Cargo.toml $(wildcard Cargo.lock)
# Python sources are used in place: only these make a new build necessary.
BUILD_SOURCES := pyproject.toml $(RUST_SOURCES)

.DEFAULT_GOAL := help
.PHONY: help install demo test test-rust test-rust-door test-python check bench bench-load compare format clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(TOOLS):
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) not found; set PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "error: ostro needs Python 3.10 or newer, and $(PYTHON) is `$(PYTHON) -V`; set PYTHON=..." >&2; exit 1; }
	@command -v cargo >/dev/null || { echo "error: cargo not found; install the Rust toolchain first" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet 'maturin>=1.9,<2'
	@touch $@

$(STAMP): $(TOOLS) $(BUILD_SOURCES)
	VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/maturin develop --release --extras dev
	@touch $@

install: $(STAMP) ## create .venv, build the kernels and install ostro into it

demo: $(STAMP) ## describe a picture, complete a text with the real Gemma 3 270m, show the speed
	$(BIN)/python -m ostro demo

test: test-rust test-rust-door test-python ## all tests

# With the feature the kernels for AMX are tested wherever there is AVX-512.
test-rust: ## tests of the kernels alone
	cargo test --quiet --package ostro-kernels --features amx-model

# The crate itself does little: unoptimised it is compiled in half the time.
test-rust-door: $(STAMP) ## tests of the Rust crate ostro and its examples, on the demo model and the real 270m
	cargo test --quiet --profile dev --package ostro

test-python: $(STAMP) ## tests of the package, on the real 270m among others
	$(BIN)/python -m pytest $(PYTEST_ARGS)

check: $(STAMP) ## format, lints, types, layers, stub of the compiled module
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/stubtest --mypy-config-file pyproject.toml ostro._kernels
	cargo fmt --all --check
	cargo clippy --quiet --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --quiet --no-deps --package ostro

bench: $(STAMP) ## tok/s of MODEL (default: the 270m of the demo)
	$(BIN)/python -m ostro bench $(MODEL)

bench-load: $(STAMP) ## decode speed of the real 270m beside busy processes
	$(BIN)/python benches/under_load.py

compare: $(STAMP) ## speed and memory beside llama.cpp and mistral.rs; COMPARE_ARGS="--help" lists the choices
	$(BIN)/python -m benches.compare $(COMPARE_ARGS)

format: $(STAMP) ## rewrite the sources in the house format
	$(BIN)/ruff check --fix --exit-zero
	$(BIN)/ruff format
	cargo fmt --all

clean: ## remove everything that was built
	rm -rf $(VENV) target dist site .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find python tests -name __pycache__ -type d -prune -exec rm -rf {} +
	find python -name '_kernels*.so' -delete
