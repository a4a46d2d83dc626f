#!/bin/bash
# Builds the example server as a user of the library would: against an installed copy of it.
# Usage: server.sh CARGO_TARGET_DIR [PROFILE]
set -euo pipefail
cd "$(dirname "$0")/.."
target=$1
profile=${2:-debug}
prefix=$target/prefix/$profile
stamp=$prefix/.installed
# Installing anew touches the headers, and so has everything compiled again.
if [ ! -e "$stamp" ] || [ -n "$(find include bindings/cpp/*.* "$target/$profile/libtenure.so" -newer "$stamp" -print -quit)" ]; then
  bindings/cpp/install.sh "$prefix" "$target/$profile" >/dev/null
  touch "$stamp"
fi
build=$target/kvgate
[ "$profile" = debug ] || build=$target/kvgate-$profile
cmake -S bindings/cpp/examples/kvgate -B "$build" -DCMAKE_PREFIX_PATH="$prefix" -DCMAKE_BUILD_TYPE=RelWithDebInfo -DCMAKE_COMPILE_WARNING_AS_ERROR=ON >"$build.log" 2>&1 ||
  { cat "$build.log" >&2; exit 1; }
cmake --build "$build" -j2 >"$build.log" 2>&1 || { cat "$build.log" >&2; exit 1; }
