"""The user's keys on their way to a rank: none is lost or changed while the terminal changes."""

from __future__ import annotations

import os
import select
import termios
import tty
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from launcher.output import keyboard
from launcher.output.console import Console
from launcher.output.keyboard import Keyboard
from launcher.system.loop import Loop
from launcher.system.tty import Settings, write_settings
from tests.conftest import TIMEOUT_S

CTRL_D = b"\x04"


class Ends(NamedTuple):
    user: int  # where the user types
    rank: int  # where the rank reads
    keyboard: Keyboard


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ends]:
    (user, ours), (master, rank) = os.openpty(), os.openpty()
    monkeypatch.setattr(keyboard, "open_stdin_again", lambda: os.dup(ours))
    monkeypatch.setattr(keyboard, "is_in_foreground", lambda fd: True)
    with Loop([]) as loop:
        made = Keyboard(loop, Console(loop, {}), master, 0, lambda signum: None)
        tty.setraw(rank, termios.TCSANOW)
        yield Ends(user, rank, made)
        made.close()
    for fd in (user, ours, master, rank):
        os.close(fd)


def read(fd: int, count: int) -> bytes:
    data = b""
    while len(data) < count:
        assert select.select([fd], [], [], TIMEOUT_S)[0], f"silence after {data!r}"
        data += os.read(fd, 100)
    return data


def test_an_end_of_input_typed_while_the_terminal_changes_stays_one(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    def type_before(fd: int, settings: Settings) -> None:
        os.write(ends.user, b"one\n" + CTRL_D)
        assert select.select([fd], [], [], TIMEOUT_S)[0]
        write_settings(fd, settings)

    monkeypatch.setattr(keyboard, "write_settings", type_before)
    ends.keyboard.ask()
    assert read(ends.rank, 5) == b"one\n" + CTRL_D
