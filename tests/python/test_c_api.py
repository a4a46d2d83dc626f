"""The C and C++ interfaces, by programs that use them. They are in tests/c and tests/cpp."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from native import CXX_WITHOUT, ROOT, WARNINGS, compile_program, installed, library, run

C = ["-std=c11", "-D_GNU_SOURCE", "-DTENURE_ENABLE_INJECT"]


@pytest.fixture(scope="session")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An installed library that can be made to panic."""
    return installed("inject", tmp_path_factory.mktemp("inject"))


@pytest.fixture
def c_program(prefix: Path, tmp_path: Path):
    def build(name: str, *flags: str) -> Path:
        return compile_program(prefix, [f"tests/c/{name}.c"], tmp_path / name, *C, *flags)

    return build


PROGRAMS = ["layout", "arguments", "verbs", "gates", "panics", "granter", "arguments_granter", "panics_granter", "gate_fallback"]


# I-31, F51.
@pytest.mark.parametrize("name", [*PROGRAMS, "orchestrator", "orchestrator_host", "arguments_orchestrator", "panics_orchestrator"])
def test_program(c_program, name):
    run([c_program(name)])


@pytest.mark.parametrize("name", ["verbs", "gates", "orchestrator"])
def test_program_on_disk(c_program, tmp_path, name):
    run([c_program(name), tmp_path])


@pytest.mark.parametrize("name", ["fence", "arguments_fence", "panics_fence"])
def test_program_with_a_folder(c_program, tmp_path, name):
    run([c_program(name), tmp_path])


# F54.
@pytest.mark.parametrize("mode", ["threads", "fork", "exit"])
def test_process(c_program, mode):
    run([c_program("process"), mode])


def test_descriptors(c_program, tmp_path):
    run([c_program("process"), "fds", tmp_path])


def test_refused_directories(c_program, tmp_path):
    run([c_program("directories"), tmp_path])


# F53.
def test_random_calls_from_many_threads(c_program):
    run([c_program("fuzz")], seconds=300)


def test_sequences_of_calls_that_the_fuzzer_found(c_program):
    inputs = sorted((ROOT / "fuzz/corpus/calls").iterdir())
    assert inputs
    run([c_program("fuzz"), "-", *inputs], seconds=300)


# F56.
def test_load_and_unload(prefix, tmp_path):
    out = tmp_path / "dlopen"
    run(["cc", *C, *WARNINGS, "-I", prefix / "include", ROOT / "tests/c/dlopen.c", "-o", out, "-ldl", "-pthread"])
    run([out, prefix / "lib/libtenure.so"])


@pytest.mark.parametrize("standard", ["c99", "c11", "c17", "c++11", "c++14", "c++17", "c++20"])
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_the_c_headers_compile_clean(prefix, tmp_path, standard, compiler):
    found = shutil.which(compiler) or shutil.which(f"{compiler}-14")
    if found is None:
        pytest.skip(f"no {compiler}")
    language = "c++" if "++" in standard else "c"
    sources = [ROOT / f"tests/c/include_{x}.c" for x in "ab"]
    out = tmp_path / "include"
    # C++ mangles the function that the two units share alike.
    flags = ["-x", language, f"-std={standard}", *WARNINGS, "-I", prefix / "include"]
    run([found, *flags, *sources, "-o", out, "-L", prefix / "lib", f"-Wl,-rpath,{prefix}/lib", "-ltenure"])
    run([out])


@pytest.mark.parametrize("flags", [["-std=c++17"], ["-std=c++20"], ["-std=c++17", *CXX_WITHOUT]], ids=" ".join)
def test_the_wrapper(prefix, tmp_path, flags):
    run([compile_program(prefix, ["tests/cpp/wrapper.cpp"], tmp_path / "wrapper", *flags, compiler="c++"), tmp_path])


def test_the_pluggable_lock(prefix, tmp_path):
    run([compile_program(prefix, ["tests/cpp/lock.cpp"], tmp_path / "lock", "-std=c++17", *CXX_WITHOUT, compiler="c++")])


@pytest.mark.parametrize("flags", [["-std=c++17"], ["-std=c++20"], ["-std=c++17", *CXX_WITHOUT]], ids=" ".join)
@pytest.mark.parametrize("name", ["orchestrator", "maintenance"])
def test_the_orchestrator_in_cpp(prefix, tmp_path, name, flags):
    run([compile_program(prefix, [f"tests/cpp/{name}.cpp"], tmp_path / name, *flags, compiler="c++")])


def test_the_cpp_header_in_two_units(prefix, tmp_path):
    sources = ["tests/cpp/include_a.cpp", "tests/cpp/include_b.cpp"]
    run([compile_program(prefix, sources, tmp_path / "include", "-std=c++17", compiler="c++")])


def exported(so: Path) -> list[str]:
    table = run(["nm", "-D", "--defined-only", so]).stdout
    return sorted(line.split()[-1] for line in table.splitlines())


def test_the_library_exports_what_is_recorded_and_nothing_else():
    recorded = (ROOT / "tests/abi/symbols.txt").read_text().split()
    assert exported(library("capi") / "libtenure.so") == recorded, "a symbol is new (append it, CHANGELOG: ABI) or is gone (a break)"
    assert all(name.startswith("tenure_") for name in recorded)


def test_the_headers_declare_what_is_exported():
    declared = set()
    for header in ("tenure.h", "tenure_gate.h"):
        text = re.sub(r"/\*.*?\*/", "", (ROOT / "include" / header).read_text(), flags=re.DOTALL)
        declared |= set(re.findall(r"^(?!TENURE_GATE_INLINE)(?!#)[\w ]+?[ *](tenure_\w+)\(", text, flags=re.MULTILINE))
    assert declared - {"tenure_test_inject"} == set((ROOT / "tests/abi/symbols.txt").read_text().split())


# I-31.
@pytest.mark.parametrize("program", ["arguments", "panics"])
def test_no_function_is_left_out(program):
    """Every function gets bad arguments, and every function panics once."""
    text = "".join(path.read_text() for path in (ROOT / "tests/c").glob(f"{program}*.c"))
    # The functions behind tenure_gate.h have a guard of their own, and no panic to inject.
    names = (ROOT / "tests/abi/symbols.txt").read_text().replace("tenure_config_new_abi", "tenure_config_new").split()
    if program == "panics":
        names = [n for n in names if not re.match(r"tenure_gate_(\w+_slow|thread_index|reason_name)$", n)]
    assert [n for n in names if not re.search(rf"\b{n}\b", text)] == []


# F53.
def test_sanitizer():
    """The same programs with the address sanitizer in C and C++."""
    run([ROOT / "tests/c/asan.sh", library("inject")], seconds=600)


def test_a_program_needs_no_more_than_the_system_has():
    needed = run(["readelf", "-d", library("capi") / "libtenure.so"]).stdout
    names = set(re.findall(r"NEEDED.*\[(.*)\]", needed))
    assert names <= {"libgcc_s.so.1", "libm.so.6", "libc.so.6", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}
    assert "NODELETE" in needed


def test_a_plain_library_cannot_be_made_to_panic():
    so = library("capi") / "libtenure.so"
    assert subprocess.run(["grep", "-c", "tenure_test_inject", so], capture_output=True, check=False).stdout.strip() == b"0"


def test_the_program_in_the_guide(prefix, tmp_path):
    (program,) = re.findall(r"```c\n(.*?)```", (ROOT / "docs/c-api.md").read_text(), re.DOTALL)
    source = tmp_path / "guide.c"
    source.write_text(program)
    run([compile_program(prefix, [str(source)], tmp_path / "guide", "-std=c99")])
