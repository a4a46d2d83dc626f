#!/bin/bash
# The figures of the lock in process and of the durable lock, one JSON line each. Builds all it needs; needs cargo and a C++17 compiler.
# Usage: run.sh [rounds] [1k|1m|all]; SHARDS sets the number of parts of our table, BENCH_DIR the directory for the durable lock (it
# must be on a disk).
set -euo pipefail
cd "$(dirname "$0")"
root=$(cd ../.. && pwd)
target=${CARGO_TARGET_DIR:-$root/target}/bench-lock
cargo build -q --release --manifest-path Cargo.toml --target-dir "$target"
"$target/release/tenure-bench-lock" "${1:-${ROUNDS:-301}}" "${2:-all}"
disk=${BENCH_DIR:-$target/disk}
mkdir -p "$disk"
"$target/release/durable" "$disk" "${DURABLE_ROUNDS:-60}"
