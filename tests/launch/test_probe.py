"""What is seen of a worker from outside."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from launcher.diagnosis.probe import Target, collect_stacks, cpu_seconds
from tests.conftest import wait_until


def test_cpu_time_is_that_of_a_process_and_all_below_it() -> None:
    before = cpu_seconds(os.getpid())
    began = time.process_time()
    while time.process_time() - began < 0.05:
        pass
    used = cpu_seconds(os.getpid()) - before
    assert used >= 0.03  # the kernel counts in hundredths


def test_a_process_that_does_not_exist_has_used_nothing() -> None:
    with subprocess.Popen(["true"]) as child:
        pass
    assert cpu_seconds(child.pid) == 0.0


@pytest.mark.parametrize(
    ("signum", "state", "words"),
    [
        (signal.SIGSTOP, "T", "is stopped by a signal (SIGSTOP, or Ctrl-Z)"),
        (signal.SIGKILL, "Z", "has ended"),
        (signal.SIGCONT, "S", "sleeps in "),
    ],
)
def test_who_cannot_say_where_it_is_is_described(
    signum: signal.Signals, state: str, words: str
) -> None:
    with subprocess.Popen(["sleep", "1000"]) as child:
        try:
            os.kill(child.pid, signum)
            path = Path(f"/proc/{child.pid}/stat")
            wait_until(lambda: path.read_text().split()[2] == state, state)
            (stack,) = collect_stacks([Target(3, child.pid, "/no/such/folder/rank_03.json")])
        finally:
            child.kill()
    assert (stack.rank, stack.frames) == (3, ())
    assert stack.condition.startswith(words)
