"""Plants each mistake of ``planted!("...")`` in turn and sees whether the tests find it. Usage: mutants.py [NAME ...]

One build serves all of them (``--cfg tenure_mutants``); the environment says which one is on. A test has found a mistake when it
fails with it, once among all and once alone, and passes without it. Each mistake must be found by the tests near it, and besides by
every layer of the tests that says so (``SHARES``), by that layer alone. Prints who found it, one line a mistake and layer, and the
score; the exit status is 1 when one was not found, or when the tests fail without any.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "mutants"
LIMIT = 1800
"""Seconds after which a run of the tests is taken to hang."""
ATTEMPTS = 3
"""Runs until a mistake that only tests without a part in it seemed to find has survived."""


@dataclasses.dataclass(frozen=True)
class Layer:
    """Tests of one kind: a filter of cargo nextest and the profile that they are built in, or the Python suite; and what they are told."""

    tests: str = ""
    told: tuple[tuple[str, str], ...] = ()
    profile: str = "dev"
    python: bool = False


LAYERS = {
    "models": Layer("test(/^(gate::model_test|ffi::hazard|node::queue_model_test)/)"),
    "ledger": Layer("binary(/^ledger_/)"),
    "crash disk": Layer("test(/^(store|engine::durable)/) + binary(durable_crash)"),
    "simulator": Layer("test(=sim::runs::three_members)", (("TENURE_SEEDS", "0..120"),), profile="sim"),
    "members": Layer("test(/^consensus/)"),
    "virtual time": Layer("binary(/^node_/)"),
    "orchestrator under faults": Layer("binary(orchestrator_faults)"),
    "processes": Layer(python=True),
}


def share(names: str) -> dict[str, str]:
    """Mistakes that a layer finds with all its tests."""
    return dict.fromkeys(names.split(), "")


SHARES: dict[str, dict[str, str]] = {
    "models": share("drain-without-barrier finish-ignores-epoch leave-before-verdict old-window-under-new-epoch"),
    "ledger": share(
        "clock-step-uncut grant-to-the-dead hand-over-to-anybody lock-delay-forgotten promotion-too-early release-by-anybody"
        " release-without-token renew-without-token replaced-granter-obeyed retry-applied-again session-expires-early"
        " tokens-forgotten-by-snapshot two-holders wait-without-end"
    ),
    "crash disk": share(
        "acknowledge-before-sync create-on-open damage-taken-for-torn disk-error-survived hand-off-before-sync log-without-checksum"
        " old-copy-accepted state-without-checksum synced-without-mark tokens-forgotten-by-snapshot"
    ),
    "simulator": share(
        "damage-taken-for-torn deadline-from-receipt doubt-forgotten finish-ignores-epoch grant-to-the-dead log-without-checksum"
        " release-forgotten renew-without-token replica-acknowledges-before-sync retry-applied-again run-without-token-check"
        " snapshot-not-stored stale-read tick-from-wall-clock tokens-forgotten-by-snapshot two-holders vote-not-stored"
    ),
    "members": share("replica-acknowledges-before-sync snapshot-not-stored vote-not-stored"),
    "virtual time": share("deadline-from-receipt doubt-forgotten release-forgotten silent-host-renewed slow-clock-ignored suspend-ignored"),
    "orchestrator under faults": share("claim-without-check run-without-token-check tick-from-wall-clock"),
    "processes": {
        "damage-taken-for-torn": "test_cluster_lessons.py",
        "drain-without-waiting": "test_gate.py",
        "epoch-not-stored": "test_durable.py",
        "fork-unnoticed": "test_fence.py",
        "heartbeat-from-receipt": "test_gate.py",
        "promotion-too-early": "test_granter.py",
        "release-without-token": "test_lock.py",
        "replaced-granter-obeyed": "test_granter.py",
        "restored-machine-ignored": "test_gate.py",
        "run-without-token-check": "test_orchestrator_frozen.py",
        "silent-host-renewed": "test_gate.py",
        "stale-read": "test_cluster_lessons.py",
        "superseded-ignored": "test_gate.py",
        "two-holders": "test_lock.py",
    },
}
"""What each layer must find by itself, and in which of its files if it has files."""


def places() -> dict[str, list[str]]:
    """Every mistake that the source can be asked for, and the parts of the library that it stands in."""
    found: dict[str, set[str]] = {}
    for path in sorted((ROOT / "src").rglob("*.rs")):
        if path.name == "planted.rs":
            continue
        for name in re.findall(r'planted!\("([a-z-]+)"\)', path.read_text()):
            found.setdefault(name, set()).update(path.relative_to(ROOT / "src").parts[:-1])
    return {name: sorted(parts) for name, parts in sorted(found.items())}


def environment(mutant: str, layer: Layer | None = None) -> dict[str, str]:
    """The environment of a build or a run."""
    flags = f"{os.environ.get('RUSTFLAGS', '')} --cfg tenure_mutants".strip()
    told = dict(layer.told) if layer else {}
    if layer and layer.python:
        told["PYTHONPATH"] = str(TARGET / "python")
    # A case that a planted mistake has failed must not be kept in the tree: the next run would find the mistake by it.
    told["PROPTEST_DISABLE_FAILURE_PERSISTENCE"] = "1"
    return {**os.environ, "RUSTFLAGS": flags, "CARGO_TARGET_DIR": str(TARGET), "TENURE_MUTANT": mutant, **told}


def near(parts: list[str]) -> str:
    """Picks the tests of these parts of the library: they know most of a mistake in them."""
    binaries = [path.stem for path in sorted((ROOT / "tests").glob("*.rs")) if path.stem.startswith(tuple(parts))]
    return " + ".join([f"test(/^({'|'.join(parts)})/)", *(f"binary(={name})" for name in binaries)])


def killer(mutant: str, which: str, layer: Layer | None = None) -> str | None:
    """The first of these tests that fails with this mistake planted; None when all pass. A Python test is named by its file and name."""
    if layer and layer.python:
        command = [str(VENV / "bin/python"), "-m", "pytest", "-x", "-q", "-n", "2", "--no-header", "-rfE", *which.split()]
        pattern, directory = r"(?m)^(?:FAILED|ERROR) (\S+)", ROOT / "tests/python"
    else:
        built = layer.profile if layer else "dev"
        told = ["--features", "capi", "--cargo-profile", built, "--profile", "mutants", "--cargo-quiet"]
        command = ["cargo", "nextest", "run", *told, "-E", which]
        pattern, directory = r"(?:FAIL|TIMEOUT|SIGABRT|ABORT)\s*\[[^\]]*\]\s*(?:\([^)]*\)\s*)?(.+)", ROOT
    run = None
    with contextlib.suppress(subprocess.TimeoutExpired):
        run = subprocess.run(
            command, cwd=directory, env=environment(mutant, layer), capture_output=True, text=True, timeout=LIMIT, check=False
        )
    if run is None:
        return "(a run that does not end)"
    if run.returncode == 0:
        return None
    said = run.stdout + run.stderr
    failed = re.search(pattern, said)
    if failed is None:
        raise SystemExit(f"the tests could not be run:\n{said}")
    return failed.group(1).strip()


@functools.cache
def passes(test: str, layer: Layer | None) -> bool:
    """Whether this test passes without any mistake."""
    return killer("", test, layer) is None


def proven(mutant: str, which: str, layer: Layer | None = None) -> str | None:
    """Which of these tests finds this mistake: it fails with it, again when run alone, and passes without it."""
    for _ in range(ATTEMPTS):
        test = killer(mutant, which, layer)
        if test is None or test.startswith("("):
            return test
        binary, _, name = test.partition(" ")
        alone = test if layer and layer.python else f"binary_id(={binary}) & test(={name})"
        if killer(mutant, alone, layer) is not None and passes(alone, layer):
            return test
        print(f"  {test} failed with {mutant}, but not by it", flush=True)
    return None


def extension() -> None:
    """Builds the Python extension with the mistakes in it, and a package around it that the tests of processes import."""
    build = ["cargo", "build", "-q", "-p", "tenure-python"]
    told = {"PYO3_BUILD_EXTENSION_MODULE": "1", "PYO3_PYTHON": str(VENV / "bin/python")}
    subprocess.run(build, cwd=ROOT, env={**environment(""), **told}, check=True)
    package = TARGET / "python" / "tenure"
    shutil.copytree(ROOT / "python/tenure", package, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    shutil.copy2(TARGET / "debug/lib_core.so", package / "_core.abi3.so")


def judged(name: str, by: str | None, where: str, started: float) -> bool:
    """Says what became of a mistake in some of the tests."""
    print(f"{'killed ' if by else 'SURVIVED'} {name:34} {where:26} {time.monotonic() - started:6.1f} s  {by or ''}", flush=True)
    return by is not None


def main() -> int:
    """Runs them all."""
    if shutil.which("cargo-nextest") is None:
        raise SystemExit("mutants.py: needs cargo-nextest (cargo install cargo-nextest), which runs each test in a process of its own")
    known = places()
    wanted = sys.argv[1:] or list(known)
    for name in {*wanted, *(name for part in SHARES.values() for name in part)} - known.keys():
        raise SystemExit(f"mutants.py: no mistake is called {name}; there are {', '.join(known)}")
    broken = killer("", "all()")
    if broken is not None:
        raise SystemExit(f"the tests fail without a planted mistake: {broken}")
    found = 0
    for name in wanted:
        started = time.monotonic()
        found += judged(name, proven(name, near(known[name])) or proven(name, "all()"), "all", started)
    layers = {}
    for title, part in SHARES.items():
        layer, picked = LAYERS[title], [name for name in part if name in wanted]
        if layer.python and picked:
            extension()
        killed = 0
        for name in picked:
            started = time.monotonic()
            killed += judged(name, proven(name, layer.tests or part[name], layer), title, started)
        layers[title] = [len(picked), killed]
    print(json.dumps({"planted": len(wanted), "killed": found, "by layer": layers}))
    return 0 if found == len(wanted) and all(planted == killed for planted, killed in layers.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
