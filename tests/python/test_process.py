"""The life of a process: Ctrl-C, exit with work pending, fork, spawn."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading

import pytest

# A shell starts what it runs in the background with SIGINT ignored, and that is inherited.
PREFIX = """
import os, sys, threading, time, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
import tenure
"""


@contextlib.contextmanager
def start(code):
    """Runs a program that is killed should it not end by itself: whoever reads from it is never left waiting."""
    with subprocess.Popen([sys.executable, "-c", PREFIX + code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        watchdog = threading.Timer(40, process.kill)
        watchdog.start()
        try:
            yield process
        finally:
            watchdog.cancel()
            process.kill()


INTERRUPTED = """
node = tenure.Node()
other = node.session("other")
held = other.acquire("k")
gate = node.gate("w"); gate.heartbeat(1, 60, gate.next_nonce()); permit = gate.enter()
def tell():
    while node.holder("k").waiters == 0 and WAITS: time.sleep(0.001)
    print("waiting", flush=True)
try:
    threading.Thread(target=tell).start()
    CALL
except KeyboardInterrupt:
    print("interrupted", flush=True)
while node.holder("k").waiters: time.sleep(0.001)
held.release()
assert node.locks() == []
node.close()
print("done", flush=True)
"""


@pytest.mark.parametrize(
    "call",
    [
        "node.acquire('k')",
        "node.acquire('k', timeout=60)",
        "node.acquire_all(['k', 'l'])",
        "held.lost.wait()",
        "gate.drain(60)",
        "import asyncio, tenure.aio\n    n = tenure.aio.Node(); n._opened = node; asyncio.run(n.acquire('k'))",
    ],
)
def test_ctrl_c_ends_a_wait(call):
    with start(INTERRUPTED.replace("CALL", call).replace("WAITS", str("acquire" in call))) as process:
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGINT)
        answer = process.stdout.readline()
        last = process.stdout.readline()
        _, err = process.communicate()
    assert (answer, last, process.returncode) == ("interrupted\n", "done\n", 0), err


EXITS = {
    "a held lock": "n = tenure.Node(); g = n.acquire('k')",
    "a wait on a daemon thread": """
n = tenure.Node(); g = n.acquire('k')
def wait():
    try: n.acquire('k')
    except tenure.ClosedError: pass
threading.Thread(target=wait, daemon=True).start()
while n.holder('k').waiters == 0: time.sleep(0.001)
""",
    "a wait of asyncio": """
import asyncio, tenure.aio
async def main():
    n = await tenure.aio.Node()
    g = await n.acquire('k')
    t = asyncio.create_task(n.acquire('k'))
    await asyncio.sleep(0.01)
asyncio.run(main())
""",
    "a cycle of everything": """
class A: pass
a = A(); a.n = tenure.Node(); a.g = a.n.acquire('k'); a.me = a
a.g.lost.add_callback(lambda lost: a)
""",
    "sys.exit in a callback": """
n = tenure.Node(); n.on_event(lambda e: sys.exit(9)); g = n.acquire('k'); n.force_release('k')
""",
    "a node that closes itself in a callback": """
n = tenure.Node(); done = threading.Event()
n.on_event(lambda e: (n.close(), done.set())); g = n.acquire('k'); n.force_release('k'); assert done.wait(10)
""",
    "an open gate": """
n = tenure.Node(gate_start_open=True); gate = n.gate('w'); p = gate.enter()
""",
}


@pytest.mark.parametrize("what", EXITS)
def test_exit_with_work_pending_is_clean(program, what):
    ended = program(PREFIX + EXITS[what] + "\nprint('end')")
    assert (ended.returncode, ended.stdout) == (0, "end\n"), ended.stderr
    for word in ("Fatal", "panic", *(["Traceback"] if "sys.exit" not in what else [])):
        assert word not in ended.stderr, ended.stderr


SHUTDOWN = """
n = tenure.Node()
n.on_event(lambda e: time.sleep(0.0005))
def churn(name):
    s = n.session(name)
    while True:
        try:
            g = s.acquire(name)
            g.lost.add_callback(lambda lost: None)
            n.force_release(name)
        except tenure.Error:
            return
for name in 'ab':
    threading.Thread(target=churn, args=(name,), daemon=True).start()
time.sleep(float(sys.argv[1]))
sys.exit(7)
"""


@pytest.mark.parametrize("n", range(20))
def test_exit_while_callbacks_fire(program, n):
    """F55: sys.exit() while events, completions and callbacks are under way."""
    ended = program(PREFIX + SHUTDOWN, str(n * 0.004))
    assert ended.returncode == 7, ended.stderr
    assert "Fatal" not in ended.stderr, ended.stderr


def test_a_forked_child_owns_nothing_and_ends(program):
    code = """
import warnings; warnings.simplefilter('ignore', DeprecationWarning)
import asyncio, gc, tenure.aio
node = tenure.Node(); grant = node.acquire('k'); gate = node.gate('w'); session = node.session('s'); context = node.lock('z')
grant.lost.add_callback(lambda lost: None)
pid = os.fork()
if pid == 0:
    refused = 0
    for call in (lambda: node.try_acquire('x'), lambda: node.acquire('x'), lambda: node.holder('k'), lambda: node.locks(),
                 grant.release, grant.renew, lambda: grant.remaining, context.__enter__, node.status,
                 lambda: session.acquire('x'), gate.drain, lambda: gate.heartbeat(1, 5), lambda: node.session('t')):
        try: call()
        except tenure.ForkedError: refused += 1
    assert refused == 13, refused
    assert grant.lost.is_set() and grant.lost.reason == 'forked'
    try: gate.enter()
    except tenure.ForkedError as e: pass
    else: raise SystemExit(2)
    assert not gate.check()
    node.close()
    del grant, gate, session, context, node, call; gc.collect()
    with tenure.Node() as own, own.lock('k') as g:
        assert g.token == 1
        events = []; own.on_event(events.append); own.force_release('k'); assert g.lost.wait(5)
        g._given_back()
    async def main():
        async with tenure.aio.Node() as n:
            held = await n.acquire('k'); t = asyncio.create_task(n.acquire('k')); await asyncio.sleep(0.01)
            await held.release(); await (await t).release()
    asyncio.run(main())
    sys.exit(5)
_, status = os.waitpid(pid, 0)
assert os.waitstatus_to_exitcode(status) == 5, status
assert node.holder('k').token == grant.token and grant.held
grant.release(); node.close(); print('end')
"""
    ended = program(PREFIX + code)
    assert (ended.returncode, ended.stdout) == (0, "end\n"), ended.stderr


CHILDREN = """
import multiprocessing, warnings
import tenure
node = grant = None

def child(queue):
    try:
        if node is not None:
            node.try_acquire('x')
        with tenure.Node() as own, own.lock('k') as g:
            queue.put(('own', g.token))
    except tenure.ForkedError as e:
        queue.put(('forked', e.code))

if __name__ == '__main__':
    warnings.simplefilter('ignore', DeprecationWarning)
    import sys
    context = multiprocessing.get_context(sys.argv[1])
    node = tenure.Node(); grant = node.acquire('k')
    queue = context.Queue()
    children = [context.Process(target=child, args=(queue,)) for _ in range(4)]
    for c in children: c.start()
    print(sorted(queue.get(timeout=20) for _ in children))
    for c in children: c.join(20)
    assert [c.exitcode for c in children] == [0] * 4, [c.exitcode for c in children]
    assert grant.held
    grant.release(); node.close()
"""


@pytest.mark.parametrize(("method", "answer"), [("fork", "('forked', 103)"), ("spawn", "('own', 1)"), ("forkserver", "('own', 1)")])
def test_multiprocessing(tmp_path, method, answer):
    script = tmp_path / "children.py"
    script.write_text(CHILDREN)
    ended = subprocess.run([sys.executable, script, method], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout) == (0, f"[{', '.join([answer] * 4)}]\n"), ended.stderr


SUBINTERPRETER = """
try: import _interpreters as interpreters
except ImportError: import _xxsubinterpreters as interpreters
other = interpreters.create()
run = getattr(interpreters, 'exec', None) or interpreters.run_string
try: answer = run(other, "try:\\n import tenure\\nexcept ImportError: pass\\nelse: raise SystemError('imported')")
except BaseException as e: answer = e
assert answer is None, answer
with tenure.Node() as n, n.lock('k'): print('end')
"""


def test_a_second_interpreter_is_refused(program):
    ended = program(PREFIX + SUBINTERPRETER)
    assert (ended.returncode, ended.stdout) == (0, "end\n"), ended.stderr


LOGGED = """
import logging
logging.basicConfig(level=sys.argv[1], stream=sys.stdout, format='%(levelname)s %(name)s %(message)s')
with tenure.Node() as n, n.gate('w') as gate:
    gate.heartbeat(1, 5, gate.next_nonce())
    gate.observe(2, 'other')
"""


def test_log_records_reach_logging(program):
    told = program(PREFIX + LOGGED, "INFO")
    assert told.returncode == 0, told.stderr
    lines = told.stdout.splitlines()
    assert any(line.startswith("INFO tenure.") and "open under epoch 1" in line and "w" in line for line in lines), lines
    assert any(line.startswith("WARNING tenure.") and "superseded" in line for line in lines), lines
    quiet = program(PREFIX + LOGGED, "ERROR")
    assert (quiet.returncode, quiet.stdout) == (0, "")
