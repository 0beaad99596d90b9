"""Processes that are to be ranks themselves: all of them are told the same port, or none."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from launcher.attached import crew, proxy
from launcher.attached.crew import Crew


@pytest.fixture
def sockets() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def _make_crew(expected: int, sockets: ExitStack) -> tuple[Crew, list[socket.socket]]:
    """Make a crew to which two processes have said their first words; return these, too."""

    def make() -> socket.socket:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return sockets.enter_context(made)

    listener = make()
    listener.bind(f"\0launcher-test-{os.getpid()}")
    listener.listen()
    come = [make(), make()]
    for connection in come:
        connection.connect(listener.getsockname())
        connection.send(proxy.HELLO + b"0 -")
    made = Crew(listener, expected)
    sockets.callback(lambda: [link.connection.close() for link in made.links])
    return made, come


def test_all_of_them_are_told_the_same_port(sockets: ExitStack) -> None:
    made, come = _make_crew(2, sockets)
    made.send_away("a reason", 4711)
    assert [connection.recv(100) for connection in come] == [b"P4711 a reason"] * 2


def test_no_port_is_told_where_one_may_come_later_who_would_be_told_another(
    sockets: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crew, "_LATE_S", 0.01)
    made, come = _make_crew(3, sockets)
    made.send_away("a reason", 4711)
    assert [connection.recv(100) for connection in come] == [b"P0 a reason"] * 2
