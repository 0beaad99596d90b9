"""A launch over ssh on a terminal: questions of ssh, Ctrl-C, colours and progress bars."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import TIMEOUT_S, Script, wait_until
from tests.lab.lab import Lab
from tests.lab.terminal import ASK, HostTerminal, answer, on_terminal
from tests.ssh.conftest import SAVING, SIGINT, SIGTERM, own_processes

pytestmark = pytest.mark.slow

Saved = Callable[[], list[str]]
ASKING = "Are you sure you want to continue connecting (yes/no/[fingerprint])? "


@pytest.fixture
def terminal(lab: Lab, ssh_config: Path) -> Iterator[HostTerminal]:
    with on_terminal(lab, {"LAUNCHER_SSH": f"ssh -F {ssh_config}"}) as made:
        yield made


@pytest.fixture
def unknown_hosts(ssh_config: Path, tmp_path: Path) -> str:
    """The command of an ssh that knows no host yet, and may ask."""
    return f"ssh -o BatchMode=no -o UserKnownHostsFile={tmp_path / 'known'} -F {ssh_config}"


def test_ssh_asks_its_questions_one_after_the_other(
    terminal: HostTerminal, script: Script, unknown_hosts: str
) -> None:
    terminal.start("--hosts", "h1,h2,h3", script("print('here')"), LAUNCHER_SSH=unknown_hosts)
    terminal.wait_for(ASKING)
    terminal.type("yes\n")
    terminal.wait_for(ASKING, 2)
    terminal.type("yes\n")
    assert terminal.finish() == 0, terminal.seen
    assert terminal.seen.count(ASKING) == 2
    assert terminal.seen.count("here") == 3
    assert "cannot be reached" not in terminal.seen


def test_no_to_a_question_of_ssh_ends_the_launch(
    terminal: HostTerminal, script: Script, unknown_hosts: str
) -> None:
    terminal.start("--hosts", "h1,h2", script("print('ran')"), LAUNCHER_SSH=unknown_hosts)
    terminal.wait_for(ASKING)
    terminal.type("no\n")
    assert terminal.finish() == 3
    assert "h2 cannot be reached: Host key verification failed. Try: ssh " in terminal.seen
    assert "ran" not in terminal.seen


def test_ctrl_c_at_a_question_of_ssh_ends_the_launch(
    terminal: HostTerminal, script: Script, unknown_hosts: str
) -> None:
    terminal.start("--hosts", "h1,h2", script("print('ran')"), LAUNCHER_SSH=unknown_hosts)
    terminal.wait_for(ASKING)
    terminal.type("\x03")
    assert terminal.finish() == 128 + signal.SIGINT, terminal.seen
    assert "received SIGINT; nothing was started" in terminal.seen


def test_ctrl_c_lets_all_ranks_save_once_also_where_ssh_has_asked(
    terminal: HostTerminal, script: Script, saved: Saved, unknown_hosts: str
) -> None:
    terminal.start("--hosts", "h1,h2", script(SAVING), LAUNCHER_SSH=unknown_hosts)
    terminal.wait_for(ASKING)
    terminal.type("yes\n")
    terminal.wait_for("up", 2)
    terminal.type("\x03")
    assert terminal.finish() == 0, terminal.seen
    assert saved() == [SIGINT] * 2
    assert terminal.seen.count("[launcher] ") == 1


def test_a_terminal_that_is_closed_lets_all_ranks_save(
    lab: Lab, terminal: HostTerminal, script: Script, saved: Saved
) -> None:
    terminal.start("--hosts", "h1,h2", script(SAVING))
    terminal.wait_for("up", 2)
    terminal.hang_up()
    terminal.running.process.wait(TIMEOUT_S)
    wait_until(
        lambda: not own_processes(lab, "h1") and not own_processes(lab, "h2"), "all has ended"
    )
    assert saved() == [SIGTERM] * 2


BAR = """
import os, sys, time
columns = os.get_terminal_size(2).columns
for percent in range(0, 101, 10):
    sys.stderr.write(f"\\r{percent}% of {columns} columns")
    sys.stderr.flush()
    time.sleep(0.1)
sys.stderr.write("\\n")
"""


def test_colours_and_a_live_progress_bar_come_from_other_hosts(
    terminal: HostTerminal, script: Script
) -> None:
    terminal.start("--hosts", "h2,h3", script(BAR))
    assert terminal.finish() == 0, terminal.seen
    first, second = "\x1b[36m[h2:0] \x1b[0m", "\x1b[33m[h3:1] \x1b[0m"
    # There, too, ranks have a terminal, as wide as ours behind the prefix.
    assert f"\r\x1b[J\x1b[?7l{first}50% of 93 columns" in terminal.seen
    for prefix in (first, second):
        assert f"{prefix}100% of 93 columns\n" in terminal.seen


def test_without_colour_there_is_none_from_anywhere(
    terminal: HostTerminal, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    terminal.start("--hosts", "h1,h2", script("print('here')"))
    assert terminal.finish() == 0
    assert sorted(terminal.seen.split("\n")) == ["", "[h1:0] here", "[h2:1] here"]


def test_what_is_typed_goes_to_the_rank_that_asks(terminal: HostTerminal, script: Script) -> None:
    terminal.start("--hosts", "h2:1,h3:1", script(ASK))
    answer(terminal)
