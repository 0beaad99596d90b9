"""The fork server: imports the heavy modules once, then forks a worker for each request.

It has one thread and no CUDA context when it forks; it checks both, and says so if not. It reports
every start and every exit at once, and keeps a dead worker as a zombie until the supervisor has
dealt with the rest of its session: so a process id is never reused while somebody may still signal
it. Knows nothing of attempts or ranks.
"""

from __future__ import annotations

import gc
import io
import os
import select
import signal
import socket
import sys
from collections.abc import Iterable

from launcher.contract import messages
from launcher.system.bare import die_with_parent
from launcher.system.inheritance import Inheritance, assume
from launcher.system.processes import num_threads
from launcher.worker import bootstrap, diagnose, openblas, quick_exit, title

# Slurm and systemd send these to every process of a job. The server's end would be that of the
# workers, who may want to save.
_FOR_WORKERS = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
)


def main(socket_fd: int, parent_pid: int) -> messages.Start | None:
    """Serve until the supervisor has gone; return in each forked worker what it has to run.

    In the server itself that is None.
    """
    old_mask = signal.pthread_sigmask(signal.SIG_BLOCK, _FOR_WORKERS)
    if not die_with_parent(signal.SIGKILL, parent_pid):
        return None
    os.set_inheritable(socket_fd, False)
    sock = socket.socket(fileno=socket_fd)
    first = messages.receive(sock)
    if first is None:
        return None
    config, (answers_fd,) = first
    assert isinstance(config, messages.Configure)
    # Libraries read some of these when they are loaded.
    _set_variables(config)
    bootstrap.set_import_path(config.kind, config.target)
    obstacle = _preload(config)
    if obstacle:
        messages.send(sock, messages.Unsafe(obstacle))
        return None
    messages.send(sock, messages.Ready())
    return _serve(sock, socket.socket(fileno=answers_fd), old_mask)


def _preload(config: messages.Configure) -> str:
    """Import what the script will; return the reason not to fork, or ""."""
    from launcher.worker import preload

    scan = preload.scan(config.kind, config.target)
    if scan.obstacle and not config.forced:
        return scan.obstacle
    quick_exit.plan_quick_exit()
    # Imports make hundreds of thousands of objects that stay: looking through them again and again
    # for garbage costs a sixth of the time, and even once at the end costs more than the megabyte
    # that would come of it.
    gc.disable()
    with openblas.single_threaded():
        preload.import_modules(list(scan.modules), list(config.preload))
    quick_exit.mark_shared_modules()
    quick_exit.keep_operators()
    return _find_obstacle()


def _find_obstacle() -> str:
    threads = num_threads()
    if threads != 1:
        return f"a preloaded module has started threads ({threads} are running)"
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}").startswith("/dev/nvidia"):
                return "a preloaded module has opened a GPU"
        except OSError:
            continue
    return ""


def _serve(
    sock: socket.socket, answers: socket.socket, old_mask: Iterable[int]
) -> messages.Start | None:
    # Shared objects are never visited by a worker's collector, so their pages stay shared.
    gc.freeze()
    gc.enable()
    server_pid = os.getpid()
    wakeup_read, wakeup_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wakeup_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda signum, frame: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGCHLD,))
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    poller.register(wakeup_read, select.POLLIN)
    running: set[int] = set()
    while True:
        for fd, _ in poller.poll():
            if fd == wakeup_read:
                os.read(wakeup_read, 4096)
                _report_exits(sock, running)
                continue
            received = messages.receive(sock)
            if received is None:
                return None
            request, descriptors = received
            if isinstance(request, messages.Reap):
                peak_kib = os.wait4(request.pid, 0)[2].ru_maxrss
                messages.send(answers, messages.Reaped(request.pid, peak_kib))
                continue
            assert isinstance(request, messages.Start)
            sys.stdout.flush()
            sys.stderr.flush()
            pid = _fork(sock, request.local_rank)
            if pid == 0:
                for ours in (wakeup_read, wakeup_write, sock.detach(), answers.detach()):
                    os.close(ours)
                signal.pthread_sigmask(signal.SIG_SETMASK, old_mask)
                return _become_worker(request, server_pid, descriptors)
            for descriptor in descriptors:
                os.close(descriptor)
            if pid > 0:
                running.add(pid)
                messages.send(sock, messages.Started(request.local_rank, pid))


def _fork(sock: socket.socket, local_rank: int) -> int:
    """Fork; -1 when the system refuses.

    The supervisor is told: the workers that run need this server.
    """
    try:
        return os.fork()
    except OSError as error:
        messages.send(sock, messages.Refused(local_rank, error.errno or 0))
        return -1


def _report_exits(sock: socket.socket, running: set[int]) -> None:
    for pid in sorted(running):
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is not None:
            running.discard(pid)
            messages.send(sock, messages.Exited(pid, ended.si_code, ended.si_status))


def _become_worker(
    request: messages.Start, server_pid: int, descriptors: list[int]
) -> messages.Start | None:
    """Make this freshly forked process what a worker that was started by exec would be."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    if not die_with_parent(signal.SIGKILL, server_pid):
        return None
    for target, descriptor in enumerate(descriptors[:3]):
        os.dup2(descriptor, target)
        os.close(descriptor)
    if request.inheritance is not None:
        assume(Inheritance(*request.inheritance), descriptors[3:])
    _set_variables(request)
    if request.cpus:
        os.sched_setaffinity(0, request.cpus)
    openblas.restore_threads()
    _renew_randomness()
    _renew_stdin()
    _renew_stdout()
    title.set_title(request.title)
    diagnose.arm(request.error_file)
    return request


def _set_variables(message: messages.Configure | messages.Start) -> None:
    for name in message.unset:
        os.environ.pop(name, None)
    os.environ.update(message.env)


def _renew_stdin() -> None:
    """Make sys.stdin again: the server's was made for /dev/null, and believes that it can seek."""
    old = sys.stdin
    if old is None:
        return
    from io import TextIOWrapper

    buffer = open(0, "rb", closefd=False)  # noqa: SIM115  (as long as the process lives)
    buffer.raw.name = "<stdin>"  # type: ignore[attr-defined]
    sys.stdin = sys.__stdin__ = TextIOWrapper(  # type: ignore[misc]
        buffer, old.encoding, old.errors, newline="\n", line_buffering=os.isatty(0)
    )
    sys.stdin.mode = "r"  # type: ignore[misc]


def _renew_stdout() -> None:
    """Let lines on a terminal appear when they end; the server's stdout was made for a pipe."""
    if isinstance(sys.stdout, io.TextIOWrapper) and os.isatty(1) and not sys.stdout.write_through:
        sys.stdout.reconfigure(line_buffering=True)


def _renew_randomness() -> None:
    """Give this worker secrets and random numbers of its own.

    (`random` does it by itself after a fork.)
    """
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()
    process = sys.modules.get("multiprocessing.process")
    if process is not None:
        process.current_process().authkey = os.urandom(32)
