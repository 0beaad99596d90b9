"""The timeline: slices that lie in each other, one thread for each rank, nothing made up."""

from __future__ import annotations

from typing import Any

from launcher.record.happening import Happening
from launcher.record.timeline import make_timeline, rank_times


def attempt(at: float, number: int) -> Happening:
    fields = {"attempt": number, "world_size": 2, "nodes": 1, "node": 0, "ranks": [0, 1]}
    return Happening(at, "attempt", fields)


def of_rank(at: float, name: str, rank: int, number: int = 0, **more: Any) -> Happening:
    return Happening(at, name, {"attempt": number, "rank": rank, **more})


HAPPENINGS = [
    Happening(10.0, "run", {"run_id": "id", "hostname": "here"}),
    attempt(10.0, 0),
    of_rank(10.1, "rank_started", 0, pid=7),
    of_rank(10.2, "rank_started", 1, pid=8),
    of_rank(10.5, "first_output", 0),
    of_rank(12.0, "rank_ended", 1, pid=8, exit_code=3, how="exit code 3", joined=10.4),
    Happening(12.1, "failure", {"attempt": 0, "summary": "rank 1 failed"}),
    of_rank(12.5, "rank_ended", 0, pid=7, exit_code=143, how="killed by SIGTERM (15)"),
    Happening(12.6, "restart", {"attempt": 1, "delay_s": 0.4}),
    attempt(13.0, 1),
    of_rank(13.1, "rank_started", 0, 1, pid=17),
    of_rank(13.1, "rank_ended", 1, 1, pid=0, exit_code=126, how="exit code 126"),
    Happening(15.0, "end", {"status": "failed"}),
]


def test_each_attempt_is_a_slice_that_ends_with_its_last_rank() -> None:
    events = make_timeline(HAPPENINGS)["traceEvents"]
    slices = [event for event in events if event["ph"] == "X" and event["tid"] == 0]
    found = [(event["name"], event["ts"], event["dur"]) for event in slices]
    assert found == [("attempt 0", 10_000_000, 2_500_000), ("attempt 1", 13_000_000, 2_000_000)]


def test_what_a_rank_did_lies_in_its_slice() -> None:
    events = make_timeline(HAPPENINGS)["traceEvents"]
    ranks = {tid: [e for e in events if e["ph"] == "X" and e["tid"] == tid] for tid in (1, 2)}
    assert [(e["name"], e["ts"], e["dur"]) for e in ranks[1]] == [
        ("attempt 0", 10_100_000, 2_400_000),
        ("until its first output", 10_100_000, 400_000),
        ("attempt 1", 13_100_000, 1_900_000),  # it had not ended
    ]
    assert [(e["name"], e["dur"]) for e in ranks[2]] == [
        ("attempt 0", 1_800_000),
        ("until it joined", 200_000),
    ]


def test_moments_and_names_are_there() -> None:
    events = make_timeline(HAPPENINGS)["traceEvents"]
    assert [(e["name"], e["ts"]) for e in events if e["ph"] == "i"] == [
        ("failure", 12_100_000),
        ("restart", 12_600_000),
    ]
    assert [e["args"]["name"] for e in events if e["ph"] == "M"] == [
        "node 0 (here)",
        "launcher",
        "rank 0",
        "rank 1",
    ]


def test_a_run_without_an_attempt_has_an_empty_timeline() -> None:
    assert make_timeline([])["traceEvents"] == []
    events = make_timeline([Happening(1.0, "end", {})])["traceEvents"]
    assert [event["ph"] for event in events] == ["M", "M"]


def test_the_times_of_a_rank_are_those_of_its_last_process() -> None:
    again = [of_rank(14.0, "rank_started", 0, 1, pid=18), of_rank(14.2, "first_output", 0, 1)]
    times = rank_times([*HAPPENINGS, *again], 1)
    assert (times[0]["pid"], times[0]["started"], times[0]["first_output"]) == (18, 14.0, 14.2)
    assert times[0]["ended"] is None
    assert (times[1]["started"], times[1]["exit_code"]) == (None, 126)
