"""What is asked of the system with nothing loaded but `os`: where many processes start at once."""

from __future__ import annotations

import os


def fill_standard_descriptors() -> None:
    """Open what of 0, 1 and 2 was closed: otherwise our first pipe would get such a number."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(fd)


def stat_fields(path: str) -> list[bytes]:
    """Return what a `stat` file of /proc says of a process or a thread: [n] is field n of proc(5).

    OSError when it has ended.
    """
    with open(path, "rb") as file:
        text = file.read()
    # The name stands in parentheses and may itself contain anything, parentheses included.
    open_at, close_at = text.find(b"("), text.rfind(b")")
    return [b"", text[: open_at - 1], text[open_at + 1 : close_at], *text[close_at + 2 :].split()]
