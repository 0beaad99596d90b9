"""The reader of `--events FD`: one JSON object in a line for each event, and never a blocked loop.

A reader that does not read fills a bounded buffer; then events are dropped, and counted in the next
one that it gets.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping

from launcher.errors import UsageError
from launcher.output.writer import StreamWriter
from launcher.system.loop import Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# What may wait for a reader that is slow.
_MOST_PENDING_BYTES = 1 << 20


def keep_for_ourselves(fd: int) -> None:
    """Check a descriptor for events, and keep it from every process that is started from now on.

    Its reader is to see the end when we end. UsageError where it cannot be written.
    """
    try:
        mode = os.fstat(fd).st_mode
        os.write(fd, b"")
        os.set_inheritable(fd, False)
    except OSError as error:
        raise UsageError(
            f"--events {fd}: this descriptor cannot be written: {error.strerror}.",
            hint=f"Open it for the launcher, in a shell for example by: {fd}>events.jsonl",
        ) from None
    if stat.S_ISDIR(mode):
        raise UsageError(f"--events {fd}: this descriptor is a folder.")


class Follower:
    """Tells a program what happens."""

    def __init__(self, fd: int, loop: Loop) -> None:
        self._writer = StreamWriter(fd, loop)
        self._num_dropped = 0

    def tell(self, event: Mapping[str, Any]) -> None:
        """Pass an event on, or drop it where too much waits already."""
        line = json.dumps(
            event if not self._num_dropped else {**event, "dropped": self._num_dropped}
        )
        if self._writer.pending_bytes + len(line) > _MOST_PENDING_BYTES:
            self._num_dropped += 1
            return
        self._num_dropped = 0
        self._writer.write(line.encode("utf-8", "backslashreplace") + b"\n")

    def close(self) -> None:
        """Wait a moment for a reader that is slow."""
        self._writer.drain()
        self._writer.close()
