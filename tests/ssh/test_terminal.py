"""A launch over ssh on a terminal: questions of ssh, Ctrl-C, colours and progress bars."""

from __future__ import annotations

import fcntl
import os
import signal
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import TIMEOUT_S, Script, command, wait_until
from tests.lab.lab import Lab
from tests.ssh.conftest import SAVING, SIGINT, SIGTERM, own_processes

pytestmark = pytest.mark.slow

Saved = Callable[[], list[str]]
ASKING = "Are you sure you want to continue connecting (yes/no/[fingerprint])? "


class HostTerminal:
    """The launcher on a terminal of h1."""

    def __init__(self, lab: Lab, ssh_config: Path) -> None:
        self._lab = lab
        self._ssh_config = ssh_config
        self.master = -1
        self.seen = ""

    def start(self, *args: str, ssh: str = "") -> None:
        self.master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, b"\x1e\0\x64\0\0\0\0\0")  # 30 lines, 100 columns
        self.running = self._lab["h1"].start(
            *command(*args),
            env={"LAUNCHER_SSH": f"ssh {ssh} -F {self._ssh_config}", "TERM": "xterm"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)

    def wait_for(self, text: str, count: int = 1) -> None:
        while self.seen.count(text) < count:
            assert self._read(), f"{text!r} is not {count} times in {self.seen!r}"

    def type(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def finish(self) -> int:
        while self._read():
            pass
        return int(self.running.process.wait(TIMEOUT_S))

    def hang_up(self) -> None:
        os.close(self.master)
        self.master = -1

    def _read(self) -> bool:
        try:
            data = os.read(self.master, 1 << 16)
        except OSError:  # how Linux says that the other end has gone
            return False
        self.seen += data.decode(errors="replace").replace("\r\n", "\n")
        return bool(data)


@pytest.fixture
def terminal(lab: Lab, ssh_config: Path) -> Iterator[HostTerminal]:
    made = HostTerminal(lab, ssh_config)
    yield made
    if made.master >= 0:
        made.hang_up()


@pytest.fixture
def unknown_hosts(tmp_path: Path) -> str:
    """Options of an ssh that knows no host yet, and may ask."""
    return f"-o BatchMode=no -o UserKnownHostsFile={tmp_path / 'known'}"


def test_ssh_asks_its_questions_one_after_the_other(
    terminal: HostTerminal, script: Script, unknown_hosts: str
) -> None:
    terminal.start("--hosts", "h1,h2,h3", script("print('here')"), ssh=unknown_hosts)
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
    terminal.start("--hosts", "h1,h2", script("print('ran')"), ssh=unknown_hosts)
    terminal.wait_for(ASKING)
    terminal.type("no\n")
    assert terminal.finish() == 3
    assert "h2 cannot be reached: Host key verification failed. Try: ssh " in terminal.seen
    assert "ran" not in terminal.seen


def test_ctrl_c_at_a_question_of_ssh_ends_the_launch(
    terminal: HostTerminal, script: Script, unknown_hosts: str
) -> None:
    terminal.start("--hosts", "h1,h2", script("print('ran')"), ssh=unknown_hosts)
    terminal.wait_for(ASKING)
    terminal.type("\x03")
    assert terminal.finish() == 128 + signal.SIGINT, terminal.seen
    assert "received SIGINT; nothing was started" in terminal.seen


def test_ctrl_c_lets_all_ranks_save_once_also_where_ssh_has_asked(
    terminal: HostTerminal, script: Script, saved: Saved, unknown_hosts: str
) -> None:
    terminal.start("--hosts", "h1,h2", script(SAVING), ssh=unknown_hosts)
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
    assert f"\r\x1b[K{first}50% of 93 columns" in terminal.seen
    for prefix in (first, second):
        assert f"{prefix}100% of 93 columns\n" in terminal.seen


def test_without_colour_there_is_none_from_anywhere(
    terminal: HostTerminal, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    terminal.start("--hosts", "h1,h2", script("print('here')"))
    assert terminal.finish() == 0
    assert sorted(terminal.seen.split("\n")) == ["", "[h1:0] here", "[h2:1] here"]


ASK = """
import os, sys
if os.environ["RANK"] == "0":
    print("hello", input("name? "), flush=True)
    breakpoint()
    print(f"the rest is {sys.stdin.read()!r}")
else:
    print(f"rank 1 reads {sys.stdin.read()!r}")
"""


def test_what_is_typed_goes_to_the_rank_that_asks(terminal: HostTerminal, script: Script) -> None:
    terminal.start("--hosts", "h2:1,h3:1", script(ASK))
    terminal.wait_for("rank 1 reads ''")
    terminal.wait_for("name? ")
    terminal.type("Bob\n")
    terminal.wait_for("hello Bob\n")
    terminal.wait_for("(Pdb) ")
    terminal.type("p 6 * 7\n")
    terminal.wait_for("42\n")
    terminal.wait_for("(Pdb) ", 2)
    terminal.type("c\n")
    terminal.type("last\n")
    terminal.type("\x04")
    assert terminal.finish() == 0, terminal.seen
    assert "the rest is 'last\\n'" in terminal.seen
    # What was answered is not asked again.
    assert terminal.seen.count("name? ") == 1
