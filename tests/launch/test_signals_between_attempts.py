"""A signal while an attempt ends, or before the next one begins: it is said, and it counts."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.conftest import Script, Start, is_alive, wait_until

# Rank 0 fails once rank 1 is there, which ignores SIGTERM and so keeps the clean-up waiting until
# there is a file "end".
SLOW_END = """
import os, signal, time
if os.environ['RANK'] == '1':
    signal.signal(signal.SIGTERM, lambda *_: print('asked', flush=True))
    open('there', 'w').close()
    while not os.path.exists('end'): time.sleep(0.01)
    os._exit(0)
while not os.path.exists('there'): time.sleep(0.001)
print('attempt', os.environ['TORCHELASTIC_RESTART_COUNT'], flush=True)
raise SystemExit(3)
"""

# The rank fails. In its second attempt it leaves a child that ignores SIGTERM, and says when it is
# asked to end.
LEAVES_A_CHILD = """
import os, signal, subprocess, sys, time
code = '''
import os, signal
signal.signal(signal.SIGTERM, lambda *_: print('child was asked', flush=True))
with open('new', 'w') as file: file.write(str(os.getpid()))
os.rename('new', 'there')
while True: signal.pause()
'''
attempt = os.environ['TORCHELASTIC_RESTART_COUNT']
print('attempt', attempt, flush=True)
if attempt == '1':
    subprocess.Popen([sys.executable, '-c', code])
    while not os.path.exists('there'): time.sleep(0.001)
os._exit(3)
"""


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_in_the_clean_up_before_a_restart(
    start: Start, script: Script, tmp_path: Path, signum: int
) -> None:
    path = script(SLOW_END)
    running = start(
        *("--nproc-per-node", "2", "--max-restarts", "1", "--shutdown-timeout", "600"), path
    )
    running.wait_for("starting all ranks again")
    running.send(signum)
    running.wait_for("a second one forces")
    (tmp_path / "end").touch()
    done = running.finish()
    assert done.code == 128 + signum
    assert f"received {signal.Signals(signum).name}; stopping" in done.err
    assert "attempt 1" not in done.out
    assert "FAILED" not in done.err  # it was told in one line, and then stopped


def test_a_second_one_forces_in_the_clean_up(start: Start, script: Script) -> None:
    path = script(SLOW_END)
    running = start(
        *("--nproc-per-node", "2", "--max-restarts", "1", "--shutdown-timeout", "600"), path
    )
    running.wait_for("asked")
    running.wait_for("starting all ranks again")
    running.send(signal.SIGTERM)
    running.wait_for("a second one forces")
    running.send(signal.SIGTERM)
    done = running.finish()
    assert done.code == 128 + signal.SIGTERM
    assert "attempt 1" not in done.out


def test_in_the_sweep_of_what_a_rank_has_left(start: Start, script: Script, tmp_path: Path) -> None:
    options = ("--max-restarts", "9", "--restart-backoff", "600")
    running = start(*options, script(LEAVES_A_CHILD))
    running.wait_for("starting all ranks again in")
    child = int((tmp_path / "there").read_text())
    # On a machine that stands still just now, it is killed before it can say a word.
    wait_until(lambda: "child was asked" in running.out or not is_alive(child), "the sweep")
    running.send(signal.SIGTERM)
    done = running.finish()
    assert done.code == 128 + signal.SIGTERM, done.err
    assert "received SIGTERM; stopping" in done.err
    assert "attempt 2" not in done.out


def test_in_the_pause_before_a_restart(start: Start, script: Script) -> None:
    path = script(
        "import os; print('attempt', os.environ['TORCHELASTIC_RESTART_COUNT']); os._exit(3)"
    )
    options = ("--max-restarts", "9", "--restart-backoff", "600")
    running = start(*options, path)
    running.wait_for("starting all ranks again in")
    running.send(signal.SIGTERM)
    done = running.finish()
    assert done.code == 128 + signal.SIGTERM
    assert "received SIGTERM; stopping" in done.err
    assert "attempt 2" not in done.out
