"""One warning before memory or /dev/shm runs full, and no second one."""

from __future__ import annotations

from launcher.stats.figures import RankUse
from launcher.stats.fullness import Fullness
from launcher.system.usage import Room

GIB = 1 << 30
EMPTY = Room(0, 10 * GIB)


def rank(number: int, gib: int) -> RankUse:
    return RankUse(number, 17, 0.0, 0.0, gib * GIB, None, gib * GIB, 1, 1, 0, 0)


def test_full_memory_is_said_once_with_who_has_it() -> None:
    fullness, full = Fullness(), Room(96 * GIB, 100 * GIB)
    ranks = [rank(0, 10), rank(1, 70)]
    assert fullness.check(Room(94 * GIB, 100 * GIB), EMPTY, ranks, is_cgroup=False) == []
    (said,) = fullness.check(full, EMPTY, ranks, is_cgroup=False)
    assert said == (
        "the memory of this node is nearly full: 96.0 GiB of 100.0 GiB; the ranks here have"
        " 80.0 GiB, of which rank 1 has 70.0 GiB"
    )
    assert fullness.check(full, EMPTY, ranks, is_cgroup=False) == []


def test_the_limit_of_a_cgroup_is_named() -> None:
    (said,) = Fullness().check(Room(96, 100), EMPTY, [rank(3, 1)], is_cgroup=True)
    assert said.startswith("the memory of this run's cgroup is nearly full: ")
    assert said.endswith(", rank 3 has 1.0 GiB")


def test_full_shared_memory_is_said_once() -> None:
    fullness, full = Fullness(), Room(58 << 20, 64 << 20)
    (said,) = fullness.check(EMPTY, full, [], is_cgroup=False)
    assert said.startswith("/dev/shm is nearly full: 58 MiB of 64 MiB; data workers")
    assert fullness.check(EMPTY, full, [], is_cgroup=False) == []


def test_a_machine_that_tells_nothing_is_never_full() -> None:
    assert Fullness().check(Room(0, 0), Room(0, 0), [], is_cgroup=False) == []
