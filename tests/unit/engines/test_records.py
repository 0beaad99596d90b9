"""Messages among output: nothing of either is lost, wherever the stream is cut."""

from __future__ import annotations

import json

import pytest

from launcher.engines.records import RecordReader
from launcher.engines.remote import RECORD

MARK = "abc123"


def record(**message: object) -> bytes:
    return RECORD + f"{MARK} {json.dumps(message)}\n".encode()


def test_messages_are_taken_out_and_output_stays_as_it_is() -> None:
    reader = RecordReader(MARK)
    data = b"one\n" + record(a=1) + b"two" + record(b=2) + b" goes on\n"
    assert reader.feed(data) == (b"one\ntwo goes on\n", [{"a": 1}, {"b": 2}])


@pytest.mark.parametrize("size", [1, 2, 3, 7, 20])
def test_it_does_not_matter_where_the_stream_is_cut(size: int) -> None:
    reader = RecordReader(MARK)
    data = b"x\x1ey\n" + record(a=1) + b"\x1eabc" + record(b="\n") + b"end"
    output, messages = b"", []
    for start in range(0, len(data), size):
        more, told = reader.feed(data[start : start + size])
        output += more
        messages += told
    assert (output, messages) == (b"x\x1ey\n\x1eabcend", [{"a": 1}, {"b": "\n"}])


def test_the_mark_of_another_run_is_output() -> None:
    other = RECORD + b"other {}\n"
    assert RecordReader(MARK).feed(other) == (other, [])
