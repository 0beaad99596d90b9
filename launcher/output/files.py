"""A file that gets what workers write, for as long as it can be written."""

from __future__ import annotations

import os

from launcher.output.console import Console


class LogFile:
    """An append-only file that gives up quietly, but not silently, when it cannot be written."""

    def __init__(self, path: str, console: Console) -> None:
        self._path = path
        self._console = console
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view and self._fd >= 0:
            try:
                view = view[os.write(self._fd, view) :]
            except OSError as error:
                self._console.say(
                    f"cannot write {self._path}: {error.strerror}; this file ends here, the run"
                    " goes on"
                )
                self.close()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
