"""A failure anywhere ends all nodes, with one exit code and one report: that of the first cause."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Completed, wait_until
from tests.lab.lab import Lab
from tests.nodes.conftest import PRELUDE, SOON_S, WAITING, StartNodes, find_report, own_lines

pytestmark = pytest.mark.slow

HOSTS = ("h1", "h2", "h3")
RunNodes = Callable[..., dict[str, Completed]]

# Rank 2 of 3 hosts with 2 ranks each is the first of h2, if that is node 1.
BY_RANK = {host: ("--node-rank", str(number)) for number, host in enumerate(HOSTS)}


def test_the_code_of_the_rank_that_failed_is_that_of_all_nodes(
    start_nodes: StartNodes, tmp_path: Path
) -> None:
    text = PRELUDE + "wait('fail')\nif RANK == 2:\n    sys.exit(3)\nsignal.pause()\n"
    job = start_nodes(text, "--nproc-per-node", "2", hosts=HOSTS, only=BY_RANK)
    job.wait_for_ranks(6)
    (tmp_path / "fail").touch()
    assert job.seconds_to_end() < SOON_S
    done = job.finish()
    assert {one.code for one in done.values()} == {3}, job.show()
    headline = find_report(done).splitlines()[0]
    assert headline.startswith("FAILED: rank 2 (pid ")
    assert headline.endswith(" on h2): exit code 3")
    # The others say in one line what happened, and where to read on.
    for name in ("h2", "h3"):
        (line,) = done[name].err.splitlines()
        assert line.startswith("[launcher] ") and "rank 2" in line and "h1" in line, line


def test_the_traceback_of_a_remote_rank_is_in_the_report(run_nodes: RunNodes) -> None:
    text = PRELUDE + "if RANK == 1:\n    raise ValueError('the loss is nan')\nsignal.pause()\n"
    done = run_nodes(text, only=BY_RANK)
    assert {one.code for one in done.values()} == {1}
    report = find_report(done)
    assert report.count("Traceback (most recent call last):") == 1
    assert "ValueError: the loss is nan" in report and " on h2): " in report
    assert "script.py" in report and "  log: " in report


def test_a_remote_rank_that_was_killed_is_named_with_what_the_kernel_knows(
    lab: Lab, start_nodes: StartNodes
) -> None:
    job = start_nodes(WAITING, only=BY_RANK)
    job.wait_for_ranks(2)
    (pid,) = [pid for pid, line in lab["h2"].processes().items() if "[rank 1" in line]
    os.kill(pid, signal.SIGKILL)
    done = job.finish()
    assert {one.code for one in done.values()} == {137}, job.show()
    report = find_report(done)
    assert "FAILED: rank 1 (pid " in report
    assert " on h2): killed by SIGKILL (9)" in report
    assert "no sign of the out-of-memory killer" in report


def test_the_report_lies_in_the_runs_folder_too(run_nodes: RunNodes, tmp_path: Path) -> None:
    done = run_nodes(PRELUDE + "sys.exit(4 if RANK == 1 else 0)\n", only=BY_RANK)
    assert {one.code for one in done.values()} == {4}
    reports = {path.resolve() for path in tmp_path.glob("runs/*/report.json")}
    assert len(reports) == 1  # `latest` leads to it, too
    assert '"hostname": "h2"' in reports.pop().read_text()


@pytest.mark.parametrize("first", ["h1", "h2"])
@pytest.mark.parametrize("ahead", ["h1", "h2"])
def test_the_first_cause_is_found_whatever_the_hosts_clocks_say(
    lab: Lab, start_nodes: StartNodes, tmp_path: Path, first: str, ahead: str
) -> None:
    lab[ahead].boot(uptime_s=86400)
    # The other rank takes no notice of being stopped, and fails by itself a moment later.
    text = (
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nsay('deaf')\n"
        f"wait('fail')\nif NODE != {first!r}:\n    time.sleep(0.03)\n    os._exit(5)\nos._exit(3)\n"
    )
    job = start_nodes(PRELUDE + text)
    for node in job.nodes.values():
        node.wait_for("deaf")
    (tmp_path / "fail").touch()
    done = job.finish()
    assert {one.code for one in done.values()} == {3}, job.show()
    assert f" on {first}): exit code 3" in find_report(done)


def test_a_rank_that_fails_on_every_node_is_reported_once(run_nodes: RunNodes) -> None:
    done = run_nodes("import no_such_module\n", hosts=HOSTS, only=BY_RANK)
    assert {one.code for one in done.values()} == {1}
    report = find_report(done)
    assert report.count("ModuleNotFoundError: No module named 'no_such_module'") == 1


def test_a_node_that_is_done_waits_for_the_others_and_fails_with_them(
    start_nodes: StartNodes, tmp_path: Path
) -> None:
    text = PRELUDE + "if RANK == 1:\n    wait('fail')\n    sys.exit(6)\n"
    job = start_nodes(text, only=BY_RANK)
    job.wait_for_ranks(2)
    time.sleep(0.3)  # that nothing happens can only be seen by waiting
    assert all(node.process.poll() is None for node in job.nodes.values()), job.show()
    (tmp_path / "fail").touch()
    assert job.codes() == {"h1": 6, "h2": 6}


def test_nothing_is_left_of_ranks_that_ignore_the_end(
    lab: Lab, start_nodes: StartNodes, tmp_path: Path
) -> None:
    text = PRELUDE + (
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nsay('deaf')\nwait('fail')\n"
        "if RANK == 1: sys.exit(3)\nwhile True: signal.pause()\n"
    )
    job = start_nodes(text, "--shutdown-timeout", "0.3", hosts=HOSTS, only=BY_RANK)
    for node in job.nodes.values():
        node.wait_for("deaf")
    (tmp_path / "fail").touch()
    assert set(job.codes().values()) == {3}
    wait_until(lambda: not any(host.processes() for host in lab.hosts), "all hosts are empty")


def test_a_slow_rank_keeps_nobody_from_reading_the_report(
    start_nodes: StartNodes, tmp_path: Path
) -> None:
    """It comes when the failure is known, not when all have ended."""
    text = PRELUDE + (
        "signal.signal(signal.SIGTERM, lambda *_: (say('saving'), wait('saved'), sys.exit(0)))\n"
        "say('armed')\nwait('fail')\nif RANK == 1: sys.exit(3)\nwhile True: signal.pause()\n"
    )
    job = start_nodes(text, only=BY_RANK)
    for node in job.nodes.values():
        node.wait_for("armed")
    (tmp_path / "fail").touch()
    job["h1"].wait_for("saving")
    job["h1"].wait_for("FAILED: rank 1 ")
    assert job["h1"].process.poll() is None
    (tmp_path / "saved").touch()
    assert job.codes() == {"h1": 3, "h2": 3}


def test_all_end_with_0_when_all_have_succeeded(run_nodes: RunNodes) -> None:
    done = run_nodes(PRELUDE, "--nproc-per-node", "2", hosts=HOSTS)
    assert [one.code for one in done.values()] == [0, 0, 0]
    assert [one.err for one in done.values()] == ["", "", ""]
    assert all(not own_lines(one.out) for one in done.values())
