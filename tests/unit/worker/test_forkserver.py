"""The fork server inside, and what its end means for an attempt."""

from __future__ import annotations

import errno
import os

import pytest

from launcher.contract import messages
from launcher.start.server import make_pair
from launcher.worker import forkserver


def test_the_server_lives_on_when_it_may_not_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    ours, theirs = make_pair()
    monkeypatch.setattr(os, "fork", refuse)
    assert forkserver._fork(theirs, 3) == -1
    assert messages.receive(ours) == (messages.Refused(3, errno.EAGAIN), [])
    ours.close()
    theirs.close()
