"""The note of a failing worker: ours, torch's, and what is left of one when the writer dies."""

from __future__ import annotations

import json

import pytest

from launcher.contract.error_file import WorkerError, decode, encode, encode_as_torch


def test_a_note_is_read_as_it_was_written() -> None:
    error = WorkerError("ValueError", "wrong\n\ud800 é", "Traceback ...\n", 12, exit_code=7)
    assert decode(encode(error)) == error


@pytest.mark.parametrize(
    "text",
    [
        *("", 'a "quoted" \\n', "".join(map(chr, range(0x20))), "\x7f\x80\u2028\uffff"),
        *("\ud800 alone", "\U0001f600", "\udc80\udcff"),
    ],
)
def test_a_note_is_json_whatever_the_texts_in_it_are(text: str) -> None:
    error = WorkerError(type="E", message=text, traceback=text, monotonic_ns=1, used_mpi=True)
    written = encode(error).encode("utf-8", "surrogatepass").decode("utf-8", "surrogatepass")
    assert json.loads(written) == {"version": 1, **error._asdict()}


def test_the_file_of_torchs_record_decorator_is_read() -> None:
    text = json.dumps(
        {
            "message": {
                "message": "ValueError: a: b",
                "extraInfo": {"py_callstack": "stack", "timestamp": "1"},
            }
        }
    )
    assert decode(text) == WorkerError(type="ValueError", message="a: b", traceback="stack")


def test_what_a_platform_gets_is_what_torchrun_would_write() -> None:
    text = encode_as_torch("ValueError: a\ud800", "stack", 3, 12.9)
    assert json.loads(text) == {
        "message": {
            "message": "ValueError: a\ud800",
            "extraInfo": {"py_callstack": "stack", "timestamp": "12"},
            "errorCode": 3,
        }
    }
    assert decode(text) == WorkerError(type="ValueError", message="a\ud800", traceback="stack")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "3", '"text"', "{}", '{"message": 3}', '{"type": "E"}']
)
def test_what_is_no_note_is_none(text: str) -> None:
    assert decode(text) is None


def test_a_note_that_is_cut_off_anywhere_raises_nothing() -> None:
    whole = encode(WorkerError("E", "m", "t", 1))
    assert all(decode(whole[:length]) is None for length in range(len(whole)))
