#!/bin/bash
# Builds the library with a known defect at a time and shows that the sweep of faults finds it. Only this crate is built anew.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for mutant in claim_check token_check wall_tick; do
  printf '#!/bin/sh\nexec "$@" --cfg '"'"'tenure_mutant="%s"'"'"'\n' "$mutant" >"$work/$mutant"
  chmod +x "$work/$mutant"
  if RUSTC_WORKSPACE_WRAPPER=$work/$mutant cargo test -q --test orchestrator_faults the_promises_hold >"$work/log" 2>&1; then
    echo "$mutant: NOT found"
    exit 1
  fi
  grep -q 'panicked at' "$work/log" || { cat "$work/log"; exit 1; }
  echo "$mutant: found: $(grep -m1 -A1 'panicked at' "$work/log" | tail -1)"
done
