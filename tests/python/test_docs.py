"""What the documentation shows in Python runs."""

from __future__ import annotations

import doctest
import pathlib
import re

import pytest

import native
import tenure

ROOT = pathlib.Path(__file__).parents[2]
SNIPPETS = [
    pytest.param(text, id=f"{path.name}-{n}")
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    for n, text in enumerate(re.findall(r"^```python\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL))
]


@pytest.mark.parametrize("text", SNIPPETS)
def test_a_snippet_runs(program, text, tmp_path):
    ended = program(text, cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize(("language", "compiler", "standard"), [("c", "cc", "-std=c11"), ("cpp", "c++", "-std=c++17")])
def test_the_readme_compiles_and_runs(tmp_path, language, compiler, standard):
    (text,) = re.findall(rf"^```{language}\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    source = tmp_path / f"readme.{language}"
    source.write_text(text)
    prefix = native.installed("capi", tmp_path / "prefix")
    program = native.compile_program(prefix, [str(source)], tmp_path / "readme", standard, compiler=compiler)
    native.run([program])


GUIDED = """
struct Batch {
  uint64_t epoch = 0;
  void stamp(uint64_t e) { epoch = e; }
};
struct Database {
  uint64_t written = 0;
  Server* closing = nullptr;
  void write(const Batch& batch) {
    written = batch.epoch;
    if (closing) (void)closing->gate.observe(batch.epoch + 1, "another");
  }
};
int main(int, char** argv) {
  auto server = Server::start(argv[1], "a");
  if (!server || !server->gate.set_mode("block-write")) return 1;
  Database db;
  if (write(*server, db, Batch{}) != "-MASTERLEASE master lease never_granted" || db.written) return 2;
  auto beat = heartbeat(*server, 7, 60000, server->gate.next_nonce().value());
  if (!beat || !beat->accepted || write(*server, db, Batch{}) != "+OK" || db.written != 7) return 3;
  auto next = heartbeat(*server, 7, 60000, beat->next_nonce);
  if (!next || !next->accepted) return 4;
  db.closing = &*server;
  if (write(*server, db, Batch{}).rfind("-UNCERTAIN", 0) != 0) return 5;
  if (write(*server, db, Batch{}) != "-MASTERLEASE master lease superseded") return 6;
  return 0;
}
"""


def test_the_guides_write_path_compiles_and_refuses(tmp_path):
    """The C++ of the guide is one program: with a database of a few lines it serves, refuses and is uncertain where it says."""
    text = (ROOT / "docs/gate-your-database.md").read_text()
    source = tmp_path / "guide.cpp"
    source.write_text("".join(re.findall(r"^```cpp\n(.*?)^```", text, re.MULTILINE | re.DOTALL)) + GUIDED)
    prefix = native.installed("capi", tmp_path / "prefix")
    program = native.compile_program(prefix, [str(source)], tmp_path / "guide", "-std=c++17", compiler="c++")
    native.run([program, tmp_path])


SCHEDULED = """
#include <thread>
int main() {
  auto node = tenure::Node::open();
  if (!node) return 1;
  auto orch = tenure::Orchestrator::open(*node, {R"({"ramp_up_ms": 0})"});
  if (!orch) return 2;
  auto run = compact_nightly(*orch);
  if (!run) return 3;
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (std::chrono::steady_clock::now() < end) {
    auto told = orch->run(*run);
    if (told && told->find("\\"succeeded\\"") != std::string::npos) return 0;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return 4;
}
"""


def test_the_orchestrators_cpp_compiles_and_runs(tmp_path):
    (text,) = re.findall(r"^```cpp\n(.*?)^```", (ROOT / "docs/orchestrator.md").read_text(), re.MULTILINE | re.DOTALL)
    source = tmp_path / "orchestrator.cpp"
    source.write_text(text + SCHEDULED)
    prefix = native.installed("capi", tmp_path / "prefix")
    program = native.compile_program(prefix, [str(source)], tmp_path / "orchestrator", "-std=c++17", compiler="c++")
    native.run([program])


def test_every_test_that_the_guarantees_name_exists():
    rows = re.findall(r"^\| (\d+) \| .* \| (`.*`) \|$", (ROOT / "docs/guarantees.md").read_text(), re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, 18))
    sources = [
        *(ROOT / "src/gate").rglob("*.rs"),
        *(ROOT / "src/fence").glob("*.rs"),
        *(ROOT / "tests").glob("*.rs"),
        *(ROOT / "tests/python").rglob("*.py"),
    ]
    text = "\n".join(path.read_text() for path in sources)
    names = [name for _, tests in rows for name in re.findall(r"`(\w+)`", tests)]
    assert [name for name in names if not re.search(rf"^ *(?:fn|def) {name}\(", text, re.MULTILINE)] == []


def test_every_lesson_names_tests_that_exist():
    rows = re.findall(r"^\| C(\d+) \| .* \| (`.*`) \|$", (ROOT / "docs/guarantees.md").read_text(), re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, 31))
    files = [path for place in ("src", "sim", "tests") for end in ("rs", "py") for path in (ROOT / place).rglob(f"*.{end}")]
    for place, name in {named for _, tests in rows for named in re.findall(r"`(\w+\.\w+)::(\w+)`", tests)}:
        text = "".join(path.read_text() for path in files if path.name == place)
        assert re.search(rf"^ *(?:async )?(?:fn|def) {name}\(", text, re.MULTILINE), f"{place}::{name}"


def test_there_are_snippets():
    assert any(param.id.startswith("README") for param in SNIPPETS)
    assert any(param.id.startswith("python.md") for param in SNIPPETS)


def test_the_package_shows_what_it_does():
    result = doctest.testmod(tenure, raise_on_error=True)
    assert result.attempted >= 2
