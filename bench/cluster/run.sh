#!/bin/bash
# Clusters of three processes on this machine: ours, etcd's and ZooKeeper's in turn. One JSON line a figure; the medians of the rounds.
# Usage: run.sh [cluster|expire|failover|full|idle|switch]; ROUNDS and SECONDS_EACH set their number and length, BENCH_DIR where the data directories go (a disk,
# the same for all; default: under target/). Needs cargo, protoc, etcd, and for its rows Java and ZooKeeper: as root on Debian it
# installs what is missing, elsewhere it says what that is.
set -euo pipefail
cd "$(dirname "$0")"
root=$(cd ../.. && pwd)
target=${CARGO_TARGET_DIR:-$root/target}/bench-cluster
need=()
command -v etcd >/dev/null || need+=(etcd-server)
command -v protoc >/dev/null || need+=(protobuf-compiler)
[ -e /usr/include/google/protobuf/descriptor.proto ] || need+=(libprotobuf-dev)
[ -e /usr/share/java/zookeeper.jar ] || need+=(zookeeper)
command -v java >/dev/null || need+=(default-jre-headless)
if [ ${#need[@]} -gt 0 ]; then
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "bench: missing: ${need[*]} (Debian's package names); install them, or run this as root on Debian" >&2
    exit 1
  fi
  echo "bench: installing ${need[*]}" >&2
  # No service is started: the policy says no for the length of the installation.
  made=
  if [ ! -e /usr/sbin/policy-rc.d ]; then
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
    chmod +x /usr/sbin/policy-rc.d
    made=1
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
  fi
  apt-get -qq update >/dev/null
  DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "${need[@]}" >/dev/null
  if [ -n "$made" ]; then
    rm -f /usr/sbin/policy-rc.d
    trap - EXIT
  fi
fi
cargo build -q --release --manifest-path Cargo.toml --target-dir "$target"
disk=${BENCH_DIR:-$target/disk}
mkdir -p "$disk"
"$target/release/tenure-bench-cluster" "${1:-cluster}" "$disk" "${ROUNDS:-3}" "${SECONDS_EACH:-2}"
