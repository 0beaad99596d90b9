"""The supervisor's end of the fork server, with a test in place of the server."""

from __future__ import annotations

import errno
import os

import pytest

from launcher.contract import messages as forkwire
from launcher.events import Exited, Started, StartFailed
from launcher.start.warm import WarmStarter
from launcher.system.loop import Loop
from launcher.worker import forkserver


def test_what_comes_together_with_an_answer_is_not_lost() -> None:
    ours, theirs = forkwire.make_pair()
    with Loop(()) as loop:
        starter = WarmStarter(loop, "mark", lambda text: None)
        starter._socket = ours
        forkwire.send(theirs, {"type": "started", "worker": 0, "pid": 70})
        forkwire.send(theirs, {"type": "started", "worker": 1, "pid": 71})
        assert list(starter._read_messages()) == [Started(0, 70), Started(1, 71)]
        forkwire.send(theirs, {"type": "exited", "pid": 70, "code": 2, "status": 9})
        forkwire.send(theirs, {"type": "reaped", "pid": 70, "peak_kib": 512})
        forkwire.send(theirs, {"type": "exited", "pid": 71, "code": 1, "status": 3})
        assert starter.reap(70) == 512
        assert list(starter.take_set_aside()) == [Exited(0, -9), Exited(1, 3)]
    ours.close()
    theirs.close()


def test_a_fork_that_the_system_refuses_is_a_failed_start_of_that_rank_only() -> None:
    ours, theirs = forkwire.make_pair()
    with Loop(()) as loop:
        starter = WarmStarter(loop, "mark", lambda text: None)
        starter._socket = ours
        forkwire.send(theirs, {"type": "started", "worker": 0, "pid": 70})
        forkwire.send(theirs, {"type": "refused", "worker": 1, "errno": errno.EAGAIN})
        started, failed = starter._read_messages()
    assert started == Started(0, 70)
    assert isinstance(failed, StartFailed)
    assert (failed.local_rank, failed.exit_code, "ulimit -u" in failed.message) == (1, 126, True)
    ours.close()
    theirs.close()


def test_the_server_lives_on_when_it_may_not_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    ours, theirs = forkwire.make_pair()
    monkeypatch.setattr(os, "fork", refuse)
    assert forkserver._fork(theirs, {"worker": 3}) == -1
    received = forkwire.receive(ours)
    assert received is not None
    assert received[0] == {"type": "refused", "worker": 3, "errno": errno.EAGAIN}
    ours.close()
    theirs.close()
