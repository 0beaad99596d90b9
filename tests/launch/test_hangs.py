"""A run in which nothing moves is stopped, and the report says where every rank is and which one is
odd.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Run, Script, Start, is_alive, wait_until

pytestmark = pytest.mark.slow

Report = Callable[[], "dict[str, Any]"]
HANG = ("--hang-timeout", "1", "--shutdown-timeout", "0.5")

# For runs that are no hang: on a busy machine a rank may get no CPU for a second.
NO_HANG = ("--hang-timeout", "2")

HEAD = "import os, signal, sys, threading, time\nrank = int(os.environ['RANK'])\n"


@pytest.fixture
def hanging(run: Run, script: Script, report: Report) -> Callable[..., tuple[Any, dict[str, Any]]]:
    """Run ranks until the launcher finds that they hang; return how it ended, and report.json."""

    def execute(
        text: str, ranks: int = 3, *options: str, **more: Any
    ) -> tuple[Any, dict[str, Any]]:
        done = run("--nproc-per-node", str(ranks), *HANG, *options, script(HEAD + text), **more)
        assert done.code == 124, done.err
        assert done.err.count("FAILED: ") == 1
        return done, report()

    return execute


Hanging = Callable[..., "tuple[Any, dict[str, Any]]"]


def test_odd_rank_is_named_and_the_others_are_grouped(
    hanging: Hanging, method: str, only_run_dir: Callable[[], Path]
) -> None:
    done, report = hanging(
        "def load():\n    time.sleep(100)\ndef reduce():\n    threading.Event().wait(100)\nhelper ="
        " threading.Thread(target=threading.Event().wait, name='helper',"
        " daemon=True)\nhelper.start()\nload() if rank == 3 else reduce()\n",
        5,
        "--start",
        method,
    )
    assert report["rank"] == 3
    assert report["what"].startswith(
        "nothing has moved for 1 s: rank 3 is at script.py:4 in load; ranks 0-2, 4 are in wait ("
    )
    assert "  rank 3: is at script.py:4 in load\n" in done.err
    assert "  ranks 0-2, 4: each is in wait (script.py:6)\n" in done.err
    assert "worker/bootstrap.py" not in done.err
    stacks = (only_run_dir() / "errors/attempt_0/rank_03.json.stacks").read_text()
    assert stacks.count("(most recent call first):") == 2  # all threads
    assert "in load" in stacks
    assert done.seconds < 15  # the ranks sleep for 100


def test_stopped_rank_is_told_apart(hanging: Hanging) -> None:
    done, report = hanging("if rank == 1: os.kill(os.getpid(), signal.SIGSTOP)\nsignal.pause()\n")
    assert report["rank"] == 1
    assert "rank 1 is stopped by a signal (SIGSTOP, or Ctrl-Z)" in report["what"]


def test_stuck_import_is_told_apart(hanging: Hanging, script: Script, method: str) -> None:
    script("import signal\nsignal.pause()\n", "stuck.py")
    done, report = hanging(
        "if rank == 1:\n    import stuck\nsignal.pause()\n", 3, "--start", method
    )
    assert report["rank"] == 1
    assert "rank 1 imports a module (stuck.py:2)" in report["what"]


def test_exit_that_never_ends_is_told_apart(hanging: Hanging) -> None:
    done, report = hanging(
        "if rank == 0: threading.Thread(target=signal.sigwait, args=([signal.SIGUSR1],)).start()\n",
        2,
    )
    assert report["rank"] == 0
    assert "rank 0 has ended its script and waits for its own threads to end" in report["what"]


def test_exit_that_never_ends_in_atexit_names_the_function(hanging: Hanging) -> None:
    done, report = hanging(
        "import atexit\ndef save():\n    time.sleep(100)\nif rank == 0: atexit.register(save)\n", 2
    )
    assert report["rank"] == 0
    assert "in save" in report["stacks"]


def test_deadlocked_pair_in_a_collective_is_told_apart(hanging: Hanging) -> None:
    pytest.importorskip("torch")
    done, report = hanging(
        "import torch, torch.distributed as dist\n"
        "dist.init_process_group('gloo')\n"
        "def exchange():\n    dist.recv(torch.ones(1), src=1 - rank)\n"
        "def other():\n    dist.barrier()\n"
        "exchange() if rank < 2 else other()\n",
        3,
        "--hang-timeout",
        "2",
    )
    assert "ranks 0-1 are in recv (script.py:6)" in report["what"]
    assert "rank 2 is in barrier (script.py:8)" in report["what"]


def test_rank_that_keeps_the_others_waiting_in_a_collective_is_named(hanging: Hanging) -> None:
    pytest.importorskip("torch")
    done, report = hanging(
        "import torch, torch.distributed as dist\n"
        "dist.init_process_group('gloo')\n"
        "def read():\n    time.sleep(100)\n"
        "for step in range(10):\n"
        "    if step == 5 and rank == 0: read()\n"
        "    dist.all_reduce(torch.ones(1))\n",
        2,
        "--hang-timeout",
        "2",
    )
    assert report["rank"] == 0
    assert (
        "rank 0 is at script.py:6 in read; rank 1 is in all_reduce (script.py:9)" in report["what"]
    )


def test_rank_without_python_is_described_from_outside(run: Run, report: Report) -> None:
    done = run("--nproc-per-node", "2", *HANG, "--no-python", "sleep", "100")
    assert done.code == 124
    assert "ranks 0-1 " in report()["what"]
    assert "outside Python" in report()["what"]


def test_rank_that_does_not_answer_is_described_from_outside(hanging: Hanging) -> None:
    done, report = hanging(
        "if rank == 1:\n    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\n   "
        " signal.sigwait([signal.SIGUSR1])\nsignal.pause()\n",
        3,
    )
    assert report["rank"] == 1
    assert "rank 1 sleeps in " in report["what"]


def test_heartbeat_that_stops_is_a_hang_although_the_rank_is_busy(hanging: Hanging) -> None:
    done, report = hanging(
        "def beat(): open(os.environ['LAUNCHER_ERROR_FILE'] + '.beat', 'w').close()\n"
        "def lost():\n    while True: time.sleep(0.01); print('busy', flush=True)\n"
        "beat()\nif rank == 1: lost()\n"
        "while True: beat(); time.sleep(0.1)\n",
        2,
    )
    assert "nothing has moved for 1 s" in report["what"]
    assert "in lost" in report["stacks"]


def test_heartbeats_keep_a_quiet_run_alive(run: Run, script: Script) -> None:
    name = script(
        HEAD + "path = os.environ['LAUNCHER_ERROR_FILE'] + '.beat'\n"
        "for _ in range(14):\n    open(path, 'w').close()\n    time.sleep(0.25)\nos.unlink(path)\n"
    )
    assert run("--nproc-per-node", "2", *NO_HANG, name).code == 0


def test_output_is_no_hang(run: Run, script: Script) -> None:
    name = script(
        HEAD
        + "for _ in range(15):\n    if rank == 0: print('.', flush=True)\n    time.sleep(0.25)\n"
    )
    assert run("--nproc-per-node", "2", *NO_HANG, name).code == 0


def test_busy_rank_is_no_hang(run: Run, script: Script) -> None:
    name = script(
        HEAD + "if rank == 0:\n    while time.process_time() < 2.5: pass\nelse: time.sleep(3.5)\n"
    )
    assert run("--nproc-per-node", "2", *NO_HANG, name).code == 0


def test_busy_data_worker_is_no_hang(run: Run, script: Script) -> None:
    name = script(
        HEAD + "if os.fork() == 0:\n    while time.process_time() < 2.5: pass\n   "
        " os._exit(0)\nos.wait()\n"
    )
    assert run("--nproc-per-node", "1", *NO_HANG, name).code == 0


def test_hang_is_named_within_two_seconds_of_the_timeout(
    start: Start, script: Script, tmp_path: Path
) -> None:
    name = script(HEAD + "open(f'ready{rank}', 'w').close()\nsignal.pause()\n")
    child = start("--nproc-per-node", "4", *HANG, name)
    wait_until(
        lambda: all((tmp_path / f"ready{rank}").exists() for rank in range(4)), "all ranks run"
    )
    began = time.monotonic()
    wait_until(lambda: "FAILED: " in child.err, "the report", 3.0)
    assert time.monotonic() - began > 0.9
    assert child.finish().code == 124


@pytest.fixture
def freezer() -> Iterator[Path]:
    """A cgroup that freezes processes in uninterruptible sleep, as only cgroup v1 does. Thawed at
    the end.
    """
    folder = Path(f"/sys/fs/cgroup/freezer/launcher-test-{os.getpid()}")
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("needs the right to make a freezer cgroup of version 1")
    try:
        yield folder
    finally:
        (folder / "freezer.state").write_text("THAWED")
        wait_until(
            lambda: not (folder / "cgroup.procs").read_text().strip(),
            "the frozen processes have ended",
        )
        folder.rmdir()


def test_rank_in_uninterruptible_sleep_is_named_and_not_waited_for(
    start: Start, script: Script, tmp_path: Path, report: Report, freezer: Path
) -> None:
    name = script(
        HEAD + "with open(f'new{rank}', 'w') as file: file.write(str(os.getpid()))\n"
        "os.rename(f'new{rank}', f'pid{rank}')\nsignal.pause()\n"
    )
    child = start("--nproc-per-node", "3", *HANG, name)
    wait_until(
        lambda: all((tmp_path / f"pid{rank}").exists() for rank in range(3)), "all ranks run"
    )
    pid = int((tmp_path / "pid1").read_text())
    (freezer / "cgroup.procs").write_text(str(pid))
    (freezer / "freezer.state").write_text("FROZEN")
    done = child.finish(12)
    assert done.code == 124
    assert report()["rank"] == 1
    assert "rank 1 is in uninterruptible sleep in the kernel (" in report()["what"]
    assert f"rank 1 (pid {pid}) did not end after SIGKILL: the kernel holds them" in done.err
    assert is_alive(pid)


def test_stop_with_an_uninterruptible_rank_ends_and_names_it(
    start: Start, script: Script, tmp_path: Path, freezer: Path
) -> None:
    name = script(
        HEAD + "with open(f'new{rank}', 'w') as file: file.write(str(os.getpid()))\n"
        "os.rename(f'new{rank}', f'pid{rank}')\nsignal.pause()\n"
    )
    child = start("--nproc-per-node", "2", "--shutdown-timeout", "0.5", name)
    wait_until(
        lambda: all((tmp_path / f"pid{rank}").exists() for rank in range(2)), "all ranks run"
    )
    pid = int((tmp_path / "pid1").read_text())
    (freezer / "cgroup.procs").write_text(str(pid))
    (freezer / "freezer.state").write_text("FROZEN")
    child.send(signal.SIGTERM)
    done = child.finish(20)
    assert done.code == 143
    assert f"rank 1 (pid {pid}) did not end after SIGKILL" in done.err
