"""Maintenance schedules whose every tick is started once in a whole cluster.

>>> import tenure
>>> with tenure.Simulation(start="2026-01-01T00:00:00+00:00") as sim:
...     orch = sim.orchestrator()
...
...     @orch.task("compaction")
...     def compact(task):
...         print(task.tick.isoformat())
...
...     revision = orch.schedule("nightly", "compaction", cron="0 3 * * *", scope="singleton")
...     sim.run(days=2)
2026-01-01T03:00:00+00:00
2026-01-02T03:00:00+00:00

``docs/orchestrator.md`` says what is promised, and lists the fields of a schedule.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import logging
import threading
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, TypeVar, Union, cast

from tenure import _core
from tenure._inbox import inbox
from tenure._settings import milliseconds
from tenure.errors import InvalidArgumentError
from tenure.plug import Runner

if TYPE_CHECKING:
    from typing_extensions import Self

    from tenure._types import Duration
    from tenure.node import Node
    from tenure.plug import LockService

logger = logging.getLogger("tenure")

TaskHandler = Callable[["Task"], Any]
"""Does a task. It fails by raising; what it returns is of no account. May be a coroutine function."""

RunGate = Callable[[str, str], Union[str, None]]
"""Given the id of a schedule and the target: ``None`` when a run of it may begin on this node now, else why not."""

Topology = Callable[[str], Mapping[str, "list[str]"]]
"""Given the id of a schedule: its shards, each with the names of the nodes that have it."""

Gated = TypeVar("Gated", bound=RunGate)
Handled = TypeVar("Handled", bound=TaskHandler)

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_DAYS = {"sun": 1, "mon": 2, "tue": 4, "wed": 8, "thu": 16, "fri": 32, "sat": 64}
_SECONDS = ("every", "start_deadline", "jitter", "lease", "grace", "max_runtime")


def _moment(ms: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=ms)


def _ms(argument: str, value: datetime | str) -> int:
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if value.tzinfo is None:
        raise InvalidArgumentError(f"{argument}: {value} has no time zone")
    return (value - _EPOCH) // timedelta(milliseconds=1)


class Task:
    """One try of one task, as its handler sees it. Any thread may use it."""

    def __init__(self, core: _core.Task) -> None:
        self._core = core

    @property
    def run(self) -> int:
        """Number of the run."""
        return self._core.run

    @property
    def schedule(self) -> str:
        """Id of the schedule."""
        return self._core.schedule

    @property
    def target(self) -> str:
        """Empty for a singleton, the node's name, or the shard's."""
        return self._core.target

    @property
    def kind(self) -> str:
        """Kind of the task."""
        return self._core.kind

    @property
    def name(self) -> str:
        """Name of the task within its schedule."""
        return self._core.name

    @property
    def tick(self) -> datetime:
        """The nominal instant."""
        return _moment(self._core.tick_ms)

    @property
    def attempt(self) -> int:
        """Number of the attempt, from 1; larger after a loss."""
        return self._core.attempt

    @property
    def try_number(self) -> int:
        """Number of this try within the attempt, from 1."""
        return self._core.try_number

    @property
    def token(self) -> int:
        """Fencing token, larger than that of every former attempt: for the resource that is written to."""
        return self._core.token

    @property
    def idempotency_key(self) -> str:
        """``schedule/target/tick``: the same for all attempts."""
        return self._core.idempotency_key

    @property
    def params(self) -> Any:
        """Parameters: what was given to ``run_now``, else the task's, else the schedule's. ``None`` when there are none."""
        return json.loads(self._core.params) if self._core.params else None

    @property
    def checkpoint(self) -> bytes:
        """What this or a former attempt of this task has saved; empty for nothing."""
        return self._core.checkpoint

    def save_checkpoint(self, data: bytes) -> None:
        """Keeps up to 64 KiB for the next attempt. Raises ``FencedError`` when this attempt is not the present one."""
        self._core.save_checkpoint(data)

    def progress(self, done: float) -> None:
        """Says how far the run is, 0 to 1."""
        self._core.progress(done)

    @property
    def cancelled(self) -> bool:
        """Whether the handler is to stop."""
        return self._core.stop() != ""

    @property
    def stop_reason(self) -> str:
        """Why: ``cancelled``, ``timed_out``, ``window_closed``, ``lost``, ``closing``, ``halted``; empty when it is not to stop."""
        return self._core.stop()

    def wait_cancelled(self, timeout: Duration) -> bool:
        """Waits until the handler is to stop, at most ``timeout``; whether it is."""
        return self._core.wait_stop(timeout)

    @property
    def remaining(self) -> float:
        """Seconds left of the lease, by this node's own clocks."""
        return self._core.remaining

    def check(self) -> None:
        """The attempt's gate: raises ``ExpiredError`` once the lease may be over, or the run is. To be asked before and after a write."""
        self._core.check()

    def pace(self, byte_count: int = 0) -> bool:
        """After a piece of work of so many bytes: rests as the schedule's throttle asks. False when the handler is to stop."""
        return self._core.pace(byte_count)

    def __repr__(self) -> str:
        return f"<tenure.Task {self.kind!r} of {self.idempotency_key!r}, attempt {self.attempt}>"


def _do(handler: TaskHandler, core: _core.Task) -> None:
    """Runs a handler and says how it ended, whatever it does."""
    failure: str | None = None
    try:
        result = handler(Task(core))
        if inspect.iscoroutine(result):
            asyncio.run(result)
    except BaseException as error:
        # Even a sys.exit() in it fails this task only.
        logger.warning("task %s of %s failed", core.kind, core.idempotency_key, exc_info=True)
        failure = f"{type(error).__name__}: {error}"
    core.finish(failure)


def _window(value: Any) -> dict[str, Any]:
    """``("22:00", "04:00")``, ``("22:00", "04:00", ["sat", "sun"])``, or the core's own form."""
    if isinstance(value, Mapping):
        return dict(value)
    start, end, *rest = value

    def minute(text: str) -> int:
        hours, _, minutes = text.partition(":")
        return (int(hours) % 24) * 60 + int(minutes or 0)

    days = sum(_DAYS[day.lower()[:3]] for day in set(rest[0])) if rest else 127
    return {"from_min": minute(start), "to_min": minute(end), "days": days}


def _fields(schedule_id: str, tasks: Any, given: dict[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {"id": schedule_id}
    listed = [tasks] if isinstance(tasks, (str, Mapping)) else list(tasks)
    fields["tasks"] = [{"kind": task} if isinstance(task, str) else dict(task) for task in listed]
    for name, value in given.items():
        if name in _SECONDS:
            fields[f"{name}_ms"] = milliseconds(name, value)
        elif name in ("windows", "blackouts"):
            fields[name] = [_window(window) for window in value]
        elif name == "anchor":
            fields["anchor_ms"] = _ms(name, value)
        elif name == "params" and not isinstance(value, str):
            fields[name] = json.dumps(value)
        else:
            fields[name] = value
    return fields


def _readable(value: Any) -> Any:
    """The core's answer with instants as ``datetime``: ``tick_ms`` becomes ``tick``."""
    if isinstance(value, list):
        return [_readable(item) for item in value]
    if not isinstance(value, dict):
        return value
    found: dict[str, Any] = {}
    for name, item in value.items():
        if name in ("tick_ms", "started_ms", "ended_ms", "created_ms", "updated_ms"):
            found[name.removesuffix("_ms")] = _moment(item) if item else None
        elif name == "watermarks":
            found[name] = {target: _moment(mark) for target, mark in item.items()}
        elif name == "until_ms":
            found["until"] = _moment(item) if item < 1 << 60 else None
        else:
            found[name] = item if name == "definition" else _readable(item)
    return found


class _Host:
    """A function of the host's that the core asks. Each call has a thread of its own: the inbox's must not wait."""

    def __init__(self, call: Callable[[_core.Question], None], name: str) -> None:
        self._call = call
        self._name = name

    def ask(self, question: _core.Question) -> None:
        threading.Thread(target=self._call, args=(question,), name=self._name, daemon=True).start()


def _ask_gate(gate: RunGate, question: _core.Question) -> None:
    try:
        said = gate(question.schedule, question.target)
        if said is not None and not isinstance(said, str):
            raise TypeError(f"a gate says None or why not, and this one said {said!r}")
    except BaseException as error:
        # Whatever happened to it: closed.
        logger.warning("a gate of %s failed", question.schedule, exc_info=True)
        said = f"{type(error).__name__}: {error}"
    question.gate(said)


def _ask_topology(topology: Topology, question: _core.Question) -> None:
    try:
        said = [(str(shard), [nodes] if isinstance(nodes, str) else list(nodes)) for shard, nodes in topology(question.schedule).items()]
        question.shards(said)
    except BaseException as error:
        logger.warning("the topology of %s failed", question.schedule, exc_info=True)
        question.failed(f"{type(error).__name__}: {error}")


class Orchestrator:
    """The orchestrator of a node: ``node.orchestrator()``. Any thread may use it. A context manager that closes."""

    def __init__(self, core: _core.Orchestrator, sim: _core.Simulation | None = None) -> None:
        self._core = core
        self._sim = sim
        self._handlers: dict[str, TaskHandler] = {}
        self._gates: list[_Host] = []
        self._topology: _Host | None = None
        self._runner: Runner | None = None

    def task(self, kind: str) -> Callable[[Handled], Handled]:
        """Makes a function the handler of a kind of task: ``@orch.task("compaction")``.

        It is called with a :class:`Task`, on a thread of its own; a coroutine function is run there in an event loop of its own.
        A task fails when it raises.
        """

        def register(handler: Handled) -> Handled:
            self._handlers[kind] = handler
            if self._sim is None:
                self._core.register(kind)
            else:
                self._sim.handle(kind)
            return handler

        return register

    def add_gate(self, gate: Gated) -> Gated:
        """Adds a gate, also as a decorator: ``gate(schedule_id, target)`` is asked before each attempt that begins on this node.

        It returns ``None`` when the run may begin, else why not; then the run is put off and asked about again 5 s later, with that as
        its ``reason`` in ``run()`` and ``runs()``. One that raises, or takes longer than 5 s, has said no. Called on a thread of its own.
        """
        host = _Host(functools.partial(_ask_gate, gate), "tenure-gate")
        self._core.add_gate(inbox().house(host))
        self._gates.append(host)
        return gate

    def set_topology(self, topology: Topology | None) -> None:
        """Says which shards there are, for schedules of scope ``each_shard``.

        ``topology(schedule_id)`` returns ``{"shard": ["node", ...]}``: the nodes that have it. It is asked before each tick, on the node
        that gives out work: every node needs it that may come to do so. When it raises, or takes longer than 5 s, the shards are taken
        to be what they were, and ``status()["shards"]`` and ``health()`` say so; before its first answer there are none. Called on a
        thread of its own.
        """
        host = None if topology is None else _Host(functools.partial(_ask_topology, topology), "tenure-shards")
        self._core.set_topology(None if host is None else inbox().house(host))
        self._topology = host

    def schedule(self, schedule_id: str, tasks: Any, *, expected: int | None = None, **fields: Any) -> int:
        """Writes a schedule; returns its revision.

        ``tasks``: a kind, or a list of kinds and of dicts as ``{"kind": "b", "after": [{"task": "a"}]}``. ``fields``: those of
        ``docs/orchestrator.md``; ``scope`` has to be given. Durations are given without ``_ms``: ``every``, ``lease``, ``grace``,
        ``jitter``, ``max_runtime``, ``start_deadline``. A window is ``("22:00", "04:00")`` or ``("22:00", "04:00", ["sat"])``.
        ``expected``: the revision that it replaces, 0 when there must be none.

        Raises ``InvalidArgumentError`` naming the field; ``FencedError`` when ``expected`` is not the present revision.
        """
        return self._core.put(json.dumps(_fields(schedule_id, tasks, fields)), expected)

    def put_themis(self, entry: Mapping[str, Any], expected: int | None = None) -> int:
        """Writes a schedule given in ThemisDB's JSON form, with its field names and rules; returns its revision."""
        return self._core.put_themis(json.dumps(dict(entry)), expected)

    def get_themis(self, schedule_id: str) -> dict[str, Any]:
        """A schedule in ThemisDB's JSON form."""
        found: dict[str, Any] = json.loads(self._core.get_themis(schedule_id))
        return found

    def patch_themis(self, schedule_id: str, **fields: Any) -> int:
        """Changes some fields of a schedule, in ThemisDB's names; returns its revision."""
        return self._core.patch_themis(schedule_id, json.dumps(fields))

    def get(self, schedule_id: str) -> dict[str, Any] | None:
        """A schedule with its definition, revision, watermarks, runs; ``None`` when there is none."""
        found: dict[str, Any] | None = _readable(json.loads(self._core.ask("schedule", schedule_id, 0)))
        return found

    def schedules(self, after: str = "", limit: int = 1000) -> list[dict[str, Any]]:
        """Schedules by id, those after ``after``, at most ``limit``."""
        found: list[dict[str, Any]] = _readable(json.loads(self._core.ask("schedules", after, limit)))
        return found

    def remove(self, schedule_id: str, expected: int | None = None) -> None:
        """Removes a schedule with its history; its runs are cancelled."""
        self._core.remove(schedule_id, expected)

    def enable(self, schedule_id: str, enabled: bool = True) -> None:
        """Switches a schedule on, or off with ``enabled=False``."""
        self._core.enable(schedule_id, enabled)

    def disable(self, schedule_id: str) -> None:
        """Switches a schedule off."""
        self._core.enable(schedule_id, False)

    def run_now(
        self,
        schedule_id: str,
        *,
        key: str = "",
        target: str = "",
        force: bool = False,
        tick: datetime | None = None,
        params: Any = None,
    ) -> int:
        """Asks for a run, from any node; returns its number. With one ``key`` it is one run, however often it is asked for.
        ``force``: windows are of no account (blackouts, pauses, overlap, budgets and locks are).
        """
        text = params if params is None or isinstance(params, str) else json.dumps(params)
        return self._core.run_now(schedule_id, target, key, force, None if tick is None else _ms("tick", tick), text)

    def backfill(self, schedule_id: str, start: datetime, end: datetime, target: str = "") -> list[int]:
        """Asks for a run of each tick from ``start`` to ``end``, both included; returns their numbers."""
        return self._core.backfill(schedule_id, target, _ms("start", start), _ms("end", end))

    def cancel(self, run: int, reason: str = "") -> None:
        """Asks a run to stop, from any node."""
        self._core.cancel(run, reason)

    def pause(self, schedule_id: str | None = None, note: str = "", until: datetime | None = None) -> None:
        """Starts nothing more of a schedule, or of all, until an instant. Runs go on."""
        self._core.pause(schedule_id, note, None if until is None else _ms("until", until))

    def unpause(self, schedule_id: str | None = None) -> None:
        """Ends a pause; what was missed is treated by the schedule's misfire policy."""
        self._core.unpause(schedule_id)

    def set_distributed_lock(self, lock: LockService | Node | None) -> None:
        """Sets the lock that is taken round each run on this node: a :class:`tenure.LockService`, a node's own locks, or none.

        A run that does not get it is skipped, and its history names the peer. Ticks are claimed as ever, but for an orchestrator that was
        made with ``lock_only``.
        """
        runner, self._runner = self._runner, None
        node = getattr(lock, "_open", None)
        if lock is None or isinstance(node, _core.Node):
            self._core.set_lock(None, node)
        else:
            self._runner = Runner(cast("LockService", lock))
            self._core.set_lock(self._runner.plug, None)
        if runner is not None:
            runner.close()

    def history(self, schedule_id: str, limit: int = 100) -> list[dict[str, Any]] | None:
        """The latest lines of a schedule's history, oldest first; ``None`` when there is no such schedule."""
        found: list[dict[str, Any]] | None = _readable(json.loads(self._core.ask("history", schedule_id, limit)))
        return found

    def run(self, run: int) -> dict[str, Any] | None:
        """A run, also one that has ended as long as a history remembers it."""
        found: dict[str, Any] | None = _readable(json.loads(self._core.ask("run", "", run)))
        return found

    def runs(self, limit: int = 1000) -> list[dict[str, Any]]:
        """Runs that have not ended."""
        found: list[dict[str, Any]] = _readable(json.loads(self._core.ask("runs", "", limit)))
        return found

    def next_fires(self, schedule_id: str, count: int = 10, after: datetime | None = None) -> list[datetime]:
        """The next ticks of a schedule."""
        return [_moment(ms) for ms in self._core.next_fires(schedule_id, None if after is None else _ms("after", after), count)]

    def set_budget(self, name: str, limit: int) -> None:
        """Sets how much there is of a cluster-wide semaphore; 0 removes it."""
        self._core.set_budget(name, limit)

    def health(self) -> dict[str, Any]:
        """Whether maintenance is done: ``status`` is ``healthy``, ``degraded`` or ``unhealthy``, ``reasons`` say why."""
        found: dict[str, Any] = json.loads(self._core.ask("health", "", 0))
        return found

    def themis_job(self, run: int) -> dict[str, Any] | None:
        """A run in the words in which ThemisDB tells of a job; ``None`` when there is none."""
        found: dict[str, Any] | None = json.loads(self._core.ask("themis_job", "", run))
        return found

    def status(self) -> dict[str, Any]:
        """What it says of itself and of all: workers, budgets, counts, start lags, who gives out work."""
        found: dict[str, Any] = json.loads(self._core.status())
        return found

    @property
    def handlers(self) -> list[str]:
        """Kinds of tasks that it has handlers for."""
        return sorted(self._handlers)

    @property
    def journal(self) -> str:
        """A digest of everything that was started and that has ended, in order."""
        return self._core.journal()

    def close(self, timeout: Duration = 5.0) -> None:
        """Takes no more work and tells its handlers to stop; raises ``LockTimeout`` when some did not within ``timeout``."""
        self._core.close(timeout)
        if self._runner is not None:
            self._runner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _deliver(self, core: _core.Task) -> None:
        handler = self._handlers.get(core.kind)
        if handler is None:
            core.finish(f"no handler for {core.kind}")
            return
        threading.Thread(target=_do, args=(handler, core), name=f"tenure-{core.kind}"[:15], daemon=True).start()


class Simulation:
    """A node with its orchestrator in virtual time: time passes only in ``run()``, and the same seed gives the same story.

    Handlers run on the calling thread, one after the other, and take no time but what they wait (``wait_cancelled``) or rest (``pace``).
    """

    def __init__(self, start: datetime | str, seed: int = 0) -> None:
        self._core = _core.Simulation(_ms("start", start), seed)
        self._orchestrator = Orchestrator(self._core.orchestrator(), self._core)

    def orchestrator(self) -> Orchestrator:
        """Its orchestrator."""
        return self._orchestrator

    @property
    def now(self) -> datetime:
        """The present."""
        return _moment(self._core.now_ms)

    def run(self, until: datetime | None = None, **duration: float) -> None:
        """Lets time pass until an instant, or for a duration in the words of ``timedelta``: ``sim.run(days=365)``."""
        end = self._core.now_ms + timedelta(**duration) // timedelta(milliseconds=1) if until is None else _ms("until", until)
        handlers = self._orchestrator._handlers
        while (task := self._core.next_task(end)) is not None:
            _do(handlers[task.kind], task)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._orchestrator.close()


def make(node: Any, labels: Mapping[str, str] | None, **options: Any) -> Orchestrator:
    """The orchestrator of a node; used by ``Node.orchestrator``."""
    number = inbox().number()
    text = json.dumps({"labels": dict(labels or {}), **options})
    orchestrator = Orchestrator(node._open.orchestrator(text, number))
    inbox().add_orchestrator(number, orchestrator)
    return orchestrator
