"""Evidence about killed processes, from counters and a kernel log that the test writes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from launcher.diagnosis.evidence import Evidence, format_bytes

LINE = (
    "3,1000,5000000,-;Memory cgroup out of memory: Killed process {} (python) total-vm:9000000kB,"
    " anon-rss:2097152kB, file-rss:0kB\n"
)


class KernelLog:
    """A kernel log to which the test writes records."""

    def __init__(self) -> None:
        self.read_end, self._write_end = os.pipe2(os.O_NONBLOCK | os.O_DIRECT)  # a packet: a record

    def write(self, text: str) -> None:
        os.write(self._write_end, text.encode())

    def close(self) -> None:
        os.close(self.read_end)
        os.close(self._write_end)


@pytest.fixture
def kernel_log() -> Iterator[KernelLog]:
    log = KernelLog()
    yield log
    log.close()


def evidence_of(cgroup: Path, log: KernelLog | None = None) -> Evidence:
    """Evidence from one memory cgroup, whose files the test writes, and from this kernel log."""
    return Evidence(lambda: os.dup(log.read_end) if log else -1, lambda controller: [str(cgroup)])


def v1(folder: Path, kills: int) -> None:
    (folder / "memory.oom_control").write_text(
        f"oom_kill_disable 0\nunder_oom 0\noom_kill {kills}\n"
    )
    (folder / "memory.limit_in_bytes").write_text("209715200\n")


def v2(folder: Path, kills: int) -> None:
    (folder / "memory.events").write_text(
        f"low 0\nhigh 0\nmax 9\noom 1\noom_kill {kills}\noom_group_kill 0\n"
    )
    (folder / "memory.max").write_text("209715200\n")


@pytest.mark.parametrize("write", [v1, v2])
def test_counter_that_grew_is_a_kill_with_the_limit(
    write: Callable[[Path, int], None], tmp_path: Path
) -> None:
    write(tmp_path, 3)
    with evidence_of(tmp_path) as found:
        write(tmp_path, 4)
        text = found.explain(-signal.SIGKILL, 17, 150 << 10)
        assert text.startswith(
            "by the kernel's out-of-memory killer: the limit of its cgroup is 200 MiB; the rank's"
            " peak was 150 MiB;"
        )
        # The next one is no news.
        assert found.explain(-signal.SIGKILL, 18, None).startswith(
            "no sign of the out-of-memory killer"
        )


def test_two_kills_at_once_explain_two_deaths(tmp_path: Path) -> None:
    v2(tmp_path, 0)
    with evidence_of(tmp_path) as found:
        v2(tmp_path, 2)
        texts = [
            found.explain(-signal.SIGKILL, pid, None).partition(":")[0] for pid in (17, 18, 19)
        ]
    assert texts == ["by the kernel's out-of-memory killer"] * 2 + [
        "no sign of the out-of-memory killer"
    ]


def test_kills_before_the_launch_are_no_evidence(tmp_path: Path) -> None:
    v1(tmp_path, 7)
    with evidence_of(tmp_path) as found:
        assert found.explain(-signal.SIGKILL, 17, None).startswith("no sign of")


def test_kernel_log_names_the_process_and_its_memory(tmp_path: Path, kernel_log: KernelLog) -> None:
    with evidence_of(tmp_path, kernel_log) as found:
        kernel_log.write("6,999,4,-;usb 1-1: new device\n")
        kernel_log.write(LINE.format(17))
        assert found.explain(-signal.SIGKILL, 17, None).startswith(
            "by the kernel's out-of-memory killer (it held 2.0 GiB)"
        )
        assert found.explain(-signal.SIGKILL, 18, None).startswith("no sign of")


def test_nothing_is_claimed_where_nothing_can_be_read(tmp_path: Path) -> None:
    with evidence_of(tmp_path) as found:
        text = found.explain(-signal.SIGKILL, 17, 2048)
        assert "killer" not in text
        assert text.startswith("the rank's peak was 2 MiB")


@pytest.mark.parametrize("returncode", [0, 1, 137, -signal.SIGTERM, -signal.SIGSEGV])
def test_other_ends_need_no_evidence(returncode: int, tmp_path: Path) -> None:
    with evidence_of(tmp_path) as found:
        assert found.explain(returncode, 17, None) == ""


def test_data_worker_that_was_killed_for_memory(tmp_path: Path, kernel_log: KernelLog) -> None:
    with evidence_of(tmp_path, kernel_log) as found:
        assert (
            found.explain_data_worker("DataLoader worker (pid 99) is killed by signal: Killed.")
            == ""
        )
        kernel_log.write(LINE.format(99))
        assert found.explain_data_worker("").startswith(
            "the kernel's out-of-memory killer ended process 99 (it held 2.0 GiB)"
        )


def test_unlimited_cgroup_of_version_1_has_no_limit_to_name(tmp_path: Path) -> None:
    v1(tmp_path, 0)
    (tmp_path / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    with evidence_of(tmp_path) as found:
        v1(tmp_path, 1)
        (tmp_path / "memory.limit_in_bytes").write_text("9223372036854771712\n")
        assert found.explain(-signal.SIGKILL, 17, None).startswith(
            "by the kernel's out-of-memory killer; the node uses "
        )


@pytest.mark.parametrize(
    ("count", "text"), [(5 << 10, "5 KiB"), (200 << 20, "200 MiB"), (2 << 30, "2.0 GiB")]
)
def test_sizes_are_shown_for_people(count: int, text: str) -> None:
    assert format_bytes(count) == text
