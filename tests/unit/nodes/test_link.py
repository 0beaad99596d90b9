"""Connections between nodes, over real sockets of this host."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from launcher.nodes.link import Probe, listen
from launcher.system.loop import Loop


@pytest.fixture
def loop() -> Iterator[Loop]:
    with Loop(()) as loop:
        yield loop


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_probe_tells_whether_nobody_listens_any_more(loop: Loop, host: str) -> None:
    listening = listen((host, 0, 0, 0) if ":" in host else (host, 0))
    address = listening.getsockname()
    answers: list[bool] = []
    for is_dead in (False, True):
        Probe(loop, address, answers.append)
        while not answers:
            loop.turn(lambda event: None)
        assert answers.pop() is is_dead
        listening.close()


def test_a_probe_that_is_cancelled_tells_nothing(loop: Loop) -> None:
    listening = listen(("127.0.0.1", 0))
    answers: list[bool] = []
    Probe(loop, listening.getsockname(), answers.append).cancel()
    loop.set_timer(lambda: None, 0.0)
    loop.turn(lambda event: None)
    listening.close()
    assert answers == []
