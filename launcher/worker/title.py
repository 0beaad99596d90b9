"""The title of a worker in `ps` and `top`: `[rank 3/8] python train.py --lr 0.1`.

The kernel shows the memory where a process got its arguments, so the title is written there. The
fork server is started with a long last argument to make room.
"""

from __future__ import annotations

import ctypes


def set_title(title: str) -> None:
    """Overwrite this process's arguments as other programs see them; does nothing where that cannot
    be done.
    """
    try:
        with open("/proc/self/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        # Fields 48 and 49 of proc(5); `fields` begins with field 3.
        start, end = int(fields[45]), int(fields[46])
    except (OSError, IndexError, ValueError):
        return
    size = end - start
    if start == 0 or size <= 1:
        return
    text = title.encode("utf-8", "surrogateescape")[: size - 1]
    ctypes.memmove(start, text.ljust(size, b"\0"), size)
    # The short name, which `top` and `ps -o comm` show.
    libc = ctypes.CDLL(None)
    libc.prctl(15, ctypes.c_char_p(text.partition(b"]")[0].lstrip(b"[")[:15]), 0, 0, 0)
