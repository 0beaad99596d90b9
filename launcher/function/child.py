"""Run `python -m launcher` as a child process and show its output where the caller's output goes.

Owns the child's streams, the way of Ctrl-C to it, and its end: none is left when run() returns or
raises. Knows nothing of functions and results.
"""

from __future__ import annotations

import codecs
import os
import selectors
import signal
import subprocess
import sys
import time

from launcher.plan.interpreter import interpreter_flags

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import IO

# How long the child may take to stop its workers, whose own grace period is 30 s by default.
_STOP_TIMEOUT_S = 40.0

_CHUNK_BYTES = 65536

_TOO_LATE = "launch() was stopped: its timeout_s is over."


def run(argv: list[str], env: Mapping[str, str], timeout_s: float | None) -> int:
    """Run the launcher with these arguments and return its exit code; negative for a signal.

    KeyboardInterrupt goes to the child as SIGINT, each time, and is raised when the child has
    ended. Raises TimeoutError when it was stopped after timeout_s seconds.
    """
    inherit_stdout, inherit_stderr = _is_real(sys.stdout, 1), _is_real(sys.stderr, 2)
    process = subprocess.Popen(
        [sys.executable, *interpreter_flags(), "-m", "launcher", *argv],
        env=_make_environment(env),
        stdin=subprocess.DEVNULL,
        stdout=None if inherit_stdout else subprocess.PIPE,
        stderr=None if inherit_stderr else subprocess.PIPE,
        # Ctrl-C in a terminal reaches every process of the group; the child gets it once, from us.
        start_new_session=True,
    )
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    with selectors.DefaultSelector() as selector, process:
        for pipe, stream in ((process.stdout, sys.stdout), (process.stderr, sys.stderr)):
            if pipe is not None:
                decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
                selector.register(pipe, selectors.EVENT_READ, (decoder, stream))
        try:
            _follow(process, selector, deadline)
        finally:
            _stop(process, selector)
    return process.returncode


def _make_environment(env: Mapping[str, str]) -> dict[str, str]:
    environ = {**os.environ, **env, "LAUNCHER_PARENT_PID": str(os.getpid())}
    parent = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    if os.path.basename(parent) not in ("site-packages", "dist-packages"):
        # A source tree. Installed, we are found without, and must not come before all others.
        environ["PYTHONPATH"] = os.pathsep.join(filter(None, (parent, environ.get("PYTHONPATH"))))
    return environ


def _is_real(stream: IO[str], number: int) -> bool:
    """Tell whether this is the interpreter's own stream: the child can then write to it itself."""
    own = sys.__stdout__ if number == 1 else sys.__stderr__
    try:
        if stream is not own or stream.fileno() != number:
            return False
        stream.flush()  # what was printed before comes before
    except (AttributeError, OSError, ValueError):
        return False
    return True


def _follow(
    process: subprocess.Popen[bytes], selector: selectors.BaseSelector, deadline: float | None
) -> None:
    """Copy output until the child ends; pass an interrupt on, and raise it again after that."""
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
    """Copy output until the child has ended; TimeoutError when that is not before `deadline`.

    The streams may be a notebook's cell or a test's capture, which take text only.
    """
    while selector.get_map():
        ready = selector.select(_remaining_s(deadline))
        if not ready and deadline is not None:
            raise TimeoutError(_TOO_LATE)
        for key, _ in ready:
            decoder, stream = key.data
            data = os.read(key.fd, _CHUNK_BYTES)
            stream.write(decoder.decode(data, final=not data))
            stream.flush()
            if not data:
                selector.unregister(key.fileobj)
    try:
        process.wait(_remaining_s(deadline))
    except subprocess.TimeoutExpired:
        raise TimeoutError(_TOO_LATE) from None


def _remaining_s(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def _stop(process: subprocess.Popen[bytes], selector: selectors.BaseSelector) -> None:
    """End a child that still runs: politely, then by force, which ends its workers too."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        _copy_until_end(process, selector, time.monotonic() + _STOP_TIMEOUT_S)
    except BaseException:  # also an interrupt: whoever waits no longer gets no more patience
        process.kill()
        process.wait()
        raise
