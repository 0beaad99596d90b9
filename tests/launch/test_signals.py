"""Signals to the launcher: asked once it is polite, asked twice it forces; what is forwarded stops
nothing. Nothing outlives a stop.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Running, Script, Start, is_alive, marked_processes, wait_until

pytestmark = pytest.mark.slow

HEAD = "import os, signal, sys, time\nrank = int(os.environ['RANK'])\n"

# What is taken apart as soon as it is there is written at once: print() writes word by word.
PATIENT = HEAD + "os.write(1, b'ready %d\\n' % os.getpid())\nwhile True: signal.pause()\n"
STUBBORN = (
    HEAD
    + """
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP): signal.signal(number, signal.SIG_IGN)
os.write(1, b'ready %d\\n' % os.getpid())
def stubborn():
    while True: signal.pause()
stubborn()
"""
)
SAVES = (
    HEAD
    + """
def save(signum, frame):
    open(f'saved{rank}', 'w').write(signal.Signals(signum).name)
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
signal.signal(signal.SIGUSR1, lambda *_: print('warned', flush=True))
os.write(1, b'ready %d\\n' % os.getpid())
while True: signal.pause()
"""
)

Ready = Callable[..., Running]


@pytest.fixture
def ready(start: Start, script: Script) -> Ready:
    """Start two ranks of this script, and wait until each has printed `ready`."""

    def begin(text: str, *options: str, **more: Any) -> Running:
        child = start("--nproc-per-node", "2", *options, script(text), **more)
        child.wait_for("ready", 2)
        return child

    return begin


def pids_of(child: Running) -> list[int]:
    return [int(line.split()[-1]) for line in child.out.splitlines() if "ready" in line]


def saved(folder: Path) -> list[str]:
    return [(folder / f"saved{rank}").read_text() for rank in (0, 1)]


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"])
def test_the_first_signal_stops_all_ranks_politely_and_gives_128_plus_its_number(
    ready: Ready, name: str, method: str
) -> None:
    child = ready(PATIENT, "--start", method)
    child.send(signal.Signals[name])
    done = child.finish()
    assert done.code == 128 + signal.Signals[name]
    assert f"[launcher] received {name}; stopping, a second one forces" in done.err
    assert "FAILED" not in done.err
    assert "Killed" not in done.err
    assert not any(is_alive(pid) for pid in pids_of(child))


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_the_second_signal_forces_within_a_second(ready: Ready, name: str, method: str) -> None:
    child = ready(STUBBORN, "--start", method, "--shutdown-timeout", "1000")
    child.send(signal.Signals[name])
    child.wait_for(f"received {name}; stopping, a second one forces")
    child.send(signal.Signals[name])
    done = child.finish(1.0)
    assert done.code == 128 + signal.Signals[name]
    assert not any(is_alive(pid) for pid in pids_of(child))


def test_a_second_signal_of_another_kind_forces_too(ready: Ready) -> None:
    child = ready(STUBBORN, "--shutdown-timeout", "60")
    child.send(signal.SIGINT)
    child.wait_for("a second one forces")
    child.send(signal.SIGTERM)
    assert child.finish(2).code == 130


def test_a_signal_forces_also_while_a_failure_is_being_cleaned_up(
    start: Start, script: Script
) -> None:
    text = STUBBORN.replace(
        "os.write(1, b'ready %d\\n' % os.getpid())",
        "open(f'ready{rank}', 'w').close()\n"
        "while not os.path.exists('ready0'): time.sleep(0.001)\nif rank == 1: sys.exit(3)",
    )
    child = start("--nproc-per-node", "2", "--shutdown-timeout", "60", script(text))
    child.wait_for("FAILED: rank 1")
    child.send(signal.SIGINT)
    child.send(signal.SIGTERM)
    assert child.finish(3).code == 3


def test_stubborn_ranks_are_killed_after_the_shutdown_timeout_and_their_stack_is_shown_before(
    ready: Ready, method: str
) -> None:
    child = ready(STUBBORN, "--start", method, "--shutdown-timeout", "1")
    began = time.monotonic()
    child.send(signal.SIGTERM)
    done = child.finish(2.5)
    assert time.monotonic() - began >= 1
    assert done.code == 143
    assert "not ended 1 s after the stop, killing:" in done.err
    assert "ranks 0-1: each is at script.py:" in done.err
    assert "in stubborn" in done.err
    assert not any(is_alive(pid) for pid in pids_of(child))


def test_a_failure_stops_stubborn_neighbours_too(method: str, start: Start, script: Script) -> None:
    name = script(HEAD + "if rank == 1: sys.exit(3)\n" + STUBBORN)
    argv = ("--start", method, "--nproc-per-node", "3", "--shutdown-timeout", "0.3", name)
    done = start(*argv).finish()
    assert done.code == 3
    assert "FAILED: rank 1" in done.err


def test_ranks_that_save_and_exit_0_make_the_launcher_exit_0(
    ready: Ready, method: str, tmp_path: Path
) -> None:
    child = ready(SAVES, "--start", method)
    child.send(signal.SIGTERM)
    assert child.finish().code == 0
    assert saved(tmp_path) == ["SIGTERM", "SIGTERM"]


def test_ranks_may_save_when_every_process_of_the_job_gets_the_signal(
    ready: Ready, method: str, tmp_path: Path, suite_mark: str
) -> None:
    """Slurm (scancel, the time limit) and systemd send it to the launcher, to its helpers and to
    the ranks alike.
    """
    child = ready(SAVES, "--start", method)
    for pid in marked_processes(suite_mark):
        os.kill(pid, signal.SIGUSR1)
    child.wait_for("warned", 2)
    for pid in marked_processes(suite_mark):
        os.kill(pid, signal.SIGTERM)
    # A rank gets it from the launcher as well: python has no handler left for a second one that
    # comes at its very end.
    assert child.finish().code in (0, 128 + signal.SIGTERM), child.err
    assert saved(tmp_path) == ["SIGTERM", "SIGTERM"]


def test_a_trainer_saves_for_seconds_with_its_data_workers_alive(
    ready: Ready, tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    # Saving needs the loader: what has not been used yet is counted. The data workers must outlive
    # the request to stop.
    text = """
from torch import zeros
from torch.utils.data import DataLoader, Dataset
class Data(Dataset):
    def __len__(self): return 300
    def __getitem__(self, index):
        time.sleep(0.01)
        return zeros(2)
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(time.monotonic()))
print('ready', flush=True)
count = 0
for batch in DataLoader(Data(), batch_size=10, num_workers=2, persistent_workers=True):
    count += 1
while not asked: time.sleep(0.01)
time.sleep(max(0, asked[0] + 2.5 - time.monotonic()))
open(f'saved{rank}', 'w').write(str(count))
"""
    child = ready(HEAD + text)
    child.send(signal.SIGTERM)
    done = child.finish()
    assert saved(tmp_path) == ["30", "30"], done.err
    assert "FAILED" not in done.err


def test_user_signals_reach_every_rank_and_stop_nothing(ready: Ready, method: str) -> None:
    text = """
got = []
def note(signum, frame):
    got.append(signum)
    os.write(1, b'got %d\\n' % signum)
for number in (signal.SIGUSR1, signal.SIGUSR2): signal.signal(number, note)
print('ready', flush=True)
while len(got) < 2: time.sleep(0.01)
"""
    child = ready(HEAD + text, "--start", method)
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        child.send(number)
        child.wait_for(f"got {int(number)}", 2)
    done = child.finish()
    assert (done.code, done.err) == (0, "")


def test_only_the_signals_that_were_chosen_are_handled(ready: Ready, method: str) -> None:
    child = ready(PATIENT, "--start", method, "--signals-to-handle", "SIGTERM")
    child.send(signal.SIGHUP)
    assert child.finish().code == -signal.SIGHUP
    wait_until(
        lambda: not any(is_alive(pid) for pid in pids_of(child)), "the ranks die with the launcher"
    )


def test_stopped_ranks_are_continued_so_that_they_can_end(ready: Ready, method: str) -> None:
    child = ready(PATIENT, "--start", method)
    for pid in pids_of(child):
        os.kill(pid, signal.SIGSTOP)
    child.send(signal.SIGTERM)
    assert child.finish().code == 143


def test_a_foreign_command_is_stopped_with_its_whole_group(start: Start, tmp_path: Path) -> None:
    (tmp_path / "job.sh").write_text("#!/bin/sh\nsleep 1005 &\necho ready $!\nwait\n")
    (tmp_path / "job.sh").chmod(0o755)
    child = start("--no-python", "--nproc-per-node", "2", "./job.sh")
    child.wait_for("ready", 2)
    child.send(signal.SIGTERM)
    assert child.finish().code == 143
    assert not any(is_alive(pid) for pid in pids_of(child))
