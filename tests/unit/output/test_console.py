"""The launcher's own streams: they never block, and a slow reader is told what it has missed."""

from __future__ import annotations

import fcntl
import os
import re
import resource
import select
import socket
import tty
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from launcher.output.console import HIGH_WATER_BYTES, Console
from launcher.output.fold import Fold
from launcher.system.loop import Loop
from tests.conftest import wait_until


class Streams(NamedTuple):
    loop: Loop
    console: Console
    out: int  # where our stdout can be read
    err: int

    def read(self, fd: int, until: bytes = b"") -> bytes:
        data = b""
        while until not in data or not data:
            data += os.read(fd, 1 << 20)
        return data


@pytest.fixture
def streams(capfd: pytest.CaptureFixture[str]) -> Iterator[Streams]:
    """A console on two pipes, which stand in for descriptors 1 and 2 while it is made."""
    saved = os.dup(1), os.dup(2)
    (out, out_write), (err, err_write) = os.pipe(), os.pipe()
    with Loop([]) as loop:
        os.dup2(out_write, 1)
        os.dup2(err_write, 2)
        try:
            console = Console(loop, {})
        finally:
            os.dup2(saved[0], 1)
            os.dup2(saved[1], 2)
        yield Streams(loop, console, out, err)
        for fd in (out, err):
            os.close(fd)
        console.close()
    for fd in (*saved, out_write, err_write):
        os.close(fd)


def test_blocks_go_to_their_streams_and_our_own_words_to_stderr(streams: Streams) -> None:
    streams.console.show("out", b"[0] a\n")
    streams.console.show("err", b"[0] b\n")
    streams.console.say("two\nlines")
    assert streams.read(streams.out) == b"[0] a\n"
    assert streams.read(streams.err, b"lines\n") == b"[0] b\n[launcher] two\n[launcher] lines\n"


def test_a_line_in_parts_is_one_line_unless_somebody_else_writes(streams: Streams) -> None:
    console, first, second = streams.console, object(), object()
    console.show_part(first, "out", b"[0] load")
    console.show_part(first, "out", b"ing")
    console.say("on another stream")
    assert console.goes_on(first, "out")
    console.show_part(first, "out", b" done\n", is_last=True)
    console.show_part(second, "out", b"[1] half")
    assert not console.goes_on(first, "out")
    console.show("out", b"[0] next\n")
    assert not console.goes_on(second, "out")
    expected = b"[0] loading done\n[1] half\n[0] next\n"
    assert streams.read(streams.out, b"next\n") == expected


def test_half_a_line_on_stdout_is_ended_where_stderr_is_the_same_pipe() -> None:
    read_end, write_end = os.pipe()
    with Loop([]) as loop:
        console = Console(loop, {}, (write_end, write_end))
        console.show_part(console, "out", b"[0] half")
        console.say("word")
        assert os.read(read_end, 100) == b"[0] half\n[launcher] word\n"
        console.close()
    for fd in (read_end, write_end):
        os.close(fd)


@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_slow_reader_of_both_streams_gets_whole_lines_in_their_order(is_terminal: bool) -> None:
    """A terminal and a pipe take a part of a block, and the other stream comes only behind it."""
    if is_terminal:
        read_end, write_end = os.openpty()
        tty.setraw(write_end)
    else:
        read_end, write_end = os.pipe()
    other = os.open(f"/proc/self/fd/{write_end}", os.O_WRONLY | os.O_NOCTTY)
    expected = b""
    with Loop([]) as loop:
        console = Console(loop, {}, (write_end, other))
        for number in range(100):
            for stream in ("out", "err"):
                block = b"".join(b"%s %d %d\n" % (stream.encode(), number, i) for i in range(500))
                console.show(stream, block)
                expected += block
        received = b""
        while len(received) < len(expected):
            received += os.read(read_end, 1 << 12)
            loop.set_timer(tuple, 0.0)  # there may be nothing to wait for
            loop.turn(lambda event: None)
        assert received == expected
        console.close()
    for fd in (read_end, write_end, other):
        os.close(fd)


def test_what_changes_is_drawn_when_a_late_reader_has_caught_up() -> None:
    read_end, write_end = os.openpty()
    tty.setraw(write_end)
    with Loop([]) as loop:
        console = Console(loop, {}, (write_end, write_end))
        console.show("out", b"line\n" * 20_000)
        console.show_live(0, "err", [b"bar 1/2"], (0, 0))
        received = bytearray()

        def is_drawn() -> bool:
            if select.select([read_end], [], [], 0)[0]:
                received.extend(os.read(read_end, 1 << 12))
            loop.set_timer(tuple, 0.0)  # there may be nothing to wait for
            loop.turn(lambda event: None)
            return b"bar 1/2" in received

        wait_until(is_drawn, "the bar")
        assert received.startswith(b"line\n" * 20_000)
        console.close()
    for fd in (read_end, write_end):
        os.close(fd)


def test_text_that_is_no_text_is_shown_all_the_same(streams: Streams) -> None:
    streams.console.say("\ud800 \udcff é")
    assert b"\\ud800" in streams.read(streams.err)


def test_a_full_reader_makes_us_ask_for_a_pause_and_then_skip_and_count(streams: Streams) -> None:
    console = streams.console
    line = b"x" * 999 + b"\n"
    count = 0
    while not console.full:
        console.show("out", line)
        count += 1
    assert count * 1000 > HIGH_WATER_BYTES
    assert not console.has_room
    console.start_skipping()
    assert console.has_room
    assert not console.full
    for _ in range(5):
        console.show("out", line)
    # The reader comes back: what was kept arrives whole, what was not is counted.
    received = os.read(streams.out, 1 << 20)
    while len(received) < count * 1000:
        streams.loop.turn(lambda event: None)  # the pipe is empty, and the rest waits for that
        received += os.read(streams.out, 1 << 20)
    assert received == line * count
    console.show("out", b"after\n")
    assert streams.read(streams.out) == b"after\n"
    assert b"5 lines were not shown" in streams.read(streams.err)


@pytest.fixture
def many_files() -> Iterator[None]:
    """A limit on open files as where many ranks need them."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limits[1] != resource.RLIM_INFINITY and limits[1] < 2048:
        pytest.skip(f"the limit on open files is {limits[1]}: an administrator must raise it")
    resource.setrlimit(resource.RLIMIT_NOFILE, (2048, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.usefixtures("many_files")
def test_a_descriptor_may_have_any_number() -> None:
    """`select` knows 1024 of them; a socket is written to piece by piece, after a look."""
    ours, theirs = socket.socketpair()
    high = fcntl.fcntl(ours.fileno(), fcntl.F_DUPFD_CLOEXEC, 1500)
    with Loop([]) as loop:
        console = Console(loop, {}, (high, high))
        console.show("out", b"a\n")
        console.say("b")
        console.close()
    assert theirs.recv(100) == b"a\n[launcher] b\n"
    os.close(high)
    ours.close()
    theirs.close()


def test_each_console_has_descriptors_of_its_own_and_no_live_line_for_a_program() -> None:
    """What an engine gives to its processes may be a terminal, and is read by the engine."""
    (master, slave), (read_end, write_end) = os.openpty(), os.pipe()
    with Loop([]) as loop:
        console = Console(loop, {"TERM": "xterm"}, (slave, write_end), is_plain=True)
        assert not console.is_tty("out")
        assert not console.colour
        console.show("out", b"a\n")
        console.say("b")
        console.close()
    assert os.read(master, 100) == b"a\r\n"
    assert os.read(read_end, 100) == b"[launcher] b\n"
    for fd in (master, slave, read_end, write_end):
        os.close(fd)


def test_a_pipe_that_leads_to_a_terminal_of_another_launcher_is_as_good_as_one() -> None:
    (out, out_write), (err, err_write) = os.pipe(), os.pipe()
    with Loop([]) as loop:
        console = Console(loop, {"LAUNCHER_TERMINAL": "30 10 err"}, (out_write, err_write))
        assert not console.is_tty("out") and console.is_tty("err")
        assert console.describe_terminal() == "30 10 err"
        assert console.size("err") == (30, 10)
        console.show_live(0, "err", [b"x" * 100])
        console.end_live(0, "err")
        console.close()
    assert os.read(err, 1000) == b"x" * 30 + b"\r\x1b[K"
    for fd in (out, out_write, err, err_write):
        os.close(fd)


@pytest.mark.parametrize(
    ("terminal", "end"), [("0 0 in", b""), ("0 0 in lines", b"\n")], ids=["parts", "whole lines"]
)
def test_a_question_that_is_answered_has_ended(terminal: str, end: bytes) -> None:
    (out, out_write), owner = os.pipe(), object()
    with Loop([]) as loop:
        console = Console(loop, {"LAUNCHER_TERMINAL": terminal}, (out_write, 2))
        console.show_part(owner, "out", b"[0] name? ")
        console.leave_part("out")
        assert not console.goes_on(owner, "out")
        console.show("out", b"[1] next\n")
        console.close()
    assert os.read(out, 1000) == b"[0] name? " + end + b"[1] next\n"
    for fd in (out, out_write):
        os.close(fd)


def test_a_terminal_of_an_engine_is_none_where_it_is_known_who_reads() -> None:
    master, slave = os.openpty()
    with Loop([]) as loop:
        assert not Console(loop, {"LAUNCHER_TERMINAL": "0 0 in"}, (slave, slave)).is_tty("out")
        assert Console(loop, {}, (slave, slave)).is_tty("out")
    for fd in (master, slave):
        os.close(fd)


@pytest.mark.parametrize("variable", ["", "30 10 out err"])
def test_both_streams_on_a_terminal_have_colours(variable: str) -> None:
    read_end, write_end = os.pipe()
    with Loop([]) as loop:
        console = Console(loop, {"LAUNCHER_TERMINAL": variable}, (write_end, write_end))
        assert console.colour == bool(variable)
        assert console.describe_terminal() == variable
        assert console.describe_terminal(is_typed=True) == f"{variable or '0 0'} in"
        console.close()
    for fd in (read_end, write_end):
        os.close(fd)


def test_quiet_is_our_own_voice_alone(streams: Streams) -> None:
    streams.console.is_quiet = True
    streams.console.say("nobody hears this")
    streams.console.show("err", b"[0] a\n")
    streams.console.print_err("the report\n")
    assert streams.read(streams.err, b"report\n") == b"[0] a\nthe report\n"


def test_each_line_begins_with_the_time_when_that_is_wanted(streams: Streams) -> None:
    streams.console.has_timestamps = True
    streams.console.show("out", b"[0] a\n[0] b\n")
    streams.console.say("c")
    streams.console.print_err("the report\n")
    stamp = rb"\d\d:\d\d:\d\d\.\d\d\d "
    assert re.fullmatch(stamp + rb"\[0\] a\n" + stamp + rb"\[0\] b\n", streams.read(streams.out))
    said = streams.read(streams.err, b"report\n")
    assert re.fullmatch(stamp + rb"\[launcher\] c\nthe report\n", said)


def test_a_line_in_parts_has_one_time(streams: Streams) -> None:
    streams.console.has_timestamps = True
    streams.console.show_part("me", "out", b"[0] load")
    streams.console.show_part("me", "out", b"ing")
    streams.console.show_part("me", "out", b" done\n", is_last=True)
    line = streams.read(streams.out, b"\n")
    assert re.fullmatch(rb"\d\d:\d\d:\d\d\.\d\d\d \[0\] loading done\n", line)


def test_folded_lines_stand_before_our_own_words_and_the_end(streams: Streams) -> None:
    console = streams.console
    console.fold = Fold(streams.loop, console.show, 3)
    console.show_lines(0, "err", b"[0] ", b"a\n")
    console.show_lines(1, "err", b"[1] ", b"a\n")
    console.say("words")
    console.show_lines(1, "err", b"[1] ", b"last\n")
    console.close()
    expected = b"[0-1] a\n[launcher] words\n[1] last\n"
    assert streams.read(streams.err, b"last\n") == expected


def test_who_listens_hears_all_that_is_written(streams: Streams) -> None:
    heard: list[tuple[str, bytes]] = []
    streams.console.set_tap(lambda stream, data: heard.append((stream, data)))
    streams.console.show("out", b"[0] a\n")
    streams.console.say("b")
    streams.console.set_tap(None)
    streams.console.show("out", b"[0] c\n")
    assert heard == [("out", b"[0] a\n"), ("err", b"[launcher] b\n")]
