"""--numa-binding: which CPUs each worker gets, on machines that are described by files as the
kernel writes them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from launcher.ranks import format_ranges
from launcher.system.numa import cpus_of_workers

Cpus = Callable[..., list[str]]


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """2 sockets with 2 nodes each, of 4 cores with 2 threads; one cache for 2 cores. 2 GPUs at
    nodes 1 and 3 each.

    Node n has cores 4n to 4n+3; core c has the threads c and c+16.
    """
    system = tmp_path / "sys" / "devices" / "system"
    for node in range(4):
        write(
            system / "node" / f"node{node}" / "cpulist",
            f"{4 * node}-{4 * node + 3},{4 * node + 16}-{4 * node + 19}",
        )
    for cpu in range(32):
        core = cpu % 16
        first = core - core % 2
        folder = system / "cpu" / f"cpu{cpu}"
        write(folder / "topology" / "physical_package_id", str(core // 8))
        write(folder / "topology" / "thread_siblings_list", f"{core},{core + 16}")
        for index, kind, level, shared in (
            (0, "Data", 1, f"{core},{core + 16}"),
            (1, "Instruction", 4, f"{cpu}"),
            (2, "Unified", 3, f"{first}-{first + 1},{first + 16}-{first + 17}"),
        ):
            for name, value in (("type", kind), ("level", level), ("shared_cpu_list", shared)):
                write(folder / "cache" / f"index{index}" / name, str(value))
    for number, (address, node) in enumerate(
        {"0000:0A:00.0": 1, "0000:0B:00.0": 1, "0000:C1:00.0": 3, "0000:C2:00.0": 3}.items()
    ):
        uuid = f"GPU-{number}a7c"
        write(
            tmp_path / "proc" / "driver" / "nvidia" / "gpus" / address / "information",
            f"Model: \t H\nGPU UUID: \t {uuid}",
        )
        write(
            tmp_path / "sys" / "bus" / "pci" / "devices" / address.lower() / "numa_node", str(node)
        )
    return tmp_path


@pytest.fixture
def cpus(machine: Path) -> Cpus:
    def ask(
        mode: str, workers: int, gpus: Sequence[str] = (), allowed: range = range(32)
    ) -> list[str]:
        return [
            format_ranges(found)
            for found in cpus_of_workers(mode, workers, gpus, allowed, str(machine))
        ]

    return ask


GPUS = ("0", "1", "2", "3")
NODE_1, NODE_3 = "4-7, 20-23", "12-15, 28-31"


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("node", [NODE_1, NODE_1, NODE_3, NODE_3]),
        ("socket", ["0-7, 16-23", "0-7, 16-23", "8-15, 24-31", "8-15, 24-31"]),
        ("exclusive", ["4-5, 20-21", "6-7, 22-23", "12-13, 28-29", "14-15, 30-31"]),
        ("core-complex", ["4-5, 20-21", "6-7, 22-23", "12-13, 28-29", "14-15, 30-31"]),
    ],
)
def test_workers_are_near_their_gpus(cpus: Cpus, mode: str, expected: list[str]) -> None:
    assert cpus(mode, 4, GPUS) == expected


def test_gpus_are_chosen_by_number_and_by_uuid(cpus: Cpus) -> None:
    assert cpus("node", 2, ("2", "GPU-1")) == [NODE_3, NODE_1]


def test_the_share_of_a_gpu_without_a_worker_stays_free(cpus: Cpus) -> None:
    assert cpus("exclusive", 1, GPUS) == ["4-5, 20-21"]


def test_cores_that_cannot_be_shared_out_evenly_go_to_the_first(cpus: Cpus) -> None:
    assert cpus("exclusive", 3, ("0", "0", "0")) == ["4-5, 20-21", "6, 22", "7, 23"]


def test_without_gpus_neighbours_share_a_node(cpus: Cpus) -> None:
    assert cpus("node", 2) == ["0-3, 16-19", "8-11, 24-27"]
    assert cpus("exclusive", 8) == [
        f"{core}-{core + 1}, {core + 16}-{core + 17}" for core in range(0, 16, 2)
    ]


def test_only_cpus_that_may_be_used_are_given(cpus: Cpus) -> None:
    assert cpus("node", 2, ("0", "1"), range(6)) == ["4-5", "4-5"]
    assert cpus("node", 2, (), range(6)) == ["0-3", "4-5"]


@pytest.mark.parametrize(
    ("mode", "workers", "gpus", "allowed", "problem"),
    [
        (
            "exclusive",
            5,
            ("0",) * 5,
            range(32),
            "needs a core for each of 5 workers or GPUs on NUMA node 1, which has 4",
        ),
        (
            "node",
            1,
            ("0",),
            range(4),
            "needs CPUs of NUMA node 1, where a GPU is, and this process may use none of them",
        ),
        ("node", 1, ("7",), range(32), "needs to know where GPU 7 is"),
        ("node", 1, ("GPU-9",), range(32), "needs to know where GPU GPU-9 is"),
        ("node", 1, ("GPU-",), range(32), "needs to know where GPU GPU- is"),
    ],
)
def test_what_cannot_be_is_said(
    cpus: Cpus, mode: str, workers: int, gpus: tuple[str, ...], allowed: range, problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        cpus(mode, workers, gpus, allowed)


def test_a_kernel_that_tells_nothing_has_one_node(tmp_path: Path) -> None:
    found = cpus_of_workers("exclusive", 2, (), range(4), str(tmp_path))
    assert found == (frozenset((0, 1)), frozenset((2, 3)))
    assert cpus_of_workers("socket", 1, (), range(4), str(tmp_path)) == (frozenset(range(4)),)
