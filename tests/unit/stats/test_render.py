"""The tables, spaces included."""

from __future__ import annotations

from launcher.stats.figures import GpuUse, NodeUse, RankUse, Sample
from launcher.stats.render import render_summary, render_top

MIB = 1 << 20
NODE = NodeUse("here", 1.52, 8, 3 << 30, 16 << 30, 5 * MIB, 64 * MIB)


def rank(number: int, **more: object) -> RankUse:
    use = RankUse(number, 17 + number, 9.0, 0.9, 300 * MIB, None, 400 * MIB, 3, 2, MIB, 0)
    return use._replace(**more)  # type: ignore[arg-type]


def test_top_shows_the_node_and_its_ranks() -> None:
    assert render_top([Sample(0.0, 0, NODE, (rank(0), rank(1, pss=90 * MIB)))]) == (
        "here  CPU 1.5 of 8  memory 3.0 GiB of 16.0 GiB  /dev/shm 5 MiB of 64 MiB\n"
        "\n"
        "rank  pid  CPU   memory     peak  threads  procs   read  written\n"
        "   0   17  90%  300 MiB  400 MiB        3      2  1 MiB    0 KiB\n"
        "   1   18  90%   90 MiB  400 MiB        3      2  1 MiB    0 KiB"
    )


def test_top_names_the_hosts_of_several_nodes_and_their_gpus() -> None:
    there = NODE._replace(host="there", gpus=(GpuUse(0, "H200", MIB, 4 * MIB, 50),))
    text = render_top(
        [Sample(0.0, 0, there, (rank(1, gpu=MIB),)), Sample(0.0, 0, NODE, (rank(0),))]
    )
    assert "there  GPU 0 H200  memory 1 MiB of 4 MiB  busy 50 %\n" in text
    lines = text.splitlines()
    assert lines[-3].split()[:3] == ["rank", "host", "pid"]
    assert [line.split()[:3] for line in lines[-2:]] == [["0", "here", "17"], ["1", "there", "18"]]
    assert lines[-3].index("GPU mem") < lines[-3].index("peak")


def test_top_without_ranks_says_so() -> None:
    assert render_top([]) == "no rank is running"


def test_the_summary_has_what_each_rank_used() -> None:
    assert render_summary([rank(0), rank(1, cpu_s=4.5)], [10.0, 10.0], "here") == (
        "what the ranks on here used:\n"
        "rank  peak memory  CPU time  CPU\n"
        "   0      400 MiB     9.0 s  90%\n"
        "   1      400 MiB     4.5 s  45%"
    )


def test_memory_that_nobody_has_seen_is_not_made_up() -> None:
    *_, last = render_summary([rank(0, peak=0)], [10.0], "here").splitlines()
    assert last.split() == ["0", "-", "9.0", "s", "90%"]


def test_the_rank_that_comes_late_is_the_slowest() -> None:
    paced = [
        rank(number, steps=100, steps_per_s=10.0, waited_s=waited, late_s=late)
        for number, waited, late in ((0, 4.0, 0.001), (1, 0.1, 0.06), (2, 3.9, 0.0))
    ]
    *table, last = render_summary(paced, [10.0] * 3, "here").splitlines()
    assert table[1].split()[-4:] == ["steps", "steps/s", "waited", "late"]
    assert table[3].endswith("100       10   0.1 s  60 ms")
    assert last == "slowest: rank 1, which came 60 ms after the first, on average"


def test_without_times_of_steps_the_rank_that_waits_least_is_the_slowest() -> None:
    paced = [rank(number, steps=5, waited_s=waited) for number, waited in ((0, 40.0), (1, 2.0))]
    last = render_summary(paced, [50.0] * 2, "here").splitlines()[-1]
    assert last == "slowest: rank 1, which waited 2.0 s, the others 40.0 s or more"


def test_nobody_is_the_slowest_when_nobody_stands_out() -> None:
    paced = [rank(number, steps=100, waited_s=1.0, late_s=0.004) for number in range(3)]
    assert "slowest" not in render_summary(paced, [10.0] * 3, "here")
    assert "slowest" not in render_summary([rank(0, steps=5, waited_s=1.0)], [10.0], "here")
