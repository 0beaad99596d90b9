"""The process of a fork server, from its start to its end, whoever holds it."""

from __future__ import annotations

import os
import signal

import pytest

from launcher.contract import messages
from launcher.errors import SpawnError
from launcher.start.server import ServerProcess
from tests.conftest import is_alive, wait_until


def test_it_is_ended_by_whoever_closes_it_first() -> None:
    server = ServerProcess()
    pid = server.pid
    assert is_alive(pid)
    assert server.collect_exit() is None
    server.close()
    assert not is_alive(pid)
    server.close()
    assert (server.pid, server.socket.fileno(), server.output.closed) == (0, -1, True)


def test_an_end_that_was_collected_is_no_process_to_kill_any_more() -> None:
    server = ServerProcess("mark")
    pid = server.pid
    os.kill(pid, signal.SIGKILL)
    assert wait_until(server.collect_exit, "it has died") == -signal.SIGKILL
    assert server.pid == 0
    server.close()


def test_it_reads_the_messages_of_its_parent() -> None:
    server = ServerProcess()
    config = messages.Configure("script", "/no/such/script.py", [], False, {}, [])
    with server.socket, server.output:
        messages.send(server.socket, config, [server.socket.fileno()])
        server.socket.settimeout(20)
        received = messages.receive(server.socket)
        assert received == (messages.Ready(), []), server.output.read()
        server.close()


def test_an_interpreter_that_is_not_there_is_an_error_and_leaves_nothing_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHON_EXEC", "/no/such/python")
    before = os.listdir("/proc/self/fd")
    with pytest.raises(SpawnError, match="/no/such/python cannot be started"):
        ServerProcess()
    assert os.listdir("/proc/self/fd") == before
