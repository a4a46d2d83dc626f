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
def test_a_snippet_runs(program, text):
    ended = program(text)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize(("language", "compiler", "standard"), [("c", "cc", "-std=c11"), ("cpp", "c++", "-std=c++17")])
def test_the_readme_compiles_and_runs(tmp_path, language, compiler, standard):
    (text,) = re.findall(rf"^```{language}\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    source = tmp_path / f"readme.{language}"
    source.write_text(text)
    prefix = native.installed("capi", tmp_path / "prefix")
    program = native.compile_program(prefix, [str(source)], tmp_path / "readme", standard, compiler=compiler)
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


def test_there_are_snippets():
    assert any(param.id.startswith("README") for param in SNIPPETS)
    assert any(param.id.startswith("python.md") for param in SNIPPETS)


def test_the_package_shows_what_it_does():
    result = doctest.testmod(tenure, raise_on_error=True)
    assert result.attempted >= 2
