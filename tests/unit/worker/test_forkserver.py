"""The fork server inside, and what its end means for an attempt."""

from __future__ import annotations

import errno
import os

import pytest

from launcher.attempt.group import Group
from launcher.contract import messages
from launcher.events import ForkServerLost, ForkServerUnsafe
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


def test_why_the_server_is_not_to_be_used_is_not_forgotten_over_its_end() -> None:
    group = Group.__new__(Group)  # only what these two events touch
    group._has_begun, group.unsafe_reason = False, ""
    for event in (ForkServerUnsafe("a preloaded module has opened a GPU"), ForkServerLost(0)):
        group._handle(event)
    assert group.unsafe_reason == "a preloaded module has opened a GPU"
