#!/bin/bash
# Installs what is missing: Debian packages when run as root, Python tools into a virtual environment.
# Usage: setup.sh VENV [etcd|faults|valgrind]: with the word, also what the etcd adapter is built and tested with, what cuts networks
# and breaks disks, or valgrind.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$1

command -v cargo >/dev/null || { echo "setup: cargo is missing: install the Rust toolchain (1.90 or later)" >&2; exit 1; }

need=()
has_file() { [ -e "$1" ] || need+=("$2"); }
has_command() { command -v "$1" >/dev/null || need+=("$2"); }
has_command g++ g++
has_command cmake cmake
has_command pkg-config pkg-config
has_command redis-cli redis-tools
has_command openssl openssl
has_command column bsdextrautils
has_file /usr/include/rocksdb/db.h librocksdb-dev
if [ "${2:-}" = etcd ]; then
  has_command protoc protobuf-compiler
  has_command etcd etcd-server
fi
if [ "${2:-}" = faults ] && [ "$(id -u)" = 0 ]; then
  has_command ip iproute2
  has_command nft nftables
  has_command strace strace
  has_command mkfs.ext4 e2fsprogs
fi
[ "${2:-}" != valgrind ] || has_command valgrind valgrind
python3 -c 'import venv, ensurepip' 2>/dev/null || need+=(python3-venv)

if [ ${#need[@]} -gt 0 ]; then
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "setup: missing: ${need[*]} (Debian's package names); install them, or run this as root on Debian" >&2
    exit 1
  fi
  echo "setup: installing ${need[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get -qq update >/dev/null
  apt-get -qq -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "${need[@]}" >/dev/null
fi

stamp=$venv/.requirements
if ! cmp -s requirements-dev.txt "$stamp"; then
  echo "setup: Python tools into $(basename "$venv")"
  [ -x "$venv/bin/python" ] || python3 -m venv "$venv"
  "$venv/bin/python" -m pip install -q --disable-pip-version-check -r requirements-dev.txt
  cp requirements-dev.txt "$stamp"
fi
