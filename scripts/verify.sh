#!/bin/bash
# Read-only checks. Usage: verify.sh VENV
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$1/bin
cargo fmt --all --check
cargo check -q --no-default-features
cargo clippy -q --all-targets --features capi -- -D warnings
"$bin/ruff" check -q python tests/python demo
"$bin/ruff" format -q --check python tests/python demo
"$bin/mypy"
