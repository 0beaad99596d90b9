"""Callers that hear what a console shows; none of them can hold it up."""

from __future__ import annotations

import io
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from launcher.ctl.attach import Audience, attach
from launcher.ctl.messages import Attach, Done, decode, encode
from launcher.system.loop import Loop


class FakeConsole:
    """Passes on what the test lets it show."""

    fold = None

    def __init__(self) -> None:
        self.tap: Callable[[str, bytes], None] | None = None
        self.rows = b""

    def hide_live(self) -> None:
        self.show("out", b"hidden" if self.rows else b"")

    def resize(self) -> None:
        self.show("out", self.rows)

    def set_tap(self, tap: Callable[[str, bytes], None] | None) -> None:
        self.tap = tap

    def show(self, stream: str, data: bytes) -> None:
        if self.tap is not None and data:
            self.tap(stream, data)


@pytest.fixture
def console() -> FakeConsole:
    return FakeConsole()


@pytest.fixture
def loop() -> Iterator[Loop]:
    with Loop(()) as loop:
        yield loop


@pytest.fixture
def audience(loop: Loop, console: FakeConsole) -> Audience:
    consoles: Any = (console,)
    return Audience(loop, consoles)


def join(audience: Audience) -> socket.socket:
    """Return the caller's end of a connection that has been answered."""
    ours, theirs = socket.socketpair()
    ours.settimeout(5)
    audience.add(theirs)
    answer = b""
    while not answer.endswith(b"\n"):
        answer += ours.recv(1)
    assert decode(answer) == Done()
    return ours


def frames(data: bytes) -> list[tuple[bytes, bytes]]:
    found = []
    while data:
        stream, length = struct.unpack("!cI", data[:5])
        found.append((stream, data[5 : 5 + length]))
        data = data[5 + length :]
    assert found.pop() == (b".", b"")
    return found


def read_all(caller: socket.socket) -> bytes:
    data = b""
    while more := caller.recv(1 << 16):
        data += more
    caller.close()
    return data


def test_every_caller_hears_both_streams_from_then_on(
    audience: Audience, console: FakeConsole
) -> None:
    first = join(audience)
    console.show("out", b"[0] one\n")
    second = join(audience)
    console.show("err", b"[0] two\n")
    audience.close()
    assert frames(read_all(first)) == [(b"o", b"[0] one\n"), (b"e", b"[0] two\n")]
    assert frames(read_all(second)) == [(b"e", b"[0] two\n")]
    assert console.tap is None


def test_a_caller_hears_of_live_rows_as_if_nobody_had_drawn_them(
    audience: Audience, console: FakeConsole
) -> None:
    first = join(audience)
    console.rows = b"50%"
    second = join(audience)
    audience.close()
    assert frames(read_all(first)) == [(b"o", b"hidden"), (b"o", b"50%")]
    assert frames(read_all(second)) == [(b"o", b"50%")]


def test_a_caller_that_has_gone_is_forgotten(
    audience: Audience, console: FakeConsole, loop: Loop
) -> None:
    join(audience).close()
    loop.turn(lambda event: None)
    assert console.tap is None


def test_a_caller_that_goes_while_something_is_shown_is_forgotten(
    audience: Audience, console: FakeConsole
) -> None:
    join(audience).close()
    console.show("out", b"x")
    console.show("out", b"x")
    assert console.tap is None


def test_a_caller_that_does_not_read_misses_some_and_is_told_so(
    audience: Audience, console: FakeConsole, loop: Loop
) -> None:
    caller = join(audience)
    for _ in range(100):
        console.show("out", b"x" * 50_000)
    data, is_told = bytearray(), threading.Event()

    def read() -> None:
        while more := caller.recv(1 << 16):
            data.extend(more)
            if b"bytes were left out" in data:
                is_told.set()
        caller.close()

    reader = threading.Thread(target=read)
    reader.start()
    while not is_told.is_set():
        loop.set_timer(is_told.is_set, 0.01)  # so that the loop does not wait for ever
        loop.turn(lambda event: None)
    console.show("out", b"end\n")
    audience.close()
    reader.join()
    heard = frames(bytes(data))
    assert heard[-1] == (b"o", b"end\n")
    assert b"bytes were left out" in heard[-2][1]
    assert sum(len(text) for _, text in heard) < 100 * 50_000


@pytest.mark.parametrize("has_end", [True, False])
def test_the_command_writes_what_it_hears_until_the_run_ends(has_end: bool) -> None:
    ends = [struct.pack("!cI", b".", 0) if has_end else b""]
    name = f"launcher-test/{os.urandom(8).hex()}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0" + name)
        listener.listen()
        asked: list[bytes] = []

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                asked.append(connection.recv(100))
                connection.sendall(encode(Done()))
                connection.sendall(struct.pack("!cI", b"e", 3) + b"oh\n")
                connection.sendall(struct.pack("!cI", b"o", 3) + b"hi\n")
                connection.sendall(ends.pop(0))

        server = threading.Thread(target=serve)
        server.start()
        out, err = io.BytesIO(), io.BytesIO()
        assert attach(name, 5.0, out, err)
        server.join()
    assert decode(asked[0]) == Attach()
    assert out.getvalue() == b"hi\n"
    assert (err.getvalue() == b"oh\n") == has_end
    assert (b"the end is missing" in err.getvalue()) != has_end


def test_a_run_that_is_not_there_is_no_success() -> None:
    assert not attach(f"launcher-test/{os.urandom(8).hex()}", 5.0, io.BytesIO(), io.BytesIO())
