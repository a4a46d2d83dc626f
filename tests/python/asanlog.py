"""What the address sanitizer has written about processes: ``asanlog.py FOLDER MINIMUM`` judges a run of `make test-asan`.

FOLDER has the reports as ``log.PID`` and pytest's ``tests.xml``. What the interpreter itself never frees is not Tenure's: a leak counts
when memory that the extension asked for is reachable no longer.
"""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

EXTENSION = "_core.abi3.so"


def faults(report: str) -> list[str]:
    """What the sanitizer says about a process: each fault, and each leak of the extension's, with its stacks."""
    found = [part for part in re.split(r"^={60,}\n", report, flags=re.MULTILINE) if "ERROR: AddressSanitizer" in part]
    # A forked child leaves what it has inherited, for the threads that it belongs to are not there: the sanitizer misses them, and says so.
    if "was not suspended" not in report:
        found += [leak for leak in re.findall(r"^Direct leak .*\n(?: +#.*\n)+", report, flags=re.MULTILINE) if EXTENSION in leak]
    return found


def main(folder: Path, minimum: int) -> int:
    reports = sorted(folder.glob("log.*"))
    found = [f"{report.name}: {fault}" for report in reports for fault in faults(report.read_text(errors="replace"))]
    print(*found, sep="\n")
    suites = ET.parse(folder / "tests.xml").getroot().iter("testsuite")
    counts = [[int(suite.get(name, 0)) for name in ("tests", "skipped", "failures", "errors")] for suite in suites]
    tests, skipped, *failures = (sum(count) for count in zip(*counts, strict=True))
    ran, failed = tests - skipped, sum(failures)
    print(f"{ran} tests run, {skipped} skipped, {failed} failed; {len(found)} faults in the reports of {len(reports)} processes")
    if ran < minimum:
        print(f"there are to be {minimum} tests at least")
    return int(failed > 0 or bool(found) or ran < minimum)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
