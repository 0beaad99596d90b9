"""Requests to a run and its answers, and what is neither."""

from __future__ import annotations

import json
import signal

import pytest

from launcher.ctl.messages import (
    Answer,
    AskStacks,
    AskStatus,
    Done,
    Refused,
    Request,
    RunStatus,
    SendSignal,
    Stop,
    WorkerStatus,
    decode,
    encode,
)

STATUS = RunStatus(
    run_id="20260101-a1",
    pid=17,
    script="train.py é \udcff",
    age_s=7.5,
    attempt=1,
    workers=(WorkerStatus(0, 18, "running", 0.5), WorkerStatus(1, 0, "starting", None)),
)


@pytest.mark.parametrize(
    "message",
    [
        AskStatus(),
        AskStacks(),
        Stop(),
        SendSignal(10),
        STATUS,
        STATUS._replace(workers=()),
        Done(),
        Done("rank 0: is at train.py:3"),
        Refused("no"),
    ],
    ids=repr,
)
def test_every_message_is_one_line_and_read_as_it_was_written(message: Request | Answer) -> None:
    line = encode(message)
    assert (line.count(b"\n"), line[-1:]) == (1, b"\n")
    read = decode(line)
    assert (type(read), read) == (type(message), message)


def test_a_field_of_another_version_is_left_out() -> None:
    given = {**json.loads(encode(STATUS)), "colour": "green"}
    assert decode(json.dumps(given).encode()) == STATUS


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"\n", b"{}", b"[]", b"3", b"null", b'"stop"', b"\xff", b"[" * 60_000),
        *(b'{"type": "nonsense"}', b'{"type": []}', b'{"type": "signal"}', b'{"type": "run"}'),
        *(b'{"type": "signal", "signum": %s}' % value for value in (b'"x"', b"null", b"[]")),
        *(b'{"type": "signal", "signum": %s}' % value for value in (b"999", b"1e99", b"Infinity")),
        encode(STATUS).replace(b"[[0, 18", b"[[18"),
        encode(STATUS)[:-9],
    ],
)
def test_everything_else_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):
        decode(data)


def test_a_signal_is_sent_as_a_number() -> None:
    assert json.loads(encode(SendSignal(signal.SIGUSR1))) == {"type": "signal", "signum": 10}
