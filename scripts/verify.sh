#!/bin/bash
# Read-only checks. Usage: verify.sh VENV
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$1/bin
cargo fmt --all --check
cargo check -q --no-default-features
cargo clippy -q --all-targets --features capi -- -D warnings
PYO3_BUILD_EXTENSION_MODULE=1 PYO3_PYTHON=$bin/python cargo clippy -q -p tenure-python -- -D warnings
"$bin/ruff" check -q python tests/python examples demo bindings/cpp/examples bench
"$bin/ruff" format -q --check python tests/python examples demo bindings/cpp/examples bench
"$bin/mypy"
