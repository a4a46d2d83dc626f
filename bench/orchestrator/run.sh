#!/bin/bash
# The orchestrator's figures, one JSON line each: three members in processes of their own on loopback, every record fsynced; and a year in virtual
# time. Builds the extension it needs beside the one of the tests. Usage: run.sh; SCHEDULES, SECONDS_EACH and DAYS for other sizes.
set -euo pipefail
cd "$(dirname "$0")"
root=$(cd ../.. && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
PYO3_BUILD_EXTENSION_MODULE=1 PYO3_PYTHON=$root/.venv/bin/python cargo build -q --release -p tenure-python --manifest-path "$root/Cargo.toml" --target-dir "$target"
package=$target/bench-orchestrator
mkdir -p "$package/tenure"
cp "$root"/python/tenure/*.py "$package/tenure/"
install -m 755 "$target/release/lib_core.so" "$package/tenure/_core.abi3.so"
PYTHONPATH=$package exec "$root/.venv/bin/python" figures.py
