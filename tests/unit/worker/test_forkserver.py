"""The fork server inside, and what its end means for an attempt."""

from __future__ import annotations

import errno
import os
import signal

import pytest

from launcher.attempt.group import Group
from launcher.contract import messages
from launcher.events import ForkServerLost, ForkServerUnsafe
from launcher.worker import forkserver


def test_the_server_lives_on_when_it_may_not_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    ours, theirs = messages.make_pair()
    monkeypatch.setattr(os, "fork", refuse)
    assert forkserver._fork(theirs, 3) == -1
    assert messages.receive(ours) == (messages.Refused(3, errno.EAGAIN), [])
    ours.close()
    theirs.close()


def zombie() -> int:
    """Return a child that has ended and waits to be let go."""
    pid = os.fork()
    if pid == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return pid


def test_a_dead_worker_is_let_go_and_its_peak_of_memory_told() -> None:
    ours, theirs = messages.make_pair()
    pid = zombie()
    forkserver._reap(pid, theirs.detach())
    received = messages.receive(ours)
    assert received is not None
    assert isinstance(received[0], messages.Reaped)
    assert received[0].peak_kib > 1000
    assert messages.receive(ours) is None
    ours.close()
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def test_the_server_lives_on_when_nobody_waits_for_its_answer_any_more() -> None:
    ours, theirs = messages.make_pair()
    ours.close()
    forkserver._reap(zombie(), theirs.detach())


def test_why_the_server_is_not_to_be_used_is_not_forgotten_over_its_end() -> None:
    group = Group.__new__(Group)  # only what these two events touch
    group._has_begun, group.unsafe_reason = False, ""
    for event in (ForkServerUnsafe("a preloaded module has opened a GPU"), ForkServerLost(0)):
        group._handle(event)
    assert group.unsafe_reason == "a preloaded module has opened a GPU"
