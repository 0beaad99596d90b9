"""The supervisor's end of the fork server, with a test in place of the server."""

from __future__ import annotations

from launcher.events import Exited, Started
from launcher.loop import Loop
from launcher.warm import WarmStarter
from launcher.worker import forkwire


def test_what_comes_together_with_an_answer_is_not_lost() -> None:
    ours, theirs = forkwire.make_pair()
    with Loop(()) as loop:
        starter = WarmStarter(loop, "mark")
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
