#!/bin/bash
# The C, C++ and Python tests with the address sanitizer in them and in the library: asan.sh TARGET VENV
#
# TARGET takes the build; optimised a little, the suite takes a fraction of the time. The standard library stays as it comes: what is generic in
# it is compiled into the crates that use it, and allocations and copies go through the runtime anyway, so that rustup is not needed. The runtime
# is the C compiler's, for one that can be preloaded does not come with Rust's.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${1:?usage: asan.sh TARGET VENV}
venv=$(cd "$2" && pwd)
# Fewer tests than these were not the suite.
minimum=550
triple=$(rustc -vV | sed -n 's/^host: //p')
runtime=$(cc -print-file-name=libasan.so)
[ -e "$runtime" ] || { echo "asan.sh: needs gcc with its libasan, as Debian's g++ brings it" >&2; exit 1; }
site() { "$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }

echo "asan: building"
(
  export CARGO_TARGET_DIR=$target RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=address -Copt-level=1"
  cargo rustc -q --target "$triple" --lib --crate-type staticlib --features inject
  PYO3_BUILD_EXTENSION_MODULE=1 PYO3_PYTHON=$venv/bin/python cargo build -q --target "$triple" -p tenure-python
)
built=$target/$triple/debug

echo "asan: C and C++"
# What they say of panics that were asked for is only of interest when one fails.
RUST_BACKTRACE=0 tests/c/asan.sh "$built" instrumented > "$target/c.log" 2>&1 || { tail -60 "$target/c.log" >&2; exit 1; }

# A Python of its own, with the instrumented extension in the package and the tools of the other one.
rm -rf "$target/python" "$target/venv" "$target/reports"
mkdir -p "$target/python" "$target/reports"
cp -r python/tenure "$target/python/"
install -m 755 "$built/lib_core.so" "$target/python/tenure/_core.abi3.so"
"$venv/bin/python" -m venv --without-pip "$target/venv"
printf '%s\n' "$target/python" "$(site "$venv")" > "$(site "$target/venv")/asan.pth"

# Left out is what is not the extension: other toolchains, documents, real servers, what needs root; and the soak, for freed memory is kept.
without=()
for name in c_api cpp_package docs docs_cluster docs_testing examples types wheel valgrind machine_faults cluster_network soak; do
  [ -e "tests/python/test_$name.py" ] || { echo "asan.sh: there is no test_$name.py" >&2; exit 1; }
  without+=("--ignore=tests/python/test_$name.py")
done
echo "asan: Python"
# Each line of a stack names its module too. A leak ends no process: asanlog.py tells those of the extension from the interpreter's.
format="stack_trace_format='    #%n %p %F %L %M'"
TENURE_ASAN=1 RUST_BACKTRACE=0 PYTHONMALLOC=malloc LSAN_OPTIONS=max_leaks=0 \
  ASAN_OPTIONS="abort_on_error=1:exitcode=0:detect_stack_use_after_return=1:strict_string_checks=1:$format:log_path=$target/reports/log" \
  LD_PRELOAD=$runtime "$target/venv/bin/python" -m pytest -q -n 2 -p no:cacheprovider --junitxml "$target/reports/tests.xml" \
  tests/python --ignore=tests/python/kv "${without[@]}" || [ -e "$target/reports/tests.xml" ]
"$venv/bin/python" tests/python/asanlog.py "$target/reports" $minimum
