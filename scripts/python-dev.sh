#!/bin/bash
# Builds the extension in the development profile, in the same target directory as everything else, and makes the package
# importable from VENV: its .pth file points at python/. Usage: python-dev.sh VENV [arguments of cargo build]
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$(cd "$1" && pwd)
target=${CARGO_TARGET_DIR:-target}

PYO3_BUILD_EXTENSION_MODULE=1 PYO3_PYTHON=$venv/bin/python cargo build -q -p tenure-python "${@:2}"
site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
echo "$PWD/python" > "$site/tenure-dev.pth"
# Renamed into place: a process that has the old one mapped keeps it.
install -m 755 "$target/debug/lib_core.so" python/tenure/_core.abi3.so.new
mv -f python/tenure/_core.abi3.so.new python/tenure/_core.abi3.so
