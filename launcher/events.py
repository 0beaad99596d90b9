"""What the loop of a supervisor receives: small messages, one class for each thing that can happen.

Start methods, the signals' descriptor and Horovod's store make them; whoever turns the loop reads
them: the waiting room before an attempt, then the group.
"""

from __future__ import annotations

from launcher.named import NamedTuple


class Started(NamedTuple):
    """A worker process exists."""

    local_rank: int
    pid: int


class Exited(NamedTuple):
    """A worker has ended; the return code in subprocess form: an exit code, or minus a signal."""

    local_rank: int
    returncode: int


class StartFailed(NamedTuple):
    """A worker could not be started; `exit_code` is what a shell would return."""

    local_rank: int
    message: str
    exit_code: int


class Asked(NamedTuple):
    """A worker of elastic Horovod waits in `hvd.init()` for its rank among those that are left."""

    local_rank: int


class ForkServerUnsafe(NamedTuple):
    """The fork server must not fork, and why."""

    reason: str


class ForkServerLost(NamedTuple):
    """The fork server has died; returncode in subprocess form."""

    returncode: int


class Signalled(NamedTuple):
    """The supervisor received a signal that is not SIGCHLD."""

    signum: int


class TaskSignalled(NamedTuple):
    """A signal came to the process that an engine has started for a worker's rank."""

    local_rank: int
    signum: int


class TaskLost(NamedTuple):
    """The process that an engine has started for a worker's rank has gone without a word."""

    local_rank: int


class ChildrenChanged(NamedTuple):
    """SIGCHLD came: some child of the supervisor has changed its state."""


class PeersStop(NamedTuple):
    """The ranks of all nodes are to end: why, and the signal that one of the nodes was sent, or 0.

    From the coordinator of several nodes.
    """

    reason: str
    signum: int
    # Nothing moves on one of them: it is to be known where the ranks of all are.
    is_hang: bool = False
    # A second signal: ranks are not waited for.
    is_forced: bool = False


Event = (
    Started
    | Exited
    | StartFailed
    | Asked
    | ForkServerUnsafe
    | ForkServerLost
    | Signalled
    | TaskSignalled
    | TaskLost
    | ChildrenChanged
    | PeersStop
)
