"""Bytes to lines: whole lines, carriage returns, long lines, the tail."""

from __future__ import annotations

import random

import pytest

from launcher.output.lines import LineSplitter, Tail, apply_carriage_returns


def test_only_whole_lines_come_out_and_the_rest_is_kept() -> None:
    splitter = LineSplitter()
    assert splitter.feed(b"one\ntw") == b"one\n"
    assert splitter.unfinished == b"tw"
    assert splitter.feed(b"o") == b""
    assert splitter.feed(b"\nthree\nfour") == b"two\nthree\n"
    assert splitter.finish() == b"four\n"
    assert splitter.finish() == b""


def test_lines_are_the_same_however_the_bytes_are_cut() -> None:
    chance = random.Random(1)
    text = b"".join(bytes(chance.choices(b"ab\n", k=chance.randrange(30))) for _ in range(200))
    for _ in range(50):
        splitter, out, at = LineSplitter(), b"", 0
        while at < len(text):
            size = chance.randrange(1, 40)
            out += splitter.feed(text[at : at + size])
            at += size
        assert (out + splitter.finish()).rstrip(b"\n") == text.rstrip(b"\n")


def test_a_line_that_is_too_long_comes_out_in_pieces() -> None:
    splitter = LineSplitter(max_line_bytes=10)
    assert splitter.feed(b"x" * 25) == b"x" * 25 + b"\n"
    assert splitter.feed(b"123456789") == b""
    assert splitter.feed(b"0") == b"1234567890\n"
    assert splitter.unfinished == b""


def test_a_progress_bar_that_wipes_itself_out_leaves_no_empty_line() -> None:
    splitter = LineSplitter()
    for data in (b"\r 10%", b"\r100%", b"\r    \r"):
        assert splitter.feed(data) == b""
    assert splitter.finish() == b""
    splitter.feed(b"   ")
    assert splitter.finish() == b"   \n"  # spaces that nobody rewrote are the rank's own


def test_a_progress_bar_that_clears_its_line_leaves_no_empty_line() -> None:
    splitter = LineSplitter()
    for data in (b"\r 10%", b"\r100%", b"\r\x1b[K"):
        assert splitter.feed(data) == b""
    assert splitter.finish() == b""


def test_a_line_that_is_rewritten_for_hours_takes_no_memory() -> None:
    splitter = LineSplitter()
    for percent in range(1000):
        assert splitter.feed(b"\r%d%%" % percent) == b""
    assert splitter.unfinished in (b"999%", b"\r999%")
    assert splitter.is_rewritten
    assert apply_carriage_returns(splitter.feed(b"\nnext")) == b"999%\n"
    assert not splitter.is_rewritten


def test_a_windows_line_end_is_no_progress_bar() -> None:
    splitter = LineSplitter()
    assert splitter.feed(b"line\r") == b""
    assert splitter.feed(b"\n") == b"line\r\n"
    assert apply_carriage_returns(b"line\r\n") == b"line\n"


@pytest.mark.parametrize(
    ("block", "shown"),
    [
        (b"a\rb\n", b"b\n"),
        (b"a\r\n", b"a\n"),
        (b"\ra\r\rb\r\n", b"b\n"),
        (b"plain\n", b"plain\n"),
        (b"a\rb\nc\n", b"b\nc\n"),
    ],
)
def test_of_a_rewritten_line_the_last_text_is_shown(block: bytes, shown: bytes) -> None:
    assert apply_carriage_returns(block) == shown


def test_the_tail_keeps_the_last_lines_and_little_else() -> None:
    tail = Tail(max_bytes=100)
    assert tail.lines(3) == ()
    for i in range(1000):
        tail.feed(b"line %d\n" % i)
    assert tail.lines(2) == ("line 998", "line 999")
    assert len(tail.text()) <= 200
    tail.feed(b"x" * 1000)
    assert tail.text() == "x" * 100
    tail.feed(b"\xff\n")
    assert tail.lines(1)[0].endswith("\\xff")
