"""What a probe says of a port, over real sockets of this host."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from launcher.nodes import probe
from launcher.nodes.link import Listener, listen
from launcher.nodes.probe import Probe
from launcher.nodes.wire import Credentials
from launcher.system.loop import Loop


@pytest.fixture
def loop() -> Iterator[Loop]:
    with Loop(()) as loop:
        yield loop


def _do_nothing(*args: object) -> None: ...


def _refuse(*args: object) -> dict[str, object]:
    return {"refused": "run"}


def _probe(
    loop: Loop, address: tuple[Any, ...], meanwhile: Callable[[], None] = _do_nothing
) -> bool:
    """Return what a probe says; `meanwhile` is called when the kernel has accepted it."""
    answers: list[bool] = []
    Probe(loop, address, answers.append)
    loop.turn(lambda event: None)
    meanwhile()
    while not answers:
        loop.turn(lambda event: None)
    (answer,) = answers
    return answer


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_probe_tells_whether_nobody_listens_any_more(loop: Loop, host: str) -> None:
    listening = listen((host, 0, 0, 0) if ":" in host else (host, 0))
    address = listening.getsockname()
    listener = Listener(loop, listening, Credentials("", b""), _refuse, _do_nothing, _do_nothing)
    assert _probe(loop, address) is False
    listener.close()
    assert _probe(loop, address) is True


def test_a_probe_that_comes_while_a_launcher_dies_sees_it_dead(loop: Loop) -> None:
    """The kernel closes the connections of a process first, and then what listens."""
    listening = listen(("127.0.0.1", 0))
    assert _probe(loop, listening.getsockname(), listening.close) is True


def test_a_probe_that_is_reset_before_it_looks_sees_it_dead_too(loop: Loop) -> None:
    listening = listen(("127.0.0.1", 0))
    answers: list[bool] = []
    Probe(loop, listening.getsockname(), answers.append)
    listening.close()  # the kernel had accepted it already
    while not answers:
        loop.turn(lambda event: None)
    assert answers == [True]


def test_a_probe_of_a_launcher_that_stands_still_proves_nothing(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "_PROBE_S", 0.02)
    with listen(("127.0.0.1", 0)) as listening:
        assert _probe(loop, listening.getsockname()) is False


def test_a_probe_that_is_cancelled_tells_nothing(loop: Loop) -> None:
    listening = listen(("127.0.0.1", 0))
    answers: list[bool] = []
    Probe(loop, listening.getsockname(), answers.append).cancel()
    loop.set_timer(lambda: None, 0.0)
    loop.turn(lambda event: None)
    listening.close()
    assert answers == []
