"""Plants each mistake of ``planted!("...")`` in turn and sees whether the tests find it. Usage: mutants.py [NAME ...]

One build serves all of them (``--cfg tenure_mutants``); the environment says which one is on. A test has found a mistake when it
fails with it, once among all and once alone, and passes without it. Prints who found it, one line a mistake, and the score; the
exit status is 1 when one was not found, or when the tests fail without any.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
LIMIT = 1800
"""Seconds after which a run of the tests is taken to hang."""
NEXTEST = shutil.which("cargo-nextest") is not None
ATTEMPTS = 3
"""Runs until a mistake that only tests without a part in it seemed to find has survived."""


def places() -> dict[str, list[str]]:
    """Every mistake that the source can be asked for, and the parts of the library that it stands in."""
    found: dict[str, set[str]] = {}
    for path in sorted((ROOT / "src").rglob("*.rs")):
        if path.name == "planted.rs":
            continue
        for name in re.findall(r'planted!\("([a-z-]+)"\)', path.read_text()):
            found.setdefault(name, set()).update(path.relative_to(ROOT / "src").parts[:-1])
    return {name: sorted(parts) for name, parts in sorted(found.items())}


def environment(mutant: str) -> dict[str, str]:
    """The environment of a build or a run."""
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "mutants"
    flags = f"{os.environ.get('RUSTFLAGS', '')} --cfg tenure_mutants".strip()
    return {**os.environ, "RUSTFLAGS": flags, "CARGO_TARGET_DIR": str(target), "TENURE_MUTANT": mutant}


def only(test: str) -> list[str]:
    """Picks the test that `killer` named."""
    binary, _, name = test.partition(" ")
    return ["-E", f"binary_id(={binary}) & test(={name})"] if NEXTEST else [test, "--", "--exact"]


def near(parts: list[str]) -> list[str]:
    """Picks the tests of these parts of the library: they know most of a mistake in them."""
    binaries = [path.stem for path in sorted((ROOT / "tests").glob("*.rs")) if path.stem.startswith(tuple(parts))]
    return ["-E", " + ".join([f"test(/^({'|'.join(parts)})/)", *(f"binary(={name})" for name in binaries)])]


def killer(mutant: str, which: list[str]) -> str | None:
    """The first of these tests that fails with this mistake planted; None when all pass."""
    nextest = ["cargo", "nextest", "run", "--features", "capi", "--profile", "mutants", "--cargo-quiet"]
    command = [*(nextest if NEXTEST else ["cargo", "test", "-q", "--features", "capi"]), *which]
    run = None
    with contextlib.suppress(subprocess.TimeoutExpired):
        run = subprocess.run(command, cwd=ROOT, env=environment(mutant), capture_output=True, text=True, timeout=LIMIT, check=False)
    if run is None:
        return "(a run that does not end)"
    if run.returncode == 0:
        return None
    said = run.stdout + run.stderr
    pattern = r"(?:FAIL|TIMEOUT|SIGABRT|ABORT)\s*\[[^\]]*\]\s*(?:\([^)]*\)\s*)?(.+)" if NEXTEST else r"(?m)^---- (\S+) stdout ----"
    failed = re.search(pattern, said)
    if failed is None:
        raise SystemExit(f"the tests could not be run:\n{said}")
    return failed.group(1).strip()


def proven(mutant: str, which: list[str]) -> str | None:
    """Which of these tests finds this mistake: it fails with it, again when run alone, and passes without it."""
    for _ in range(ATTEMPTS):
        test = killer(mutant, which)
        if test is None or test.startswith("("):
            return test
        if killer(mutant, only(test)) is not None and killer("", only(test)) is None:
            return test
        print(f"  {test} failed with {mutant}, but not by it", flush=True)
    return None


def main() -> int:
    """Runs them all."""
    known = places()
    wanted = sys.argv[1:] or list(known)
    for name in set(wanted) - known.keys():
        raise SystemExit(f"mutants.py: no mistake is called {name}; there are {', '.join(known)}")
    broken = killer("", [])
    if broken is not None:
        raise SystemExit(f"the tests fail without a planted mistake: {broken}")
    found = 0
    for name in wanted:
        started = time.monotonic()
        by = (proven(name, near(known[name])) if NEXTEST else None) or proven(name, [])
        found += by is not None
        print(f"{'killed ' if by else 'SURVIVED'} {name:34} {time.monotonic() - started:6.1f} s  {by or ''}", flush=True)
    print(json.dumps({"planted": len(wanted), "killed": found}))
    return 0 if found == len(wanted) else 1


if __name__ == "__main__":
    sys.exit(main())
