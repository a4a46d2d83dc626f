"""Leases, fencing locks and a write gate inside a process.

>>> import tenure
>>> with tenure.Node() as node:
...     with node.lock("orders/42", ttl=5) as grant:
...         print(grant.token)
1

A :class:`Node` lives in memory, or durably in a directory (``Node(data_dir=...)``). :mod:`tenure.aio` has the same verbs for
asyncio. Durations are seconds or ``timedelta``; keys are ``str`` or ``bytes``. Everything that Tenure raises derives from
:class:`Error`; ``docs/guarantees.md`` says what is promised and what is not.
"""

from tenure import errors
from tenure._core import Permit, Verdict, version
from tenure._grant import Grant, Grants, Lost
from tenure._types import (
    Contenders,
    Duration,
    Event,
    GateMode,
    HeartbeatReply,
    Holder,
    Key,
    Leader,
    LocalHolder,
    LockInfo,
    LockMode,
    LockOptions,
    Member,
    Waiter,
    Watched,
    WriteClass,
)
from tenure._watch import Election, Leaders, Leadership, Watch
from tenure.errors import *  # noqa: F403
from tenure.fence import EpochAdmission, EpochFence, EpochPass, admit_epoch, read_epoch
from tenure.gate import Gate
from tenure.granter import Granter, Order, Promise
from tenure.node import Node, Session, connect
from tenure.orchestrator import Orchestrator, Simulation, Task
from tenure.plug import Capabilities, LockHolder, LockService

__version__ = version()

__all__ = [  # noqa: PLE0604
    "Capabilities",
    "Contenders",
    "Duration",
    "Election",
    "EpochAdmission",
    "EpochFence",
    "EpochPass",
    "Event",
    "Gate",
    "GateMode",
    "Grant",
    "Granter",
    "Grants",
    "HeartbeatReply",
    "Holder",
    "Key",
    "Leader",
    "Leaders",
    "Leadership",
    "LocalHolder",
    "LockHolder",
    "LockInfo",
    "LockMode",
    "LockOptions",
    "LockService",
    "Lost",
    "Member",
    "Node",
    "Orchestrator",
    "Order",
    "Permit",
    "Promise",
    "Session",
    "Simulation",
    "Task",
    "Verdict",
    "Waiter",
    "Watch",
    "Watched",
    "WriteClass",
    "admit_epoch",
    "connect",
    "read_epoch",
    *errors.__all__,
]
