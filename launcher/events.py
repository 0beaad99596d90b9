"""What the loop of a supervisor receives: small immutable messages, one class for each thing that
can happen.

Imports nothing of this package. Sources (pipes, the fork server, signals, timers) make
them; `group.py` reads them.
"""

from __future__ import annotations

from typing import NamedTuple


class Started(NamedTuple):
    """A worker process exists."""

    local_rank: int
    pid: int


class Output(NamedTuple):
    """Bytes that a worker wrote, as they came; empty `data` means that the stream has ended."""

    local_rank: int
    stream: str  # "out" or "err"
    data: bytes


class Exited(NamedTuple):
    """A worker has ended with a wait status in subprocess form: an exit code, or minus a signal
    number.
    """

    local_rank: int
    returncode: int


class StartFailed(NamedTuple):
    """A worker could not be started; `exit_code` is what a shell would return."""

    local_rank: int
    message: str
    exit_code: int


class Asked(NamedTuple):
    """A worker waits in `hvd.init()` to be told its rank among those that are left (elastic
    Horovod).
    """

    local_rank: int


class ForkServerReady(NamedTuple):
    """The fork server has imported its modules and may fork."""

    preloaded: tuple[str, ...]


class ForkServerUnsafe(NamedTuple):
    """The fork server must not fork, and why."""

    reason: str


class ForkServerLost(NamedTuple):
    """The fork server has died; returncode in subprocess form."""

    returncode: int


class Signalled(NamedTuple):
    """The supervisor received a signal that is not SIGCHLD."""

    signum: int


class ChildrenChanged(NamedTuple):
    """SIGCHLD came: some child of the supervisor has changed its state."""


class TimerFired(NamedTuple):
    """The deadline that was set under this name has passed."""

    name: str


Event = (
    Started
    | Output
    | Exited
    | StartFailed
    | Asked
    | ForkServerReady
    | ForkServerUnsafe
    | ForkServerLost
    | Signalled
    | ChildrenChanged
    | TimerFired
)
