"""What a host's supervisor reads: as much as a rank takes, and the caller hears how much."""

from __future__ import annotations

import binascii
import os
from collections.abc import Iterator, Mapping

import pytest

from launcher.engines.remote import Input

PIPE_BYTES = 64 << 10


class Caller:
    """Who hears what has been taken, if the connection takes the message."""

    def __init__(self) -> None:
        self.num_taken = 0
        self.is_blocked = False

    def offer(self, message: Mapping[str, object]) -> bool:
        if self.is_blocked:
            return False
        self.num_taken += int(str(message["taken"]))
        return True


@pytest.fixture
def stdin() -> Iterator[Input]:
    made = Input()
    yield made
    made.close()
    os.close(made.read_end)


def test_it_waits_for_the_reader_and_tells_what_that_took(stdin: Input) -> None:
    caller, data = Caller(), os.urandom(PIPE_BYTES + 10)
    stdin.take(binascii.b2a_base64(data, newline=False))
    stdin.take(b"")
    stdin.flush(caller)
    assert caller.num_taken == PIPE_BYTES
    assert len(stdin.waiting) == 1
    read = os.read(stdin.read_end, PIPE_BYTES)
    stdin.flush(caller)
    assert (caller.num_taken, stdin.waiting) == (len(data), [])
    assert read + os.read(stdin.read_end, PIPE_BYTES) == data
    assert os.read(stdin.read_end, 1) == b""


def test_what_could_not_be_told_is_told_later(stdin: Input) -> None:
    caller = Caller()
    for is_blocked, told in ((True, 0), (True, 0), (False, 9), (False, 12)):
        caller.is_blocked = is_blocked
        stdin.take(binascii.b2a_base64(b"abc"))
        stdin.flush(caller)
        assert caller.num_taken == told


def test_nobody_waits_for_a_reader_that_has_gone() -> None:
    caller, stdin = Caller(), Input()
    os.close(stdin.read_end)
    stdin.take(binascii.b2a_base64(b"abc"))
    stdin.flush(caller)
    assert (caller.num_taken, stdin.waiting) == (3, [])
    stdin.close()
