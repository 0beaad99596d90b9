"""Our stdin on its way to a reader elsewhere, and what has been typed there before it came here."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from launcher.output.console import Console, heed_answers
from launcher.output.input import Input, Pipe
from launcher.system.loop import Loop

PIPE_BYTES = 64 << 10


def nothing(event: object) -> None:
    pass


@pytest.fixture
def loop() -> Iterator[Loop]:
    with Loop([]) as made:
        yield made


@pytest.fixture
def keys() -> Iterator[int]:
    """The write end of a pipe that is our stdin for the test."""
    saved = os.dup(0)
    read_end, write_end = os.pipe()
    os.dup2(read_end, 0)
    os.close(read_end)
    yield write_end
    os.dup2(saved, 0)
    os.close(saved)


def test_as_much_is_read_as_a_pipe_holds_until_the_reader_reads(loop: Loop, keys: int) -> None:
    pipe = Pipe(loop)
    source = Input(loop, pipe)
    os.write(keys, b"a" * PIPE_BYTES)
    for _ in range(4):
        loop.turn(nothing)
    os.write(keys, b"b" * PIPE_BYTES)
    os.close(keys)
    loop.set_timer(lambda: None, 0.0)
    data = b""
    while part := os.read(pipe.read_end, PIPE_BYTES):
        data += part
        for _ in range(5):
            loop.set_timer(lambda: None, 0.0)
            loop.turn(nothing)
    assert data == b"a" * PIPE_BYTES + b"b" * PIPE_BYTES
    source.close()
    os.close(pipe.read_end)


def test_nobody_waits_for_a_reader_that_has_gone(loop: Loop, keys: int) -> None:
    pipe = Pipe(loop)
    source = Input(loop, pipe)
    os.close(pipe.read_end)
    os.write(keys, b"abc\n")
    loop.turn(nothing)
    os.write(keys, b"more\n")
    loop.turn(nothing)
    source.close()
    pipe.close()
    os.close(keys)


def test_a_question_has_ended_before_its_answer_can_be_read(loop: Loop, keys: int) -> None:
    read: list[bytes] = []
    console = Console(loop, {}, (1, 2))

    def note_end() -> None:
        os.set_blocking(0, False)
        with pytest.raises(BlockingIOError):
            os.read(0, 100)
        read.append(b"?")

    console.end_question = note_end
    with heed_answers(loop, console, {"LAUNCHER_TERMINAL": "80 24 in out"}):
        for text in (b"Bob\n", b"half"):  # the beginning of a line is no answer
            os.write(keys, text)
            loop.turn(nothing)
            read.append(os.read(0, 100))
        os.close(keys)
        loop.turn(nothing)
        assert os.read(0, 100) == b""
    assert read == [b"?", b"Bob\n", b"half"]


def test_a_pipe_that_nobody_types_into_stays_our_stdin(loop: Loop, keys: int) -> None:
    with heed_answers(loop, Console(loop, {}), {"LAUNCHER_TERMINAL": "80 24 out"}):
        os.write(keys, b"abc\n")
        assert os.read(0, 100) == b"abc\n"
    os.close(keys)
