"""Requests to a run and its answers, and what is neither."""

from __future__ import annotations

import json
import signal

import pytest

from launcher.ctl.messages import (
    Answer,
    AskLogs,
    AskStacks,
    AskStatus,
    AskUse,
    Attach,
    Done,
    Logs,
    Refused,
    Request,
    RunStatus,
    SendSignal,
    Stop,
    Use,
    WorkerStatus,
    combine,
    decode,
    encode,
)
from launcher.runs.parts import Part
from launcher.stats.figures import NodeUse, RankUse, Sample

STATUS = RunStatus(
    run_id="20260101-a1",
    pid=17,
    script="train.py é \udcff",
    age_s=7.5,
    attempt=1,
    workers=(WorkerStatus(0, 18, "running", 0.5), WorkerStatus(1, 0, "starting", None)),
)
SAMPLE = Sample(
    1.5,
    0,
    NodeUse("here", 0.5, 2, 10, 100, 0, 50),
    (RankUse(0, 18, 1.0, 0.5, 300, None, 400, 1, 1, 0, 0),),
)


@pytest.mark.parametrize(
    "message",
    [
        AskStatus(),
        AskStacks(),
        AskUse(),
        Attach(),
        Stop(),
        SendSignal(10),
        STATUS,
        STATUS._replace(workers=()),
        Done(),
        Done("rank 0: is at train.py:3"),
        Refused("no"),
        AskLogs((2, 3), "attempt_1", {"rank_02.out": 7}, 1000),
        Logs(),
        Logs((".",), (Part("rank_02.out", 7, bytes(range(256)), 900),)),
        Use(()),
        Use((SAMPLE,)),
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
        *(
            b'{"type": "read", "ranks": %s, "folder": ".", "known": %s, "most_bytes": %s}' % values
            for values in (
                (b"3", b"{}", b"9"),
                (b"[0]", b'{"rank_00.out": "x"}', b"9"),
                (b"[0]", b"[1]", b"9"),
                (b"[0]", b"{}", b"Infinity"),
            )
        ),
        b'{"type": "logs", "folders": [], "parts": [["rank_00.out", 0, 5, 5]]}',
        encode(STATUS)[:-9],
    ],
)
def test_everything_else_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):
        decode(data)


def test_a_signal_is_sent_as_a_number() -> None:
    assert json.loads(encode(SendSignal(signal.SIGUSR1))) == {"type": "signal", "signum": 10}


def test_the_status_of_several_nodes_has_all_ranks_their_memory_and_the_lowest_rate() -> None:
    own = STATUS._replace(memory=100, steps_per_s=2.0)
    other = STATUS._replace(workers=(WorkerStatus(2, 20, "running", None),), memory=50)
    slow = other._replace(workers=(), memory=None, steps_per_s=1.5)
    both = combine(("here", own), [("there", other), ("over", slow)])
    assert isinstance(both, RunStatus)
    assert [worker.rank for worker in both.workers] == [0, 1, 2]
    assert (both.num_nodes, both.memory, both.steps_per_s) == (3, 150, 1.5)


def test_the_figures_of_several_nodes_stand_side_by_side() -> None:
    both = combine(
        ("here", Use((SAMPLE,))), [("there", Use((SAMPLE,))), ("over", Refused("no answer"))]
    )
    assert both == Use((SAMPLE, SAMPLE))
