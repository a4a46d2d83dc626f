#!/bin/bash
# Model checking with loom: every interleaving of small programs over the gate's own code. A build of its own,
# because loom replaces the atomics.
set -euo pipefail
cd "$(dirname "$0")/.."
export RUSTFLAGS="--cfg loom ${RUSTFLAGS:-}"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/loom"
exec cargo test -q --profile loom --test loom "$@"
