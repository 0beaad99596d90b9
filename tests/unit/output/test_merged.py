"""One file for both streams of a worker: a link first, then lines in the order of arrival."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from launcher.output import merged
from launcher.output.files import LogFile
from launcher.output.merged import MergedLog


class Console:
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


class Desk:
    """A worker's three files, and the clock."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr("time.monotonic", lambda: self.now)
        self.paths = {name: str(folder / f"rank_00.{name}") for name in ("out", "err", "log")}
        self.console: Any = Console()
        self.own = {name: LogFile(self.paths[name], self.console) for name in ("out", "err")}
        self.merged = MergedLog(self.paths, self.console)

    def write(self, stream: str, data: bytes) -> None:
        self.own[stream].write(data)
        self.merged.write(stream, data)

    @property
    def text(self) -> bytes:
        return Path(self.paths["log"]).read_bytes()

    @property
    def is_link(self) -> bool:
        return os.path.islink(self.paths["log"])


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    return Desk(tmp_path, monkeypatch)


@pytest.mark.parametrize("stream", ["out", "err"])
def test_one_stream_alone_is_written_once(desk: Desk, stream: str) -> None:
    for _ in range(3):
        desk.write(stream, b"line\npart of")
    desk.merged.close()
    assert desk.is_link
    assert desk.text == b"line\npart of" * 3


@pytest.mark.parametrize("first", ["out", "err"])
def test_both_streams_stand_in_the_order_of_their_arrival(desk: Desk, first: str) -> None:
    second = {"out": "err", "err": "out"}[first]
    desk.write(first, b"1\n2\n")
    desk.write(second, b"3\n")
    desk.write(first, b"4\n")
    assert not desk.is_link
    assert desk.text == b"1\n2\n3\n4\n"
    assert Path(desk.paths[first]).read_bytes() == b"1\n2\n4\n"


def test_a_line_that_comes_in_two_parts_is_not_torn(desk: Desk) -> None:
    desk.write("out", b"begin\n")
    desk.write("err", b"a ")
    desk.write("out", b"between\n")
    assert desk.merged.has_parts
    desk.write("err", b"line\n")
    assert desk.text == b"begin\nbetween\na line\n"
    assert not desk.merged.has_parts


def test_a_line_that_stands_unfinished_is_there_soon_and_ended_by_what_comes(desk: Desk) -> None:
    desk.write("out", b"begin\n")
    desk.write("err", b"\r10%")
    desk.now = 0.1
    desk.merged.flush()
    assert desk.text == b"begin\n"
    desk.now = 0.25
    desk.merged.flush()
    assert desk.text == b"begin\n\r10%"
    desk.write("err", b"\r20%")  # it goes on where it stands, at once
    desk.write("out", b"step\n")
    desk.write("err", b"\r30%\n")
    assert desk.text == b"begin\n\r10%\r20%\nstep\n\r30%\n"


def test_what_is_unfinished_at_the_end_is_there(desk: Desk) -> None:
    desk.write("out", b"no newline")
    desk.write("err", b"error")
    desk.merged.close()
    assert desk.text == b"no newline\nerror"


def test_a_part_that_is_too_long_to_be_kept_is_written(desk: Desk) -> None:
    desk.write("err", b"begin\n")
    desk.write("out", b"x" * 100_000)
    assert desk.text == b"begin\n" + b"x" * 100_000
    desk.write("out", b"y\n")
    assert desk.text.endswith(b"xy\n")


def test_of_a_long_first_stream_only_the_place_is_named(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merged, "_LONGEST_COPY", 10)
    desk.write("out", b"eleven byte\n")
    desk.write("err", b"error\n")
    assert desk.text == b"[launcher] the first 12 bytes are in rank_00.out alone\nerror\n"


def test_where_there_are_no_links_it_is_a_file_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise OSError(errno.EPERM, "not here")

    monkeypatch.setattr(os, "symlink", refuse)
    desk = Desk(tmp_path, monkeypatch)
    desk.write("out", b"1\n")
    desk.write("err", b"2\n")
    assert desk.text == b"1\n2\n"


def test_a_file_that_cannot_be_made_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(tmp_path, monkeypatch)
    os.unlink(desk.paths["log"])
    os.mkdir(desk.paths["log"])
    for _ in range(2):
        desk.write("out", b"1\n")
        desk.write("err", b"2\n")
    assert desk.console.said == [
        f"cannot write {desk.paths['log']}: Is a directory; the run goes on without"
    ]
