"""The single measurements: each function runs one launcher once and returns one number, in seconds
or bytes.

Knows nothing of tables or repetitions. Everything that is started is also ended here, in a session
of its own.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from launchers import environment

WORKLOADS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "workloads")

# Longer than any healthy run here; a launcher that needs more has failed.
_TIMEOUT_S = 300.0


class Failed(Exception):
    """The launcher did not do what was measured."""


def workload(name: str) -> str:
    return os.path.join(WORKLOADS, f"{name}.py")


def wall_time(command: Sequence[str], script: str) -> float:
    """Return the seconds from the start of the whole command to its end."""
    began = time.perf_counter()
    with _running([*command, workload(script)]) as process:
        code = wait_for_end(process)
        took = time.perf_counter() - began
    if code != 0:
        raise Failed(f"exit code {code}")
    return took


def wait_for_end(process: subprocess.Popen[bytes]) -> int:
    """Return a command's exit code the moment it has ended; raises Failed when it does not end."""
    # Not wait(timeout): that looks at growing intervals, up to 50 ms late.
    began = time.monotonic()
    watchdog = threading.Timer(_TIMEOUT_S, process.kill)
    watchdog.start()
    code = process.wait()
    watchdog.cancel()
    if time.monotonic() - began >= _TIMEOUT_S:
        raise Failed(f"not ended after {_TIMEOUT_S:g} s")
    return code


def idle_supervisor(command: Sequence[str], ranks: int, idle_s: float) -> tuple[int, float]:
    """Return the supervisor's peak memory in bytes, and its CPU seconds while all ranks wait for
    `idle_s`.
    """
    with _fifo() as (fifo, lines), _running([*command, workload("wait"), fifo]) as process:
        _expect(lines, "ready", ranks, process)
        time.sleep(1.0)  # let it finish what the start has left to do
        before = cpu_seconds(process.pid)
        time.sleep(idle_s)
        used = cpu_seconds(process.pid) - before
        return peak_bytes(process.pid), used


def proportional_memory(command: Sequence[str], ranks: int) -> int:
    """Return the bytes (PSS) of all processes below the supervisor while `ranks` ranks hold
    torch.
    """
    with _fifo() as (fifo, lines), _running([*command, workload("wait"), fifo]) as process:
        _expect(lines, "ready", ranks, process)
        return sum(pss_bytes(pid) for pid in _descendants(process.pid))


def restart_time(command: Sequence[str], ranks: int, way: str) -> float:
    """Return the seconds from a rank's death to the all-reduce of every rank of the next attempt.

    `way` is an argument of the script, see workloads/restart.py. Raises Failed when the next
    attempt does not get that far.
    """
    with _fifo() as (fifo, lines), _running([*command, workload("restart"), fifo, way]) as process:
        killed = _expect(lines, "killed", 1, process)
        reduced = _expect(lines, "reduced", ranks, process)
        return (max(int(words[1]) for words in reduced) - int(killed[0][1])) / 1e9


def training_speed(command: Sequence[str], script: str, way: str) -> float:
    """Return the training steps per second that rank 0 reports. `way` is an argument of the
    script.
    """
    with _fifo() as (fifo, lines), _running([*command, workload(script), fifo, way]) as process:
        speed = float(_expect(lines, "steps_per_s", 1, process)[0][1])
        try:
            process.wait(_TIMEOUT_S)  # its end must not take time from the next one
        except subprocess.TimeoutExpired:
            raise Failed(f"not ended {_TIMEOUT_S:g} s after its last step") from None
        return speed


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of all threads of a process so far: in nanoseconds, where the kernel
    counts them.
    """
    total_ns = 0
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/schedstat", encoding="ascii") as file:
            total_ns += int(file.read().split()[0])
    return total_ns / 1e9


def peak_bytes(pid: int) -> int:
    """Return the largest resident size that this process, without its children, has had."""
    return _kib_field(f"/proc/{pid}/status", "VmHWM:")


def pss_bytes(pid: int) -> int:
    """Return a process's proportional share of memory; 0 when it has ended."""
    try:
        return _kib_field(f"/proc/{pid}/smaps_rollup", "Pss:")
    except (FileNotFoundError, ProcessLookupError):
        return 0


def _kib_field(path: str, name: str) -> int:
    with open(path, encoding="ascii") as file:
        for line in file:
            if line.startswith(name):
                return int(line.split()[1]) << 10
    raise ProcessLookupError(path)


def _descendants(root: int) -> list[int]:
    parents: dict[int, int] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                parents[int(name)] = int(file.read().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    found = [root]
    for pid in found:
        found.extend(child for child, parent in parents.items() if parent == pid)
    return found[1:]


@contextmanager
def _running(command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command quietly in an empty folder; end it, and all that it started, at the end of the
    block.
    """
    environ = {**environment(), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    if "launcher" in command or "torch.distributed.run" in command:
        del environ["MASTER_ADDR"], environ["MASTER_PORT"]  # these choose for themselves
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    below = _descendants(process.pid)
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pid in below:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextmanager
def _fifo() -> Iterator[tuple[str, Iterator[list[str]]]]:
    """Give a FIFO for the ranks to report to, and the words of each line that arrives ([] once a
    second).
    """
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "fifo")
        os.mkfifo(path)
        # Open for writing as well, so that reading never sees an end while ranks come and go.
        fd = os.open(path, os.O_RDWR)
        try:
            yield path, _lines(fd)
        finally:
            os.close(fd)


def _lines(fd: int) -> Iterator[list[str]]:
    deadline = time.monotonic() + _TIMEOUT_S
    rest = b""
    while time.monotonic() < deadline:
        if not select.select([fd], [], [], 1.0)[0]:
            yield []
            continue
        *whole, rest = (rest + os.read(fd, 4096)).split(b"\n")
        for line in whole:
            yield line.decode("ascii").split()


def _expect(
    lines: Iterator[list[str]], word: str, count: int, process: subprocess.Popen[bytes]
) -> list[list[str]]:
    """Return the first `count` lines that begin with `word`; raises Failed when they do not
    come.
    """
    found: list[list[str]] = []
    for words in lines:
        if not words and process.poll() is not None:
            break
        if words and words[0] == word:
            found.append(words)
            if len(found) == count:
                return found
    raise Failed(f"{len(found)} of {count} ranks said {word!r}")
