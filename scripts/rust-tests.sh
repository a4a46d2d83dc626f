#!/bin/bash
# The core's tests. cargo-nextest where it is installed (a process a test), else cargo test.
set -euo pipefail
cd "$(dirname "$0")/.."
if command -v cargo-nextest >/dev/null; then
  exec cargo nextest run --features capi --status-level slow --final-status-level fail "$@"
fi
exec cargo test -q --features capi "$@"
