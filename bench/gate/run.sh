#!/bin/bash
# The gate's figures, one JSON line each. Builds all it needs under target/; needs cargo and a C++20 compiler.
# Usage: run.sh [hot|drain|all]; ROUNDS and DRAINS set the number of samples.
set -euo pipefail
cd "$(dirname "$0")"
root=$(cd ../.. && pwd)
what=${1:-all}
target=${CARGO_TARGET_DIR:-$root/target}/bench-gate
mkdir -p "$target"
# The same versions as the library itself.
cp "$root/Cargo.lock" core/Cargo.lock
cargo build -q --release --manifest-path core/Cargo.toml --target-dir "$target"
cxx="${CXX:-g++} -std=c++20 -O2 -Wall -Wextra -pthread -I$root/include"
link="$target/release/libgate_bench.a -lm -ldl -lgcc_s"
for program in hot drain; do
  $cxx $program.cpp -o "$target/$program" $link
done
case $what in hot | all) "$target/hot" "${ROUNDS:-301}" ;; esac
case $what in drain | all) "$target/drain" "${DRAINS:-4000}" ;; esac
