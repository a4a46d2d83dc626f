#!/bin/bash
# The example server's throughput with the gate on and off, one JSON line a figure. Builds all it needs; needs what `make setup` installs.
# Usage: run.sh [rounds]; REQUESTS sets the requests of one run.
set -euo pipefail
cd "$(dirname "$0")"
root=$(cd ../.. && pwd)
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$root/target}
profile=${PROFILE:-release}
flags=()
[ "$profile" = debug ] || flags=(--release)
cargo rustc -q "${flags[@]}" --lib --crate-type cdylib,staticlib --features capi --manifest-path "$root/Cargo.toml"
"$root/scripts/server.sh" "$CARGO_TARGET_DIR" "$profile"
KVGATE=$CARGO_TARGET_DIR/kvgate
[ "$profile" = debug ] || KVGATE=$KVGATE-$profile
KVGATE=$KVGATE/kvgate exec "$root/.venv/bin/python" throughput.py "${1:-${ROUNDS:-21}}"
