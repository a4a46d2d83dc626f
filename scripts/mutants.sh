#!/bin/bash
# Builds the library with a known defect at a time and shows that the sweep of faults finds it. Only this crate is built anew.
set -euo pipefail
cd "$(dirname "$0")/.."
wrapper=$(mktemp)
trap 'rm -f "$wrapper"' EXIT
chmod +x "$wrapper"
for mutant in claim_check token_check wall_tick; do
  printf '#!/bin/sh\nexec "$@" --cfg '"'"'tenure_mutant="%s"'"'"'\n' "$mutant" >"$wrapper"
  export RUSTC_WORKSPACE_WRAPPER=$wrapper
  if CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/mutants/$mutant" cargo test -q --test orchestrator_faults the_promises_hold >"$wrapper.log" 2>&1; then
    echo "$mutant: NOT found"
    exit 1
  fi
  grep -q 'panicked at' "$wrapper.log" || { cat "$wrapper.log"; exit 1; }
  echo "$mutant: found: $(grep -m1 -A1 'panicked at' "$wrapper.log" | tail -1)"
  rm -f "$wrapper.log"
done
