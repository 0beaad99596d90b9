"""The launcher on a terminal of a host."""

from __future__ import annotations

import fcntl
import os
import select
import termios
from collections.abc import Iterator
from contextlib import contextmanager

from tests.conftest import TIMEOUT_S, command
from tests.lab.lab import Lab


class HostTerminal:
    """The launcher on a terminal of h1."""

    def __init__(self, lab: Lab, env: dict[str, str]) -> None:
        self._lab = lab
        self._env = env
        self.master = -1
        self.seen = ""

    def start(self, *args: str, **env: str) -> None:
        self.master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, b"\x1e\0\x64\0\0\0\0\0")  # 30 lines, 100 columns
        self.running = self._lab["h1"].start(
            *command(*args),
            env={**self._env, **env, "TERM": "xterm"},
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
        ready, _, _ = select.select([self.master], [], [], TIMEOUT_S)
        assert ready, f"silence after {self.seen!r}"
        try:
            data = os.read(self.master, 1 << 16)
        except OSError:  # how Linux says that the other end has gone
            return False
        self.seen += data.decode(errors="replace").replace("\r\n", "\n")
        return bool(data)


@contextmanager
def on_terminal(lab: Lab, env: dict[str, str]) -> Iterator[HostTerminal]:
    """A terminal of h1 for one launch, with these variables."""
    made = HostTerminal(lab, env)
    try:
        yield made
    finally:
        if made.master >= 0:
            made.hang_up()


# Rank 0 asks, and stops in its debugger; the other one reads what it is given.
ASK = """
import os, sys
if os.environ["RANK"] == "0":
    print("hello", input("name? "), flush=True)
    breakpoint()
    print(f"the rest is {sys.stdin.read()!r}")
else:
    print(f"rank 1 reads {sys.stdin.read()!r}")
"""


def answer(terminal: HostTerminal) -> None:
    """Type what ASK asks for, to the end; each answer ends a question."""
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
