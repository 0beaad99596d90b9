"""The launcher behind `&`, under nohup and cron: signals that were ignored or blocked when it was
started.

A shell without job control starts what stands before an `&` with SIGINT and SIGQUIT ignored, so
that Ctrl-C for the script in the foreground does not meet it; nohup ignores SIGHUP. What is ignored
so stays ignored, here and in the ranks, as under plain python. SIGTERM is none of these signals,
and it is what ranks are stopped with: it is always heeded.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Running, Script, Start, command, marked_processes

pytestmark = pytest.mark.slow

# Says what it does with each signal, and waits for the file `go`.
SAYS_WHAT_IS_IGNORED = """
import os, signal, time
ignored = [number.name for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
           if signal.getsignal(number) is signal.SIG_IGN]
print(' '.join(['ready ignoring', *ignored]), flush=True)
while not os.path.exists('go'): time.sleep(0.01)
print('went on', flush=True)
"""


def ignoring(*names: str) -> Callable[[], None]:
    """Return what a starter does that ignores these signals: for `preexec_fn`."""

    def ignore() -> None:
        for name in names:
            signal.signal(signal.Signals[name], signal.SIG_IGN)

    return ignore


@pytest.fixture
def begin(start: Start, script: Script, method: str) -> Callable[..., Running]:
    """Start two ranks, with these signals ignored around them, and wait until they are ready."""

    def go(*names: str, **more: Any) -> Running:
        name = script(SAYS_WHAT_IS_IGNORED)
        options = ("--start", method, "--nproc-per-node", "2", name)
        child = start(*options, preexec_fn=ignoring(*names), **more)
        child.wait_for("ready", 2)
        return child

    return go


@pytest.mark.parametrize("name", ["SIGINT", "SIGQUIT", "SIGHUP"])
def test_a_signal_that_was_ignored_at_the_start_stops_nothing_and_ranks_ignore_it_too(
    begin: Callable[..., Running], tmp_path: Path, name: str
) -> None:
    child = begin(name)
    child.send(signal.Signals[name])
    (tmp_path / "go").touch()
    done = child.finish()
    assert (done.code, done.err) == (0, "")
    assert done.out.count(f"ready ignoring {name}\n") == 2
    assert done.out.count("went on") == 2


@pytest.mark.parametrize("name", ["SIGINT", "SIGHUP"])
def test_the_other_signals_stop_as_ever(begin: Callable[..., Running], name: str) -> None:
    child = begin(name)
    child.send(signal.Signals[name])
    child.send(signal.SIGTERM)
    done = child.finish()
    assert done.code == 143
    assert "received SIGTERM" in done.err
    assert name not in done.err


def test_sigterm_stops_also_when_it_was_ignored_at_the_start(begin: Callable[..., Running]) -> None:
    child = begin("SIGTERM")
    assert child.out.count("ready ignoring\n") == 2, "the ranks can be stopped"
    child.send(signal.SIGTERM)
    done = child.finish()
    assert done.code == 143
    assert "received SIGTERM" in done.err


def test_behind_an_ampersand_ctrl_c_for_the_script_is_not_ours_and_sigterm_stops(
    start_command: Start, script: Script, suite_mark: str
) -> None:
    name = script(SAYS_WHAT_IS_IGNORED)
    words = " ".join(map(str, command("--nproc-per-node", "2", name)))
    # In a session of its own, so that the signal of Ctrl-C meets this group and no other.
    text = f"{words} & echo launcher $!; wait $!; echo code $?"
    shell = start_command(["bash", "-c", text], start_new_session=True)
    shell.wait_for("ready ignoring SIGINT SIGQUIT\n", 2)
    (pid,) = (int(line.split()[1]) for line in shell.out.splitlines() if "launcher " in line)
    os.kill(pid, signal.SIGINT)
    os.kill(pid, signal.SIGTERM)
    shell.wait_for("code 143")
    assert "received SIGTERM" in shell.err
    assert "SIGINT" not in shell.err
    assert shell.finish().code == 0
    assert not marked_processes(suite_mark)


def test_under_nohup_a_run_outlives_the_hang_up_of_its_terminal(
    start_command: Start, script: Script, tmp_path: Path
) -> None:
    name = script(SAYS_WHAT_IS_IGNORED)
    child = start_command(["nohup", *command("--nproc-per-node", "2", name)])
    child.wait_for("ready ignoring SIGHUP\n", 2)
    child.send(signal.SIGHUP)
    (tmp_path / "go").touch()
    done = child.finish()
    assert done.code == 0
    assert done.out.count("went on") == 2
    assert "SIGHUP" not in done.err


def test_signals_that_were_blocked_when_we_were_started_hide_nothing_from_us(
    start: Start, method: str, script: Script
) -> None:
    blocked = {signal.SIGCHLD, signal.SIGTERM, signal.SIGUSR1}
    name = script(
        "import os, signal\n"
        "blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())\n"
        "print('ready', sorted(map(int, blocked)), flush=True)\n"
        "if os.environ['RANK'] == '1': os._exit(5)\n"
        "signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)\nsignal.pause()\n"
    )
    child = start(
        *("--start", method, "--nproc-per-node", "2", name),
        preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, blocked),
    )
    # The exit of rank 1 is seen, and so is the end of rank 0; the ranks themselves find the mask as
    # it was.
    child.wait_for("ready", 2)
    assert child.finish().code == 5
    assert child.out.count(f"ready {sorted(map(int, blocked))}") == 2
