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
ATTEMPTS = 3
"""Runs until a mistake that only tests without a part in it seemed to find has survived."""


def names() -> list[str]:
    """Every mistake that the source can be asked for."""
    found: list[str] = []
    for path in sorted((ROOT / "src").rglob("*.rs")):
        found += re.findall(r'planted!\("([a-z-]+)"\)', path.read_text()) if path.name != "planted.rs" else []
    return sorted(set(found))


def environment(mutant: str) -> dict[str, str]:
    """The environment of a build or a run."""
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "mutants"
    flags = f"{os.environ.get('RUSTFLAGS', '')} --cfg tenure_mutants".strip()
    return {**os.environ, "RUSTFLAGS": flags, "CARGO_TARGET_DIR": str(target), "TENURE_MUTANT": mutant}


NEXTEST = shutil.which("cargo-nextest") is not None


def command(test: str | None = None) -> list[str]:
    """What runs the tests, or the one of them that `killer` named."""
    if NEXTEST:
        run = ["cargo", "nextest", "run", "--features", "capi", "--profile", "mutants", "--cargo-quiet"]
        binary, _, name = (test or "").partition(" ")
        return [*run, "-E", f"binary_id(={binary}) & test(={name})"] if test else run
    run = ["cargo", "test", "-q", "--features", "capi"]
    return [*run, test, "--", "--exact"] if test else run


def killer(mutant: str, test: str | None = None) -> str | None:
    """The first test that fails with this mistake planted; None when all pass."""
    run = None
    with contextlib.suppress(subprocess.TimeoutExpired):
        run = subprocess.run(
            command(test), cwd=ROOT, env=environment(mutant), capture_output=True, text=True, timeout=LIMIT, check=False
        )
    if run is None:
        return "(a run that does not end)"
    if run.returncode == 0:
        return None
    said = run.stdout + run.stderr
    nextest = r"(?:FAIL|TIMEOUT|SIGABRT|ABORT)\s*\[[^\]]*\]\s*(?:\([^)]*\)\s*)?(.+)"
    failed = re.search(nextest if NEXTEST else r"(?m)^(?:test (\S+) .*FAILED|---- (\S+) stdout ----)", said)
    if failed is None:
        raise SystemExit(f"the tests could not be run:\n{said}")
    return next(filter(None, failed.groups())).strip()


def proven(mutant: str) -> str | None:
    """The test that finds this mistake: it fails with it, again when run alone, and passes without it."""
    for _ in range(ATTEMPTS):
        test = killer(mutant)
        if test is None or test.startswith("("):
            return test
        if killer(mutant, test) is not None and killer("", test) is None:
            return test
        print(f"  {test} failed with {mutant}, but not by it", flush=True)
    return None


def main() -> int:
    """Runs them all."""
    known = names()
    wanted = sys.argv[1:] or known
    for name in set(wanted) - set(known):
        raise SystemExit(f"mutants.py: no mistake is called {name}; there are {', '.join(known)}")
    broken = killer("")
    if broken is not None:
        raise SystemExit(f"the tests fail without a planted mistake: {broken}")
    found = 0
    for name in wanted:
        started = time.monotonic()
        by = proven(name)
        found += by is not None
        print(f"{'killed ' if by else 'SURVIVED'} {name:34} {time.monotonic() - started:6.1f} s  {by or ''}", flush=True)
    print(json.dumps({"planted": len(wanted), "killed": found}))
    return 0 if found == len(wanted) else 1


if __name__ == "__main__":
    sys.exit(main())
