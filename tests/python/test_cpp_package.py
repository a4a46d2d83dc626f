"""The package as its users meet it: CMake's find_package and add_subdirectory, and pkg-config."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

from native import ROOT, installed, library, run

VERSION = re.search(r'^version = "(.*)"', (ROOT / "Cargo.toml").read_text(), re.MULTILINE).group(1)
CONSUMER = ROOT / "tests/consumer"


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An installed tree that is not where it was installed to."""
    first = installed("capi", tmp_path_factory.mktemp("first"))
    second = tmp_path_factory.mktemp("second") / "moved"
    shutil.move(first, second)
    return second


def configure_and_build(source: Path, build: Path, *settings: str) -> None:
    run(["cmake", "-S", source, "-B", build, *settings])
    run(["cmake", "--build", build], seconds=600)


def says_its_version(program: Path) -> None:
    assert run([program]).stdout.strip() == VERSION


@pytest.mark.parametrize("static", ["OFF", "ON"])
def test_find_package(moved, tmp_path, static):
    configure_and_build(CONSUMER / "find_package", tmp_path, f"-DCMAKE_PREFIX_PATH={moved}", f"-DTENURE_STATIC={static}")
    for kind in ("shared", "static", "tenure"):
        says_its_version(tmp_path / f"with_{kind}")
        linked = "libtenure.so" in run(["readelf", "-d", tmp_path / f"with_{kind}"]).stdout
        assert linked == (kind == "shared" or (kind == "tenure" and static == "OFF"))


def test_another_series_is_not_found(moved, tmp_path):
    text = (CONSUMER / "find_package/CMakeLists.txt").read_text()
    for wanted in ("0.2", "1.0", "0.0"):
        source = tmp_path / wanted
        source.mkdir()
        (source / "CMakeLists.txt").write_text(text.replace("tenure 0.1", f"tenure {wanted}"))
        with pytest.raises(AssertionError, match="version"):
            run(["cmake", "-S", source, "-B", source / "build", f"-DCMAKE_PREFIX_PATH={moved}"])


def test_add_subdirectory(tmp_path):
    configure_and_build(CONSUMER / "subdirectory", tmp_path, f"-DTENURE_LIBRARY_DIR={library('capi')}")
    for kind in ("shared", "static", "tenure"):
        says_its_version(tmp_path / f"with_{kind}")


@pytest.mark.parametrize("static", [False, True])
def test_pkg_config(tmp_path, static):
    prefix = installed("capi", tmp_path / "prefix")
    environment = os.environ | {"PKG_CONFIG_PATH": str(prefix / "lib/pkgconfig")}
    query = ["pkg-config", "--cflags", "--libs", *(["--static"] if static else []), "tenure"]
    flags = run(query, env=environment).stdout.split()
    assert run(["pkg-config", "--modversion", "tenure"], env=environment).stdout.strip() == VERSION
    if static:
        flags = [str(prefix / "lib/libtenure.a") if f == "-ltenure" else f for f in flags]
    out = tmp_path / "consumer"
    run(["c++", "-std=c++17", CONSUMER / "main.cpp", "-o", out, *flags, f"-Wl,-rpath,{prefix}/lib"])
    says_its_version(out)


def test_what_programs_look_for_is_installed(moved):
    """The trap: a SONAME under which no file was installed."""
    dynamic = run(["readelf", "-d", moved / "lib/libtenure.so"]).stdout
    soname = re.search(r"SONAME.*\[(.*)\]", dynamic).group(1)
    major, minor, _ = VERSION.split(".")
    assert soname == (f"libtenure.so.0.{minor}" if major == "0" else f"libtenure.so.{major}")
    assert (moved / "lib" / soname).resolve() == (moved / "lib" / f"libtenure.so.{VERSION}").resolve()
    assert {p.name for p in (moved / "include").iterdir()} == {p.name for p in (ROOT / "include").iterdir()}


def test_what_a_static_link_needs_is_what_is_written_down():
    """The system libraries of the .a, as the compiler names them, are those of tenure.pc and of the CMake files."""
    print_ = ["cargo", "rustc", "-q", "--lib", "--crate-type", "staticlib", "--features", "capi", "--", "--print", "native-static-libs"]
    said = run(print_, seconds=1200, cwd=ROOT).stderr
    needed = re.search(r"native-static-libs: (.*)", said)
    assert needed is not None, said
    written = re.search(r"Libs.private: (.*)", (ROOT / "bindings/cpp/tenure.pc.in").read_text()).group(1).split()
    assert set(needed.group(1).split()) <= set(written)
    for name in ("CMakeLists.txt", "tenureConfig.cmake.in"):
        listed = re.search(r'INTERFACE_LINK_LIBRARIES "(.*)"', (ROOT / "bindings/cpp" / name).read_text()).group(1)
        assert [f"-l{x}" for x in listed.split(";")] == written
