"""Signals to the launcher: asked once it is polite, asked twice it forces; Ctrl-Z stops all; what
is forwarded stops nothing.
"""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Running, Script, Start, command, marked_processes, wait_until

pytestmark = pytest.mark.slow

HEAD = "import os, signal, sys, time\nrank = int(os.environ['RANK'])\n"
PATIENT = HEAD + "print('ready', flush=True)\nwhile True: time.sleep(100)\n"
STUBBORN = (
    HEAD + "for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP): signal.signal(number,"
    " signal.SIG_IGN)\nprint('ready', flush=True)\ndef stubborn():\n    while True:"
    " time.sleep(100)\nstubborn()\n"
)


@pytest.fixture
def ready(start: Start, script: Script) -> Callable[..., Running]:
    """Start two ranks of this script and wait until each has printed `ready`."""

    def begin(text: str, *options: str, **more: Any) -> Running:
        child = start("--nproc-per-node", "2", *options, script(text), **more)
        child.wait_for("ready", 2)
        return child

    return begin


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"])
def test_first_signal_stops_politely(ready: Callable[..., Running], name: str, method: str) -> None:
    child = ready(PATIENT, "--start", method)
    child.send(signal.Signals[name])
    done = child.finish()
    assert done.code == 128 + signal.Signals[name]
    assert f"received {name}; stopping, a second one forces" in done.err
    assert "FAILED" not in done.err
    assert "Killed" not in done.err


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_second_signal_forces_within_a_second(
    ready: Callable[..., Running], name: str, method: str
) -> None:
    child = ready(STUBBORN, "--start", method, "--shutdown-timeout", "60")
    child.send(signal.Signals[name])
    child.wait_for("a second one forces")
    began = time.monotonic()
    child.send(signal.Signals[name])
    done = child.finish()
    assert time.monotonic() - began < 1.0
    assert done.code == 128 + signal.Signals[name]


def test_second_signal_of_another_kind_forces_too(ready: Callable[..., Running]) -> None:
    child = ready(STUBBORN, "--shutdown-timeout", "60")
    child.send(signal.SIGINT)
    child.wait_for("a second one forces")
    child.send(signal.SIGTERM)
    assert child.finish(2).code == 130


def test_signal_forces_also_while_a_failure_is_being_cleaned_up(
    start: Start, script: Script
) -> None:
    text = STUBBORN.replace(
        "print('ready', flush=True)",
        "open(f'ready{rank}', 'w').close()\n"
        "while not os.path.exists('ready0'): time.sleep(0.001)\nif rank == 1: sys.exit(3)",
    )
    child = start("--nproc-per-node", "2", "--shutdown-timeout", "60", script(text))
    child.wait_for("FAILED: rank 1")
    child.send(signal.SIGINT)
    child.send(signal.SIGTERM)
    assert child.finish(3).code == 3


def test_stubborn_rank_is_killed_after_the_shutdown_timeout_and_its_stack_is_shown_before(
    ready: Callable[..., Running],
) -> None:
    child = ready(STUBBORN, "--shutdown-timeout", "1")
    began = time.monotonic()
    child.send(signal.SIGTERM)
    done = child.finish()
    assert 0.9 < time.monotonic() - began < 2.5
    assert done.code == 143
    assert "not ended 1 s after the stop, killing:" in done.err
    assert "ranks 0-1: each is at script.py:" in done.err
    assert "in stubborn" in done.err


def test_trainer_saves_for_seconds_with_its_data_workers_alive(
    ready: Callable[..., Running], tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    # Saving needs the loader: what has not been used yet is counted. The data workers must outlive
    # the request to stop.
    child = ready(
        HEAD + "from torch import zeros\nfrom torch.utils.data import DataLoader, Dataset\nclass"
        " Data(Dataset):\n    def __len__(self): return 300\n    def __getitem__(self, index):\n "
        "       time.sleep(0.01)\n        return zeros(2)\nasked ="
        " []\nsignal.signal(signal.SIGTERM, lambda *_:"
        " asked.append(time.monotonic()))\nprint('ready', flush=True)\ncount = 0\nfor batch in"
        " DataLoader(Data(), batch_size=10, num_workers=2, persistent_workers=True):\n    count"
        " += 1\nwhile not asked: time.sleep(0.01)\ntime.sleep(max(0, asked[0] + 2.5 -"
        " time.monotonic()))\nopen(f'saved{rank}', 'w').write(str(count))\n"
    )
    child.send(signal.SIGTERM)
    done = child.finish()
    assert [(tmp_path / f"saved{rank}").read_text() for rank in (0, 1)] == ["30", "30"], done.err
    assert "FAILED" not in done.err


@pytest.mark.parametrize("name", ["SIGUSR1", "SIGUSR2"])
def test_user_signals_reach_every_rank_and_stop_nothing(
    ready: Callable[..., Running], name: str
) -> None:
    child = ready(
        HEAD + f"got = []\nsignal.signal(signal.{name}, lambda *_: got.append(1))\nprint('ready',"
        " flush=True)\nwhile not got: time.sleep(0.01)\nprint('forwarded', flush=True)\n"
    )
    child.send(signal.Signals[name])
    done = child.finish()
    assert done.code == 0
    assert done.out.count("forwarded") == 2


def test_ignored_signals_stay_ignored_as_under_nohup(
    start_command: Callable[..., Running], script: Script
) -> None:
    name = script(PATIENT)
    child = start_command(["nohup", *command("--nproc-per-node", "2", name)])
    child.wait_for("ready", 2)
    child.send(signal.SIGHUP)
    child.send(signal.SIGTERM)
    done = child.finish()
    assert done.code == 143
    assert "SIGHUP" not in done.err


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def ranks_of(mark: str) -> list[int]:
    return [pid for pid, words in marked_processes(mark).items() if words.startswith("[rank ")]


def test_ctrl_z_and_fg_keep_the_job_whole(
    script: Script, tmp_path: Path, suite_mark: str, method: str
) -> None:
    """In a real terminal under a real shell: all ranks stop, and go on when the job is in the
    foreground again.
    """
    text = (
        "import os, time\nwhile not os.path.exists('go'): time.sleep(0.01)\nprint('all done',"
        " flush=True)\n"
    )
    words = " ".join(
        map(
            str,
            command(
                "--nproc-per-node", "2", "--start", method, "--hang-timeout", "20", script(text)
            ),
        )
    )
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        os.execvpe("bash", ["bash", "--norc", "--noprofile", "-i"], {**os.environ, "PS1": "$ "})
    try:
        os.write(terminal, words.encode() + b"\n")
        wait_until(lambda: len(ranks_of(suite_mark)) == 2, "both ranks run")
        ranks = ranks_of(suite_mark)
        wait_until(lambda: all(state_of(rank) == "S" for rank in ranks), "they wait")
        os.write(terminal, b"\x1a")  # Ctrl-Z
        wait_until(lambda: all(state_of(rank) == "T" for rank in ranks), "all ranks have stopped")
        supervisors = [
            p for p, line in marked_processes(suite_mark).items() if "-m launcher" in line
        ]
        wait_until(lambda: any(state_of(p) == "T" for p in supervisors), "the launcher has stopped")
        os.write(terminal, b"fg\n")
        wait_until(lambda: all(state_of(rank) == "S" for rank in ranks), "all ranks run again")
        (tmp_path / "go").touch()
        wait_until(lambda: not ranks_of(suite_mark), "the ranks have ended")
        os.write(terminal, b"echo code=$?; exit\n")
        shown = b""
        while True:
            try:
                data = os.read(terminal, 4096)
            except OSError:
                break
            if not data:
                break
            shown += data
        assert shown.count(b"all done") == 2
        assert b"code=0" in shown
    finally:
        os.close(terminal)
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        os.waitpid(pid, 0)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_signal_in_the_first_moments_leaves_no_traceback_and_nothing_behind(
    script: Script, tmp_path: Path, suite_mark: str, name: str
) -> None:
    path = script(PATIENT)
    number = signal.Signals[name]
    for step in range(21):
        process = subprocess.Popen(
            command("--nproc-per-node", "2", "--shutdown-timeout", "5", path),
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        time.sleep(step * 0.01)  # what is tested is the moment
        process.send_signal(number)
        _, err = process.communicate(timeout=20)
        # Python itself prints one when SIGINT comes before it has read a line of ours; nobody can
        # help that.
        if b"Traceback" not in err or b"/launcher/" in err:
            assert b"Traceback" not in err, f"after {step * 10} ms: {err.decode()}"
            assert process.returncode in (-number, 128 + number), (
                f"after {step * 10} ms: {process.returncode} {err.decode()}"
            )
        wait_until(lambda: not marked_processes(suite_mark), "nothing is left", 2.0)
