#!/bin/bash
# Feeds every decoder, and the C functions, with what libFuzzer thinks up. Usage: fuzz.sh SECONDS [TARGET ...]
# Works on the stable toolchain: the instrumentation is LLVM's own pass. What breaks a target is left in fuzz/corpus/TARGET, where the
# tests find it from then on.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=$1
shift
host=$(rustc -vV | sed -n 's/^host: //p')
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}/fuzz"
export RUSTFLAGS="--cfg tenure_fuzz -Cdebug-assertions -Copt-level=2 -Ccodegen-units=1 -Cpasses=sancov-module \
-Cllvm-args=-sanitizer-coverage-level=3 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
-Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares"
cargo build -q --manifest-path fuzz/Cargo.toml --target "$host"
program=$CARGO_TARGET_DIR/$host/debug/tenure-fuzz
targets=("$@")
if [ ${#targets[@]} = 0 ]; then
  mapfile -t targets < <(sed -n 's/.*Target { name: "\([a-z]*\)".*/\1/p' src/fuzz.rs)
  targets+=(calls)
fi
for target in "${targets[@]}"; do
  work=$CARGO_TARGET_DIR/corpus/$target
  mkdir -p "$work" "fuzz/corpus/$target"
  log=$work.log
  echo "fuzz: $target, $seconds s"
  if ! TENURE_FUZZ_TARGET=$target TENURE_FUZZ_SEEDS=$work "$program" "$work" "fuzz/corpus/$target" -max_total_time="$seconds" -max_len=16384 \
    -rss_limit_mb=1024 -malloc_limit_mb=64 -timeout=10 -print_final_stats=1 -artifact_prefix="fuzz/corpus/$target/" >"$log" 2>&1; then
    grep -A1 "panicked" "$log" || true
    tail -40 "$log"
    exit 1
  fi
  rmdir --ignore-fail-on-non-empty "fuzz/corpus/$target"
  sed -n 's/^stat::number_of_executed_units: *\(.*\)/  \1 executions/p; s/^stat::peak_rss_mb: *\(.*\)/  \1 MB at most/p' "$log"
done
