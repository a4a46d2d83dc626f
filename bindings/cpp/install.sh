#!/bin/sh
# Installs the built library: install.sh PREFIX [ARTIFACTS]
#
# ARTIFACTS is the folder with libtenure.so and libtenure.a, as `cargo rustc --release --lib --crate-type cdylib,staticlib
# --features capi` leaves them; default: target/release. DESTDIR is put before PREFIX when files are written. What is
# installed can be moved as a whole; only tenure.pc has PREFIX in it.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
prefix=${1:?usage: install.sh PREFIX [ARTIFACTS]}
artifacts=${2:-${CARGO_TARGET_DIR:-$root/target}/release}
case $prefix in /*) ;; *) echo "install.sh: PREFIX must be an absolute path: $prefix" >&2; exit 2 ;; esac

version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' "$root/Cargo.toml")
# The library itself says what programs will look for.
soname=$(readelf -d "$artifacts/libtenure.so" | sed -n 's/.*(SONAME).*\[\(.*\)\]/\1/p')
[ -n "$version" ] && [ -n "$soname" ] || { echo "install.sh: no version or no SONAME" >&2; exit 1; }

to=${DESTDIR:-}$prefix
install -d "$to/lib/pkgconfig" "$to/lib/cmake/tenure" "$to/include"
install -m 755 "$artifacts/libtenure.so" "$to/lib/libtenure.so.$version"
install -m 644 "$artifacts/libtenure.a" "$to/lib/libtenure.a"
ln -sf "libtenure.so.$version" "$to/lib/$soname"
ln -sf "$soname" "$to/lib/libtenure.so"
for header in tenure.h tenure_gate.h tenure.hpp tenure_gate.hpp tenure_lock.hpp tenure_node.hpp tenure_fence.hpp tenure_granter.hpp tenure_plug.hpp tenure_orchestrator.hpp tenure_maintenance.hpp; do
  install -m 644 "$root/include/$header" "$to/include/$header"
done
fill() {
  sed -e "s|@PREFIX@|$prefix|g" -e "s|@VERSION@|$version|g" -e "s|@SONAME@|$soname|g" "$root/bindings/cpp/$1" >"$2"
  chmod 644 "$2"
}
fill tenure.pc.in "$to/lib/pkgconfig/tenure.pc"
fill tenureConfig.cmake.in "$to/lib/cmake/tenure/tenureConfig.cmake"
fill tenureConfigVersion.cmake.in "$to/lib/cmake/tenure/tenureConfigVersion.cmake"
