"""Processes: what the kernel says of them, how they are signalled, and how one of ours is started.

Knows nothing of ranks or workers.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from launcher.named import NamedTuple
from launcher.system.bare import call_c, stat_fields

# Settings of glibc's malloc.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3

_KEPT_BYTES = 16 << 20

# Python ignores these for itself; a child must find them as a shell would leave them.
_RESTORED_SIGNALS = (signal.SIGPIPE, signal.SIGXFSZ)

# Hardly any descriptor that a process inherits has so high a number.
_HIGH_NUMBER = 4000

# The limit on open files that children get: that which we had before we raised our own.
_files_of_children: tuple[int, int] | None = None

# The signals that were blocked when we were started: workers get them so, whatever the loop does.
_INHERITED_MASK = signal.pthread_sigmask(signal.SIG_BLOCK, ())


def allow_open_files(*, for_children: bool = True) -> int:
    """Raise our limit on open files as far as we may; return it.

    for_children: they get the raised one, too. The usual one is for programs that call `select`,
    whatever the administrator allows.
    """
    global _files_of_children
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        _files_of_children = None if for_children else (soft, hard)
    return sys.maxsize if hard == resource.RLIM_INFINITY else hard


@contextmanager
def _limit_of_children() -> Iterator[None]:
    """Have the limit on open files that a child is to inherit; what is open already stays open."""
    if _files_of_children is None:
        yield
        return
    import resource

    ours = resource.getrlimit(resource.RLIMIT_NOFILE)
    _take_limit_of_children()
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, ours)


def _take_limit_of_children() -> None:
    import resource

    if _files_of_children is not None:
        resource.setrlimit(resource.RLIMIT_NOFILE, _files_of_children)


def keep_freed_memory() -> None:
    """Let freed blocks of up to `_KEPT_BYTES` be used again instead of going back to the system.

    Output is passed on in blocks of 256 KiB and more, each of which would otherwise be mapped,
    filled with zeros by the kernel page by page, and unmapped: that took most of the time. Where
    the C library has no such setting, nothing changes.
    """
    try:
        for setting in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
            call_c("mallopt", setting, _KEPT_BYTES)
    except OSError:
        return


def num_threads() -> int:
    """Return how many threads this process has."""
    return len(os.listdir("/proc/self/task"))


class ProcessInfo(NamedTuple):
    """What the kernel says of a process, as far as we need it."""

    pid: int
    name: str
    state: str  # R, S, D (uninterruptible), T (stopped), Z (zombie) ...
    parent_pid: int
    session_id: int
    began: str  # in the kernel's ticks since boot


def process_info(pid: int) -> ProcessInfo | None:
    """Return what the kernel says of a process, or None when it does not exist."""
    try:
        fields = stat_fields(f"/proc/{pid}/stat")
    except OSError:
        return None
    return ProcessInfo(
        pid=pid,
        name=fields[2].decode(errors="replace"),
        state=fields[3].decode(),
        parent_pid=int(fields[4]),
        session_id=int(fields[6]),
        began=fields[22].decode(),
    )


def start_time(pid: int) -> str:
    """Return when a process began, in the kernel's ticks since boot; "" when it does not exist or
    has ended.

    With its number it names one process for ever: numbers are given out again.
    """
    info = process_info(pid)
    return "" if info is None or info.state in ("Z", "X") else info.began


def all_processes() -> list[ProcessInfo]:
    """Return every process that /proc shows; processes that end meanwhile are left out."""
    try:
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:  # a chroot without /proc: the launcher works there, and finds nobody
        return []
    return [info for info in map(process_info, pids) if info is not None]


def child_pids(pid: int) -> list[int]:
    """Return the direct children of a process, zombies included."""
    pids: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children") as file:
                pids.extend(int(child) for child in file.read().split())
    except FileNotFoundError:
        # A kernel without CONFIG_PROC_CHILDREN, or the process has ended.
        return [info.pid for info in all_processes() if info.parent_pid == pid]
    except OSError:  # it has ended while we read, or /proc hides it from us
        return []
    return pids


def descendants(pid: int) -> list[int]:
    """Return all processes below `pid`, parents before their children."""
    found: list[int] = []
    waiting = [pid]
    while waiting:
        children = child_pids(waiting.pop())
        found.extend(children)
        waiting.extend(children)
    return found


def carries_mark(pid: int, mark: bytes) -> bool:
    """Tell whether a process was started with `mark` (`NAME=value`) in its environment."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return mark in file.read().split(b"\0")
    except OSError:
        return False


def maps_library(pid: int, name: str) -> bool:
    """Tell whether a process has loaded a shared library whose file name begins so."""
    try:
        with open(f"/proc/{pid}/maps", errors="replace") as file:
            return any(f"/{name}" in line for line in file)
    except OSError:
        return False


def send_signal(pid: int, signum: int) -> None:
    """Send a signal; nothing happens when the process does not exist or is not ours."""
    try:
        os.kill(pid, signum)
    except (ProcessLookupError, PermissionError):
        pass


def signal_group(pgid: int, signum: int) -> None:
    """Send a signal to a process group; nothing happens when there is none."""
    try:
        os.killpg(pgid, signum)
    except (ProcessLookupError, PermissionError):
        pass


def kill_sessions(session_ids: Iterable[int]) -> None:
    """Kill every process of these sessions, also those in process groups of their own."""
    wanted = set(session_ids)
    if not wanted:
        return
    for session_id in wanted:
        signal_group(session_id, signal.SIGKILL)
    for info in all_processes():
        if info.session_id in wanted and info.state != "Z":
            send_signal(info.pid, signal.SIGKILL)


def launch_process(
    argv: Sequence[str],
    environ: Mapping[str, str],
    descriptors: Mapping[int, int],
    prepare: Callable[[], None] | None = None,
    *,
    new_session: bool = True,
) -> int:
    """Execute a command in a session of its own, and return its pid; OSError when that fails.

    descriptors: its descriptor numbers -> ours. prepare: is called in the new process before.
    new_session: without, and with `prepare`, it shares our session, and so our terminal.
    """
    limit = _files_of_children
    if prepare is None and limit and max(descriptors.values(), default=0) >= limit[0]:
        # Under the limit of the children, posix_spawn would refuse such a number.
        prepare = _take_limit_of_children
    if prepare is not None:
        return _fork_and_execute(argv, environ, descriptors, prepare, new_session)
    actions = [(os.POSIX_SPAWN_DUP2, ours, theirs) for theirs, ours in descriptors.items()]
    with _limit_of_children():
        return os.posix_spawnp(
            argv[0],
            list(argv),
            dict(environ),
            file_actions=actions,
            setsid=True,
            setsigdef=list(_RESTORED_SIGNALS),
            setsigmask=list(_INHERITED_MASK),
        )


def _fork_and_execute(
    argv: Sequence[str],
    environ: Mapping[str, str],
    descriptors: Mapping[int, int],
    prepare: Callable[[], None],
    new_session: bool,
) -> int:
    # It is closed when the command begins; before, it tells why it does not.
    problem_read, problem_write = os.pipe()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
    except OSError:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)  # a supervisor must go on to hear
        os.close(problem_read)
        os.close(problem_write)
        raise
    if pid == 0:
        try:
            signal.set_wakeup_fd(-1)  # what arrives here is not for our loop
            # Away from the numbers that `prepare` may give.
            above = min(_HIGH_NUMBER, os.sysconf("SC_OPEN_MAX") - 2)
            problem_write = fcntl.fcntl(problem_write, fcntl.F_DUPFD_CLOEXEC, above)
            if new_session:
                os.setsid()
            for signum in _RESTORED_SIGNALS:
                signal.signal(signum, signal.SIG_DFL)
            for theirs, ours in descriptors.items():
                os.dup2(ours, theirs)
            prepare()
            signal.pthread_sigmask(signal.SIG_SETMASK, _INHERITED_MASK)
            os.execvpe(argv[0], list(argv), dict(environ))
        except (OSError, ValueError) as error:  # the latter from limits that may not be raised
            os.write(problem_write, str(getattr(error, "errno", errno.EPERM)).encode())
        finally:
            os._exit(127)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    os.close(problem_write)
    with open(problem_read, "rb") as pipe:
        number = pipe.read()
    if number:
        os.waitpid(pid, 0)
        raise OSError(int(number), os.strerror(int(number)))
    return pid


def merged_environ(additions: Mapping[str, str], removed: Sequence[str]) -> dict[str, str]:
    """Return our own environment without the names that are removed, and with the additions."""
    environ = {name: value for name, value in os.environ.items() if name not in removed}
    environ.update(additions)
    return environ


def start_problem(number: int | None) -> str:
    """Say why the system has not started a process, from the error's number."""
    if number == errno.E2BIG:
        return "the arguments are too long"
    if number == errno.EAGAIN:
        return (
            "no more processes are allowed (`ulimit -u` shows the user's limit; a container may"
            " have one of its own)"
        )
    return os.strerror(number or 0)
