#!/bin/sh
# The C and C++ tests with the address and undefined-behaviour sanitizers, linked statically: asan.sh ARTIFACTS
#
# ARTIFACTS holds a libtenure.a with the feature `inject`. An instrumented one (RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address
# cargo rustc --target ... ) finds more; with a plain one the allocations of the library are still watched.
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
