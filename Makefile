# Tenure. The two commands that a newcomer needs are `make demo` and `make test`; both do all their own set-up.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
export CARGO_TARGET_DIR ?= $(CURDIR)/target
export CARGO_TERM_COLOR ?= never
VENV := $(CURDIR)/.venv
PY := $(VENV)/bin/python
PREFIX ?= /usr/local
FIGURES ?= gate,lock

.PHONY: help
help: ## show this list
	@grep -hE '^[a-z][a-z-]*:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1|/' | column -t -s '|'

.PHONY: setup
setup: ## install what is missing: Debian packages (as root), Python tools into .venv
	@scripts/setup.sh $(VENV)

.PHONY: lib
lib: ## build the C library for tests (development profile)
	@cargo rustc -q --lib --crate-type cdylib,staticlib --features capi

.PHONY: python
python: setup ## build the Python extension for tests and put it into .venv
	@scripts/python-dev.sh $(VENV)

.PHONY: server
server: setup lib ## build the Kvrocks-style example server
	@scripts/server.sh $(CARGO_TARGET_DIR)

.PHONY: demo
demo: server ## a real database, gated: the split-brain story with and without the gate (< 2 min once built)
	@$(PY) demo/demo.py

.PHONY: demo-orchestrator
demo-orchestrator: server python ## three nodes with skewed clocks, one compaction schedule: runs a tick, a killed runner (< 2 min once built)
	@$(PY) demo/orchestrator.py

.PHONY: test
test: verify test-rust test-python ## all tests, all set-up included
	@echo "all tests passed"

.PHONY: test-rust
test-rust: ## unit, property, model-checking and crash tests of the core
	@scripts/rust-tests.sh

.PHONY: sim
sim: ## simulate whole clusters under faults: SEEDS (200) stories of three members, as many again of five and with wild clocks
	@TENURE_SEEDS=0..$(or $(SEEDS),200) cargo test -q --profile sim --features capi --lib sim::runs -- --nocapture

.PHONY: test-etcd
test-etcd: ## nodes over a real etcd; installs it and protoc where it can, builds the cargo feature `etcd`
	@scripts/setup.sh $(VENV) etcd
	@cargo test -q --features etcd --test etcd
	@scripts/python-dev.sh $(VENV) --features etcd
	@$(PY) -m pytest -n 2 tests/python/test_conformance.py -k etcd

.PHONY: test-python
test-python: python lib server ## C, C++, Python and server tests, driven by pytest
	@$(PY) -m pytest -n 2 tests/python

.PHONY: test-faults
test-faults: python server ## clusters and servers under faults, cut networks and failing disks too (as root); SEEDS and FAULTS for more
	@scripts/setup.sh $(VENV) faults
	@FAULT_SEEDS=$$(seq -s, $(or $(SEEDS),5)) $(PY) -m pytest -n 2 -s tests/python/test_cluster_faults.py tests/python/test_cluster_network.py \
	  tests/python/test_machine_faults.py
	@$(PY) tests/python/kv/faults.py --seeds $(or $(SEEDS),20) --faults $(or $(FAULTS),10)

.PHONY: test-valgrind
test-valgrind: python ## the C programs under valgrind (installs it, as root)
	@scripts/setup.sh $(VENV) valgrind
	@TENURE_VALGRIND=1 $(PY) -m pytest -n 2 tests/python/test_valgrind.py

.PHONY: test-tsan
test-tsan: setup ## the C and C++ programs under the thread sanitizer (needs rustup; builds the standard library too)
	@tests/c/tsan.sh $(CARGO_TARGET_DIR)/tsan

.PHONY: test-asan
test-asan: setup ## the C, C++ and Python tests under the address sanitizer, with the library instrumented
	@scripts/asan.sh $(CARGO_TARGET_DIR)/asan $(VENV)

.PHONY: soak
soak: python ## MINUTES (10) of load under SESSIONS (10000): memory, files and threads stay flat, no lease is lost
	@$(PY) tests/python/soak.py --minutes $(or $(MINUTES),10) --sessions $(or $(SESSIONS),10000)

.PHONY: mutants
mutants: setup ## plant known mistakes into the core, one after the other; all must be found, some by each layer of the tests (about 40 min)
	@python3 scripts/mutants.py $(MUTANTS)

.PHONY: fuzz
fuzz: ## feed every decoder with made-up bytes, SECONDS=60 each; TARGETS=entry picks
	@scripts/fuzz.sh $(or $(SECONDS),60) $(TARGETS)

.PHONY: test-orchestrator
test-orchestrator: python ## the orchestrator under faults at length: SEEDS (10000) stories, KILLS (50) of runner and leader, three known defects
	@TENURE_SEEDS=$(or $(SEEDS),10000) cargo test -q --test orchestrator_faults
	@TENURE_KILLS=$(or $(KILLS),50) $(PY) -m pytest -q -s tests/python/test_orchestrator_kills.py
	@python3 scripts/mutants.py claim-without-check run-without-token-check tick-from-wall-clock

.PHONY: verify
verify: setup ## read-only checks: format, lints, types, layering
	@scripts/verify.sh $(VENV)

.PHONY: fix
fix: setup ## format and rewrite generated files
	@cargo fmt --all
	@$(VENV)/bin/ruff check -q --fix python tests/python examples demo bindings/cpp/examples bench
	@$(VENV)/bin/ruff format -q python tests/python examples demo bindings/cpp/examples bench
	@UPDATE_GENERATED=1 UPDATE_HEADER=1 cargo test -q --features capi --test header --test errors

.PHONY: bench
bench: setup ## measure; FIGURES=gate,lock,cluster,failover,server,orchestrator picks groups; one JSON line a figure
	@for group in $(subst $(comma), ,$(FIGURES)); do bench/$$group/run.sh; done

.PHONY: release
release: ## build the release artefacts libtenure.so and libtenure.a
	@cargo rustc -q --release --lib --crate-type cdylib,staticlib --features capi

.PHONY: install
install: release ## install the library, headers, CMake package and pkg-config file under PREFIX
	@bindings/cpp/install.sh $(PREFIX) $(CARGO_TARGET_DIR)/release

.PHONY: wheel
wheel: setup ## build the release wheel into dist/
	@$(VENV)/bin/maturin build --release --strip -o dist

comma := ,
