"""Looks at this very process, which stands in for ranks; the heartbeats are the test's own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from launcher.contract.files import heartbeat_file, pace_file
from launcher.contract.pace import Pace, encode
from launcher.stats import sampler
from launcher.stats.figures import GpuUse
from launcher.stats.sampler import NodeSampler, Target
from launcher.system.usage import MemoryGauge, ProcessUse, Room


class Clock:
    """The time, which passes as the test says."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def node(clock: Clock) -> NodeSampler:
    return NodeSampler("here", clock, MemoryGauge([]))


def beat(error_file: Path, steps: int, waited_s: float = 0.0, **marks: float) -> None:
    pairs = {int(name[1:]): moment for name, moment in marks.items()}
    text = encode(Pace(steps, waited_s, pairs))
    Path(heartbeat_file(str(error_file))).write_bytes(text)


def test_a_look_tells_of_the_node_and_of_each_rank(node: NodeSampler, clock: Clock) -> None:
    target = Target(3, os.getpid(), None)
    clock.now += 2.0
    sample, news = node.look([target], 1)
    (rank,) = sample.ranks
    assert (sample.attempt, sample.node.host, rank.rank, rank.pid) == (1, "here", 3, os.getpid())
    assert rank.rss > 1 << 20
    assert rank.peak == rank.rss
    assert rank.processes >= 1
    assert (rank.steps, rank.waited_s, rank.late_s, rank.gpu) == (None, None, None, None)
    assert sample.node.memory_size > 0
    assert news == []


def test_a_rank_that_has_gone_meanwhile_does_no_harm(node: NodeSampler) -> None:
    (rank,) = node.look([Target(0, 1 << 23, None)], 0)[0].ranks
    assert (rank.rss, rank.processes) == (0, 0)


def test_cpu_is_that_since_the_look_before(
    node: NodeSampler, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = [1.0]
    monkeypatch.setattr(sampler.usage, "process_use", lambda pid: ProcessUse(used[0], 10, 1, 0, 0))
    target = Target(0, 1 << 23, None)
    node.look([target], 0)
    used[0], clock.now = 4.0, clock.now + 2.0
    (rank,) = node.look([target], 0)[0].ranks
    assert (rank.cpu_s, rank.cpus) == (4.0, 1.5)


def test_bytes_of_processes_that_have_ended_stay(
    node: NodeSampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = {1 << 23: 5, 1 << 24: 7}
    monkeypatch.setattr(sampler, "descendants", lambda pid: [1 << 24])
    monkeypatch.setattr(
        sampler.usage,
        "process_use",
        lambda pid: ProcessUse(0.0, 10, 1, read[pid], 0) if pid in read else None,
    )
    target = Target(0, 1 << 23, None)
    assert node.look([target], 0)[0].ranks[0].read == 12
    del read[1 << 24]
    (rank,) = node.look([target], 0)[0].ranks
    assert (rank.read, rank.processes, rank.rss, rank.peak) == (12, 1, 10, 20)


def test_memory_that_is_dear_to_measure_is_asked_rarely(
    node: NodeSampler, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(sampler.usage, "proportional_bytes", asked.append)
    # A question takes as long as four calls of this clock say.
    ticks = iter(range(1000))
    monkeypatch.setattr(sampler.time, "perf_counter", lambda: next(ticks) * 0.01)
    targets = [Target(rank, os.getpid() if rank == 0 else os.getppid(), None) for rank in range(2)]
    for _ in range(10):
        node.look(targets, 0)
        clock.now += 1.0
    # 10 ms each time, of which 0.2 % of a CPU allows one in 5 s; and each is asked.
    assert len(asked) == 2
    assert len(set(asked)) == 2


def test_steps_their_rate_and_waiting_come_from_heartbeats(
    node: NodeSampler, clock: Clock, tmp_path: Path
) -> None:
    file = tmp_path / "rank.json"
    target = Target(0, os.getpid(), str(file))
    beat(file, 100, 1.5)
    node.look([target], 0)
    beat(file, 120, 2.5)
    clock.now += 4.0
    (rank,) = node.look([target], 0)[0].ranks
    assert (rank.steps, rank.steps_per_s, rank.waited_s) == (120, 5.0, 2.5)


def test_a_heartbeat_file_that_is_being_written_leaves_the_last_figures(
    node: NodeSampler, tmp_path: Path
) -> None:
    file = tmp_path / "rank.json"
    target = Target(0, os.getpid(), str(file))
    beat(file, 100)
    node.look([target], 0)
    Path(heartbeat_file(str(file))).write_bytes(b"")
    assert node.look([target], 0)[0].ranks[0].steps == 100


def test_the_rank_that_comes_later_to_the_same_steps_is_late(
    node: NodeSampler, tmp_path: Path
) -> None:
    files = [tmp_path / f"rank_{rank}.json" for rank in range(2)]
    pids = os.getpid(), os.getppid()
    targets = [
        Target(rank, pid, str(file))
        for rank, (pid, file) in enumerate(zip(pids, files, strict=True))
    ]
    beat(files[0], 2, _1=10.0, _2=11.0)
    beat(files[1], 1, _1=10.5)
    node.look(targets, 0)
    beat(files[0], 2, _1=10.0, _2=11.0)
    beat(files[1], 2, _1=10.5, _2=11.3)
    first, second = node.look(targets, 0)[0].ranks
    assert (first.late_s, second.late_s) == (0.0, 0.4)


def test_the_last_look_finds_what_a_rank_left_at_its_end(node: NodeSampler, tmp_path: Path) -> None:
    file = tmp_path / "rank.json"
    Path(pace_file(str(file))).write_bytes(encode(Pace(7, 0.5, {})))
    last = node.last_look(Target(0, os.getpid(), str(file)))
    assert (last.steps, last.waited_s) == (7, 0.5)
    assert last.cpu_s > 0


def test_full_memory_is_news(clock: Clock) -> None:
    gauge: Any = MemoryGauge([])
    gauge.read = lambda: (Room(99, 100), True)
    _, news = NodeSampler("here", clock, gauge).look([], 0)
    assert len(news) == 1


def test_gpus_belong_to_the_ranks_whose_processes_use_them(clock: Clock) -> None:
    gpus: Any = type("", (), {"look": lambda _: ((GpuUse(0, "H", 1, 2, 3),), {os.getpid(): 77})})()
    sample, _ = NodeSampler("here", clock, MemoryGauge([]), gpus).look(
        [Target(0, os.getpid(), None)], 0
    )
    assert sample.node.gpus == (GpuUse(0, "H", 1, 2, 3),)
    assert sample.ranks[0].gpu == 77
