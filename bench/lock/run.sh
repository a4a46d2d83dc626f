#!/bin/bash
# The figures of the in-process lock, one JSON line each. Builds all it needs; needs cargo and a C++17 compiler.
# Usage: run.sh [rounds]; SHARDS sets the number of parts of our table.
set -euo pipefail
cd "$(dirname "$0")"
root=$(cd ../.. && pwd)
target=${CARGO_TARGET_DIR:-$root/target}/bench-lock
cargo build -q --release --manifest-path Cargo.toml --target-dir "$target"
"$target/release/tenure-bench-lock" "${1:-${ROUNDS:-301}}"
