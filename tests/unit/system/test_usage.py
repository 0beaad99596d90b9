"""What this very process uses, and cgroups that the test makes up."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from launcher.system import usage
from launcher.system.usage import MemoryGauge, Room


def test_a_process_uses_cpu_time_and_memory() -> None:
    use = usage.process_use(os.getpid())
    assert use is not None
    assert use.cpu_s > 0
    assert use.rss > 1 << 20
    assert use.threads >= 1
    assert usage.process_use(1 << 23) is None


def test_shared_memory_of_a_process_is_less_than_all_of_it() -> None:
    use, shared = usage.process_use(os.getpid()), usage.proportional_bytes(os.getpid())
    assert use is not None
    if shared is None:
        pytest.skip("this kernel has no smaps_rollup")
    assert 0 < shared <= 1.1 * use.rss
    assert usage.proportional_bytes(1 << 23) is None


def test_the_machine_has_been_busy_and_has_memory() -> None:
    assert usage.busy_cpu_seconds() > 0
    room, is_cgroup = MemoryGauge([]).read()
    assert not is_cgroup
    assert 0 < room.share < 1


def test_the_limit_of_a_cgroup_counts_when_it_is_smaller(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("500000\n")
    assert MemoryGauge([str(tmp_path)]).read() == (Room(500_000, 1_000_000), True)


def test_what_a_full_cgroup_can_give_back_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("990000\n")
    (tmp_path / "memory.stat").write_text("anon 200000\ninactive_file 700000\nactive_file 1\n")
    assert MemoryGauge([str(tmp_path)]).read() == (Room(290_000, 1_000_000), True)


def test_cgroups_of_the_old_kind_are_read_and_their_no_limit_is_known(tmp_path: Path) -> None:
    (tmp_path / "memory.limit_in_bytes").write_text("1000000\n")
    (tmp_path / "memory.usage_in_bytes").write_text("950000\n")
    (tmp_path / "memory.stat").write_text("cache 9\ninactive_file 7\ntotal_inactive_file 50000\n")
    assert MemoryGauge([str(tmp_path)]).read() == (Room(900_000, 1_000_000), True)
    (tmp_path / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert MemoryGauge([str(tmp_path)]).read()[1] is False
