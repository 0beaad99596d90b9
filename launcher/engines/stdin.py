"""The stdin of an engine's command, which hands it to one of the launchers that it starts."""

from __future__ import annotations

import os

from launcher.output.input import Input, Pipe
from launcher.system.loop import Loop


class CommandInput:
    """Ours, as long as the command runs; or an empty file."""

    def __init__(self, loop: Loop, *, is_wanted: bool) -> None:
        self._loop = loop
        self._pipe = Pipe(loop) if is_wanted else None
        self._input: Input | None = None
        # For the command; -1 once that has its own.
        self.fd = self._pipe.read_end if self._pipe else os.open(os.devnull, os.O_RDONLY)

    def begin(self) -> None:
        """Let it flow: the command has been started."""
        self._let_go()
        if self._pipe is not None:
            self._input = Input(self._loop, self._pipe)

    def _let_go(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def close(self) -> None:
        """Read no more."""
        self._let_go()
        if self._input is not None:
            self._input.close()
        if self._pipe is not None:
            self._pipe.close()
