"""What ssh starts on a host, alone: it speaks over its streams, and no supervisor outlives it."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launcher.engines import remote
from launcher.engines.records import RecordReader
from tests.conftest import TIMEOUT_S, Running, Start, is_alive, wait_until

pytestmark = pytest.mark.slow

MARK = "0123456789abcdef"

# A supervisor, as far as the other end knows one: ready, then told to go, then whatever follows.
READY = """
import os, signal, sys, time
from pathlib import Path
from launcher.system.bare import die_with_parent

go, ready = map(int, os.environ["LAUNCHER_STANDBY"].split())
os.write(ready, b"ready\\n")
os.close(ready)
Path("pid").write_text(str(os.getpid()))
told = os.read(go, 100)
if not told:
    Path("dismissed").touch()
    sys.exit(0)
assert die_with_parent(signal.SIGTERM, int(os.environ["LAUNCHER_PARENT_PID"]))
print("goes to", told.decode().strip(), flush=True)
"""
WAITING = """
def note(signum, frame):
    print("got signal", signum, flush=True)
    sys.exit(8)

signal.signal(signal.SIGTERM, note)
print("up", flush=True)
while orders := os.read(go, 100):
    print("got", orders.decode().strip(), flush=True)
    if orders == b"{last}\\n":
        sys.exit(7)
signal.pause()
"""
STOP, INTERRUPT = "stop 15", "stop 2"


class OtherEnd:
    """The process, and what it says."""

    def __init__(self, start_command: Start, folder: Path) -> None:
        argv = [sys.executable, "-I", "-S", os.path.abspath(remote.__file__), MARK]
        self.folder = folder
        self.running: Running = start_command(argv, stdin=-1)
        stdin = self.running.process.stdin
        assert stdin is not None
        self._stdin = stdin

    def send(self, line: str) -> None:
        self._stdin.write(line.encode() + b"\n")
        self._stdin.flush()

    def ask(self, script: str, **changes: object) -> None:
        question = {
            "folder": str(self.folder),
            "reserve": 0,
            "find": "",
            "silence_s": 60,
            "patience_s": 60,
            "has_input": False,
            "argv": [sys.executable, "-c", script],
            "environ": {name: os.environ[name] for name in ("PYTHONPATH",)},
        }
        self.send(json.dumps({**question, **changes}))

    def hang_up(self) -> None:
        self._stdin.close()

    def end(self) -> int:
        """Hang up, and return its exit code."""
        self.hang_up()
        return self.running.finish().code

    def messages(self) -> list[dict[str, Any]]:
        return RecordReader(MARK).feed(self.running.out.encode())[1]

    def wait_for(self, name: str) -> Any:
        return wait_until(lambda: [m for m in self.messages() if name in m], name)[0][name]

    def supervisor(self) -> int:
        path = self.folder / "pid"
        return int(wait_until(lambda: path.exists() and path.read_text(), "it has begun"))


@pytest.fixture
def other_end(start_command: Start, tmp_path: Path) -> OtherEnd:
    return OtherEnd(start_command, tmp_path)


@pytest.fixture
def going(other_end: OtherEnd) -> Callable[..., OtherEnd]:
    """Bring it so far that its supervisor runs; that ends, with 7, at the order `last`."""

    def begin(last: str = STOP, **changes: object) -> OtherEnd:
        other_end.ask(READY + WAITING.format(last=last), **changes)
        other_end.wait_for("ready")
        other_end.send("go h1:1234")
        other_end.running.wait_for("up")
        return other_end

    return begin


def test_the_supervisor_goes_when_it_is_told_to_and_its_end_is_told(other_end: OtherEnd) -> None:
    other_end.ask(READY + "sys.exit(5)")
    ready = other_end.wait_for("ready")
    assert ready["address"] == "" and ready["found"] == ""
    assert "goes" not in other_end.running.out
    other_end.send("go h1:1234")
    assert other_end.wait_for("ended") == 5
    assert other_end.running.finish().code == 5
    assert "goes to h1:1234\n" in other_end.running.out


def test_a_port_is_kept_for_who_asks_for_it_by_its_number(going: Callable[..., OtherEnd]) -> None:
    other_end = going()
    port = other_end.wait_for("ready")["port"]
    with socket.socket() as other:
        with pytest.raises(OSError, match="in use"):
            other.bind(("", port))
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("", port))
        other.listen()
    assert other_end.end() == 7


def test_a_caller_that_asks_nothing_or_goes_before_all_are_ready_starts_nothing(
    other_end: OtherEnd, start_command: Start, tmp_path: Path
) -> None:
    nobody = OtherEnd(start_command, tmp_path)
    nobody.hang_up()
    assert nobody.running.finish()[:3] == (0, "", "")
    other_end.ask(READY)
    other_end.wait_for("ready")
    other_end.hang_up()
    assert other_end.running.finish().code == 0
    assert (tmp_path / "dismissed").exists()


def test_a_caller_that_is_gone_ends_the_supervisor(going: Callable[..., OtherEnd]) -> None:
    other_end = going()
    other_end.hang_up()
    assert other_end.running.finish().code == 7
    assert other_end.running.out.count(f"got {STOP}\n") == 1


def test_a_caller_that_is_silent_ends_the_supervisor(going: Callable[..., OtherEnd]) -> None:
    other_end = going(silence_s=0.5)
    assert other_end.running.finish().code == 7


def test_a_caller_that_says_something_now_and_then_is_answered(
    going: Callable[..., OtherEnd],
) -> None:
    other_end = going()
    num = len(other_end.messages())
    other_end.send("")
    wait_until(lambda: len(other_end.messages()) > num, "it answers")
    assert other_end.end() == 7


def test_a_supervisor_that_does_not_stop_is_killed(going: Callable[..., OtherEnd]) -> None:
    other_end = going("signal 10", patience_s=0.3)
    other_end.hang_up()
    assert other_end.wait_for("ended") == -signal.SIGKILL
    assert other_end.running.finish().code == 128 + signal.SIGKILL


def test_orders_are_passed_on_and_a_caller_that_has_asked_to_stop_does_not_ask_again(
    going: Callable[..., OtherEnd],
) -> None:
    other_end = going("signal 10")
    other_end.send(INTERRUPT)
    other_end.running.wait_for(f"got {INTERRUPT}\n")
    other_end.send("signal 10")
    assert other_end.end() == 7
    assert STOP not in other_end.running.out


def test_signals_to_itself_do_not_end_it(going: Callable[..., OtherEnd]) -> None:
    other_end = going()
    for signum in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        other_end.running.send(signum)
    num = len(other_end.messages())
    other_end.send("")
    wait_until(lambda: len(other_end.messages()) > num, "it answers still")
    assert other_end.end() == 7


def test_killed_itself_it_takes_the_supervisor_along(going: Callable[..., OtherEnd]) -> None:
    other_end = going()
    pid = other_end.supervisor()
    other_end.running.send(signal.SIGKILL)
    wait_until(lambda: not is_alive(pid), "the supervisor ends", TIMEOUT_S)
    other_end.running.finish()
    assert "got signal 15\n" in other_end.running.out


def test_a_stopped_supervisor_costs_no_time_and_can_be_killed(
    going: Callable[..., OtherEnd],
) -> None:
    other_end = going("signal 10", patience_s=0.3)
    os.kill(other_end.supervisor(), signal.SIGSTOP)
    other_end.hang_up()
    assert other_end.wait_for("ended") == -signal.SIGKILL
    other_end.running.finish()


def test_a_folder_that_is_not_there_is_told(other_end: OtherEnd) -> None:
    other_end.ask(READY, folder="/no/such/folder")
    assert other_end.wait_for("problem") == "folder"
    assert other_end.running.finish().code == 1


def test_a_port_that_is_taken_is_told(other_end: OtherEnd) -> None:
    with socket.create_server(("", 0)) as server:
        other_end.ask(READY, reserve=server.getsockname()[1])
        assert other_end.wait_for("problem") == "port"
    assert other_end.running.finish().code == 1
