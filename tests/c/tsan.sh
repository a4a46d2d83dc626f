#!/bin/bash
# The C tests with the thread sanitizer in them, in the library and in Rust's own: tsan.sh TARGET
#
# TARGET takes the build. The runtime is the one that comes with the compiler; rustup brings the standard library's source, for what is not
# instrumented orders nothing that the sanitizer could see.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
target=${1:?usage: tsan.sh TARGET}
triple=$(rustc -vV | sed -n 's/^host: //p')
runtime=$(ls "$(rustc --print sysroot)/lib/rustlib/$triple/lib/"librustc-*_rt.tsan.a)
rustup -q component add rust-src || { echo "tsan.sh: needs rustup, for the source of the standard library" >&2; exit 1; }
(cd "$root" && RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=thread" CARGO_TARGET_DIR="$target" \
  cargo rustc -q -Zbuild-std --target "$triple" --lib --crate-type staticlib --features inject)
library=$target/$triple/debug/libtenure.a
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

flags="-g -O1 -fsanitize=thread -D_GNU_SOURCE -DTENURE_ENABLE_INJECT -I$root/include"
build() { # NAME SOURCE
  case $2 in *.c) cc -std=c11 $flags -c "$2" -o "$out/$1.o" ;; *) c++ -std=c++17 $flags -c "$2" -o "$out/$1.o" ;; esac
  c++ "$out/$1.o" "$library" -Wl,--whole-archive "$runtime" -Wl,--no-whole-archive -o "$out/$1" -rdynamic -lgcc_s -lutil -lrt -lpthread -lm -ldl -lc
}
run() {
  name=$1
  shift
  TSAN_OPTIONS=halt_on_error=1 "$out/$name" "$@" > "$out/$name.log" 2>&1 || { cat "$out/$name.log"; echo "$name failed" >&2; exit 1; }
  echo "$name: no race"
}

# A build that reports no race where there is one proves nothing.
cat > "$out/race.c" <<'EOF'
#include <pthread.h>
static int shared;
static void *add(void *unused) { return shared++, unused; }
int main(void) {
  pthread_t thread;
  pthread_create(&thread, 0, add, 0);
  shared++;
  return pthread_join(thread, 0);
}
EOF
build race "$out/race.c"
if TSAN_OPTIONS=halt_on_error=1 "$out/race" > "$out/race.log" 2>&1 || ! grep -q "data race" "$out/race.log"; then
  echo "a race that was planted is not found" >&2
  exit 1
fi
for name in verbs gates granter orchestrator orchestrator_host panics panics_orchestrator fuzz; do build $name "$root/tests/c/$name.c"; done
for name in lock maintenance; do build $name "$root/tests/cpp/$name.cpp"; done
for name in verbs gates granter orchestrator orchestrator_host panics panics_orchestrator lock maintenance; do run $name; done
run fuzz 1 300
