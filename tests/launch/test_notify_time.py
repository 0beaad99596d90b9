"""A command for the end of a run has a time of its own."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from launcher.record.notify import Notifier
from launcher.system.loop import Loop


def test_a_command_that_takes_too_long_is_killed_with_what_it_has_started(tmp_path: Path) -> None:
    said: list[str] = []
    sessions: list[int] = []
    log = str(tmp_path / "log")

    def clock() -> float:
        """Stand still until the command has come to its first line."""
        return time.monotonic() if Path(log).stat().st_size else 0.0

    with Loop((signal.SIGTERM,), clock) as loop:
        notifier = Notifier(loop, (signal.SIGTERM,), sessions.append, said.append, longest_s=0.3)
        problem = notifier.run("sleep 60 & echo began; sleep 60", "path", os.environ, log)
    assert problem == "it did not end within 0.3 s, and was killed"
    assert Path(log).read_text() == "began\n"
    assert len(sessions) == 1


def test_a_log_that_cannot_be_written_is_no_problem(tmp_path: Path) -> None:
    with Loop((signal.SIGTERM,)) as loop:
        notifier = Notifier(loop, (), lambda pid: None, lambda text: None)
        log = str(tmp_path / "missing" / "log")
        assert notifier.run("echo text", "path", os.environ, log) == ""
        assert notifier.run("exit 4", "path", os.environ, log) == "exit code 4"
