"""Events for a program: whole lines, and no wait for one that does not read."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from launcher.errors import UsageError
from launcher.record import follower
from launcher.record.follower import Follower, keep_for_ourselves


class Loop:
    """Waits for nothing: who would write is not called."""

    def watch(self, fd: int, reader: object, *, for_writing: bool = False) -> None:
        pass

    def unwatch(self, fd: int) -> None:
        pass


def read_all(fd: int) -> list[dict[str, Any]]:
    with open(fd, "rb") as file:
        return [json.loads(line) for line in file.read().splitlines()]


def test_events_are_lines_of_json() -> None:
    read_end, write_end = os.pipe()
    loop: Any = Loop()
    told = Follower(write_end, loop)
    told.tell({"event": "end", "reason": "two\nlines \udcff"})
    told.close()
    os.close(write_end)
    assert read_all(read_end) == [{"event": "end", "reason": "two\nlines \udcff"}]


def test_a_reader_that_does_not_read_loses_events_and_learns_how_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(follower, "_MOST_PENDING_BYTES", 300_000)
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    loop: Any = Loop()
    told = Follower(write_end, loop)
    for number in range(1000):
        told.tell({"event": "e", "number": number, "text": "x" * 1000})
    data = b""
    while told._writer.pending_bytes:  # the reader is there again
        data += os.read(read_end, 1 << 20)
        told._writer._outlet._flush()
    told.tell({"event": "last"})
    told.close()
    os.close(write_end)
    with open(read_end, "rb") as file:
        data += file.read()
    events = [json.loads(line) for line in data.splitlines()]
    assert [event["number"] for event in events[:-1]] == list(range(len(events) - 1))
    assert events[-1] == {"event": "last", "dropped": 1000 - (len(events) - 1)}
    assert len(events) > 100


def test_a_reader_that_has_gone_is_no_error() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    loop: Any = Loop()
    told = Follower(write_end, loop)
    for _ in range(2):
        told.tell({"event": "end"})
    told.close()
    os.close(write_end)


def test_a_descriptor_is_kept_from_what_is_started() -> None:
    read_end, write_end = os.pipe()
    os.set_inheritable(write_end, True)
    keep_for_ourselves(write_end)
    assert not os.get_inheritable(write_end)
    with pytest.raises(UsageError, match=f"--events {read_end}: .* cannot be written"):
        keep_for_ourselves(read_end)
    os.close(read_end)
    os.close(write_end)
    with pytest.raises(UsageError, match="Bad file descriptor"):
        keep_for_ourselves(write_end)
