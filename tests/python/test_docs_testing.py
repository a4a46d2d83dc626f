"""The tables of docs/testing.md: each number is there, each test that they name exists, and names the number itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LATER = {*range(37, 47), 59, 61}
"""Scenarios of parts that come later."""
TEXT = (ROOT / "docs/testing.md").read_text()
ROWS = re.findall(r"^\| ((?:I-|F)\d\d) \| [^|]+ \| ([^|]+) \|$", TEXT, re.MULTILINE)
PEERS = re.findall(r"^\| (P\d\d|DL-\d) \| [^|]+ \| ([^|]+) \|$", TEXT, re.MULTILINE)
"""What other schedulers' users suffered, and ThemisDB's tests of its lock."""
CLAUSES = re.findall(
    r"^\| ([^|]+) \| ([^|]+) \|$", TEXT.partition("## The orchestrator, clause by clause")[2].partition("\n## ")[0], re.MULTILINE
)[1:]
FILES: dict[str, list[Path]] = {}
for folder, kind in (("src", "rs"), ("sim", "rs"), ("tests", "rs"), ("tests/python", "py"), ("tests/cpp", "cpp"), ("tests/c", "c")):
    for path in (ROOT / folder).rglob(f"*.{kind}"):
        FILES.setdefault(path.name, []).append(path)


def test_no_number_is_missing() -> None:
    wanted = [f"I-{n:02}" for n in range(1, 37)] + [f"F{n:02}" for n in range(1, 63) if n not in LATER]
    assert [number for number, _ in ROWS] == wanted


def named(file: str, test: str, number: str) -> bool:
    """Whether a file of this name has the test, and the number."""
    for path in FILES.get(file, []):
        text = path.read_text()
        if re.search(rf"\b(fn|def) {test}\b", text) and re.search(rf"\b{number}(?!\d)", text):
            return True
        if f"def test_{number.lower()}_" in text and test.startswith(f"test_{number.lower()}_"):
            return True
    return False


@pytest.mark.parametrize(("number", "tests"), ROWS, ids=[number for number, _ in ROWS])
def test_what_a_row_names_is_there(number: str, tests: str) -> None:
    found = re.findall(r"`([a-z0-9_]+\.(?:rs|py))::([a-z0-9_]+)`", tests)
    assert found or re.search(r"later|no HTTP", tests), "a row names its tests, or says why it has none"
    assert [f"{file}::{test}" for file, test in found if not named(file, test, number)] == []


def test_no_report_is_missing() -> None:
    assert [number for number, _ in PEERS] == [f"P{n:02}" for n in range(1, 15)] + [f"DL-{n}" for n in range(1, 10)]


@pytest.mark.parametrize(("number", "tests"), PEERS, ids=[number for number, _ in PEERS])
def test_what_plays_a_report_is_there(number: str, tests: str) -> None:
    found = re.findall(r"`([a-z0-9_]+\.(?:rs|py))::([a-z0-9_]+)`", tests)
    programs = re.findall(r"`([a-z_]+\.cpp)`", tests)
    assert found or programs
    texts = {file: [path.read_text() for path in FILES.get(file, [])] for file in [*programs, *(file for file, _ in found)]}
    for file, test in found:
        assert any(re.search(rf"\b(fn|def) {test}\b", text) for text in texts[file]), f"{file} has no {test}"
    for file in programs:
        assert any(re.search(rf"\b{number}\b", text) for text in texts[file]), f"{file} does not name {number}"


def test_the_orchestrators_table_is_there() -> None:
    assert len(CLAUSES) > 40
    assert len({clause for clause, _ in CLAUSES}) == len(CLAUSES)


@pytest.mark.parametrize(("clause", "tests"), CLAUSES, ids=[clause.split(":")[0] for clause, _ in CLAUSES])
def test_what_shows_a_clause_of_the_orchestrator_is_there(clause: str, tests: str) -> None:
    found = re.findall(r"`([a-z0-9_]+\.(?:rs|py))::([a-z0-9_]+)`", tests)
    programs, others = re.findall(r"`([a-z_]+\.(?:cpp|c))`", tests), re.findall(r"\b(P\d\d|DL-\d)\b", tests)
    assert found or programs or others, clause
    for file, test in found:
        assert any(re.search(rf"\b(fn|def) {test}\b", path.read_text()) for path in FILES.get(file, [])), f"{file} has no {test}"
    assert [program for program in programs if program not in FILES] == []
    assert [other for other in others if other not in dict(PEERS)] == []


def test_a_wrong_row_is_noticed() -> None:
    assert not named("test_docs_testing.py", "test_that_is_none", "I-01")
    assert not named("test_docs.py", "test_a_snippet_runs", "I-01")
