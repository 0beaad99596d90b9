"""Run `python -m launcher` as a child process and show its output where the caller's output goes.

Owns the child's streams, the way of Ctrl-C to it, and its end: none is left when run() returns or
raises. Knows nothing of functions and results.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    import selectors
    import subprocess

_STOP_TIMEOUT_S = 40.0
"""How long the child may take to stop its workers, whose own grace period is 30 s by default."""
_CHUNK_BYTES = 65536


def run(argv: list[str], env: Mapping[str, str], timeout_s: float | None) -> int:
    """Run the launcher with these arguments and return its exit code; negative for a signal.

    KeyboardInterrupt goes to the child as SIGINT, each time, and is raised when the child has
    ended. Raises TimeoutError when it was stopped after timeout_s seconds.
    """
    import selectors
    import subprocess
    import time

    from launcher.plan.interpreter import interpreter_flags

    streams = {1: sys.stdout, 2: sys.stderr}
    inherit = {number for number, stream in streams.items() if _is_real(stream, number)}
    process = subprocess.Popen(
        [sys.executable, *interpreter_flags(), "-m", "launcher", *argv],
        env=_environment(env),
        stdin=subprocess.DEVNULL,
        stdout=None if 1 in inherit else subprocess.PIPE,
        stderr=None if 2 in inherit else subprocess.PIPE,
        # Ctrl-C in a terminal reaches every process of the group; the child is to get it once, from
        # us.
        start_new_session=True,
    )
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    with selectors.DefaultSelector() as selector, process:
        for pipe, stream in ((process.stdout, streams[1]), (process.stderr, streams[2])):
            if pipe is not None:
                selector.register(pipe, selectors.EVENT_READ, _Copy(stream))
        try:
            _follow(process, selector, deadline)
        finally:
            _stop(process, selector)
    return process.returncode


class _Copy:
    """Bytes of a pipe to a text stream, which may be a notebook's cell or a test's capture."""

    def __init__(self, stream: IO[str]) -> None:
        import codecs

        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")

    def read(self, pipe: Any) -> bool:
        """Copy what is there; False at the end of the pipe."""
        data = os.read(pipe.fileno(), _CHUNK_BYTES)
        self._stream.write(self._decoder.decode(data, final=not data))
        self._stream.flush()
        return bool(data)


def _environment(env: Mapping[str, str]) -> dict[str, str]:
    environ = {**os.environ, **env, "LAUNCHER_PARENT_PID": str(os.getpid())}
    parent = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    if os.path.basename(parent) not in ("site-packages", "dist-packages"):
        # A source tree. Installed, we are found without, and site-packages must not come before the
        # rest.
        environ["PYTHONPATH"] = os.pathsep.join(filter(None, (parent, environ.get("PYTHONPATH"))))
    return environ


def _is_real(stream: IO[str], number: int) -> bool:
    """True if this is the interpreter's own stream, so that the child can write to it without
    us.
    """
    try:
        if (
            stream is not (sys.__stdout__ if number == 1 else sys.__stderr__)
            or stream.fileno() != number
        ):
            return False
        stream.flush()  # what was printed before comes before
    except (AttributeError, OSError, ValueError):
        return False
    return True


def _follow(
    process: subprocess.Popen[bytes], selector: selectors.BaseSelector, deadline: float | None
) -> None:
    """Copy output until the child ends. An interrupt is passed on and raised again when the child
    has ended.
    """
    interrupt: KeyboardInterrupt | None = None
    while True:
        try:
            _copy_until_end(process, selector, deadline)
            break
        except KeyboardInterrupt as error:
            interrupt = error
            process.send_signal(signal.SIGINT)
    if interrupt is not None:
        raise interrupt


def _copy_until_end(
    process: subprocess.Popen[bytes], selector: selectors.BaseSelector, deadline: float | None
) -> None:
    import time

    while selector.get_map():
        remaining = None if deadline is None else max(0.0, deadline - time.monotonic())
        ready = selector.select(remaining)
        if not ready and remaining is not None:
            raise TimeoutError("launch() was stopped: its timeout_s is over.")
        for key, _ in ready:
            if not key.data.read(key.fileobj):
                selector.unregister(key.fileobj)
    _wait(process, deadline)


def _wait(process: subprocess.Popen[bytes], deadline: float | None) -> None:
    import subprocess
    import time

    try:
        process.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise TimeoutError("launch() was stopped: its timeout_s is over.") from None


def _stop(process: subprocess.Popen[bytes], selector: selectors.BaseSelector) -> None:
    """End a child that still runs: politely, then by force, which ends its workers too."""
    import time

    if process.poll() is not None:
        return
    process.terminate()
    try:
        _copy_until_end(process, selector, time.monotonic() + _STOP_TIMEOUT_S)
    except BaseException:  # also an interrupt: whoever waits no longer gets no more patience
        process.kill()
        process.wait()
        raise
