#!/bin/bash
# The figures of the lock in process and of the durable lock, one JSON line each. Builds all it needs; needs cargo and a C++17 compiler.
# Usage: run.sh [rounds] [1k|1m|scale|all]; SHARDS sets the number of parts of our table, BENCH_DIR the directory for the durable lock (it
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
cargo rustc -q --release --lib --crate-type cdylib,staticlib --features capi --manifest-path "$root/Cargo.toml" --target-dir "${CARGO_TARGET_DIR:-$root/target}"
library=${CARGO_TARGET_DIR:-$root/target}/release
# A link by which the program finds the library where it was built.
mkdir -p "$target/lib"
ln -sf "$library/libtenure.so" "$target/lib/$(readelf -d "$library/libtenure.so" | sed -n 's/.*(SONAME).*\[\(.*\)\]/\1/p')"
${CXX:-c++} -std=c++17 -O2 -Wall -Wextra -Werror -pthread -I"$root/include" capi.cpp reference.cpp -o "$target/capi" "$library/libtenure.so" -Wl,-rpath,"$target/lib"
"$target/capi" "${1:-${ROUNDS:-301}}"
