#!/bin/sh
# The C and C++ tests with the address and undefined-behaviour sanitizers, linked statically: asan.sh ARTIFACTS [instrumented]
#
# ARTIFACTS holds a libtenure.a with the feature `inject`. With a plain one the allocations of the library are watched; with one that
# scripts/asan.sh has built also what the library itself does with memory, and a mistake that only this can find is planted.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
library=${1:?usage: asan.sh ARTIFACTS}/libtenure.a
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

flags="-g -O1 -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -D_GNU_SOURCE -DTENURE_ENABLE_INJECT -I$root/include"
system="-lgcc_s -lutil -lrt -lpthread -lm -ldl -lc"
check() {
  name=$1
  program=$out/$name
  shift
  # A build that silently lost its sanitizer would prove nothing.
  nm "$program" | grep -q __asan_init || { echo "$name: not instrumented" >&2; exit 1; }
  ASAN_OPTIONS=detect_stack_use_after_return=1:strict_string_checks=1 UBSAN_OPTIONS=print_stacktrace=1 "$program" "$@" || { echo "$name failed" >&2; exit 1; }
}
if [ "${2:-}" = instrumented ]; then
  cat > "$out/freed.c" <<'END'
#include "common.h"
int main(void) {
  tenure_error *volatile err = malloc(sizeof *err);
  free(err);
  return tenure_config_set((tenure_config){0}, text("ttl_ms"), text("1"), err) == TENURE_OK;
}
END
  cc -std=c11 $flags -I"$root/tests/c" "$out/freed.c" "$library" -o "$out/freed" $system
  # The first field, stored by Rust; a library that is not instrumented is found out only where it copies the message.
  if "$out/freed" 2> "$out/freed.log" || ! grep -q "^WRITE of size 4 " "$out/freed.log" || ! grep -q "src/ffi/error.rs" "$out/freed.log"; then
    echo "a use after free that was planted is not found in the library" >&2
    exit 1
  fi
fi
with_folder="fence arguments_fence panics_fence"
for name in arguments verbs gates panics granter arguments_granter panics_granter orchestrator orchestrator_host arguments_orchestrator panics_orchestrator process fuzz $with_folder; do
  cc -std=c11 $flags "$root/tests/c/$name.c" "$library" -o "$out/$name" $system
done
for name in wrapper lock maintenance orchestrator; do
  [ $name = orchestrator ] && as=orchestrator_cpp || as=$name
  c++ -std=c++17 $flags "$root/tests/cpp/$name.cpp" "$library" -o "$out/$as" $system
done
for name in arguments verbs gates panics granter arguments_granter panics_granter orchestrator orchestrator_host arguments_orchestrator panics_orchestrator orchestrator_cpp maintenance lock; do check $name; done
for name in $with_folder wrapper; do
  mkdir "$out/$name.d"
  check $name "$out/$name.d"
done
check process threads
check fuzz 1 300
