"""Messages of the other end of a connection, among the output of a supervisor. Pure."""

from __future__ import annotations

import json

from launcher.engines.remote import RECORD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class RecordReader:
    """Takes the messages out of a stream; the other bytes stay as they are."""

    def __init__(self, mark: str) -> None:
        """mark: a word that only this run has."""
        self._begin = RECORD + mark.encode() + b" "
        self._held = b""

    def feed(self, data: bytes) -> tuple[bytes, list[dict[str, Any]]]:
        """Take bytes; return those that are no message, and the messages that are whole now."""
        data, self._held = self._held + data, b""
        output: list[bytes] = []
        messages: list[dict[str, Any]] = []
        while (at := data.find(self._begin)) >= 0:
            output.append(data[:at])
            end = data.find(b"\n", at)
            if end < 0:
                self._held = data[at:]
                return b"".join(output), messages
            messages.append(json.loads(data[at + len(self._begin) : end]))
            data = data[end + 1 :]
        # A message may have begun at the very end.
        at = data.rfind(RECORD, -len(self._begin))
        if at >= 0 and self._begin.startswith(data[at:]):
            data, self._held = data[:at], data[at:]
        output.append(data)
        return b"".join(output), messages
