"""The title of a worker in `ps` and `top`: `[rank 3/8] python train.py --lr 0.1`.

The kernel shows the memory where a process got its arguments, so the title is written there. The
fork server is started with a long last argument to make room.
"""

from __future__ import annotations

import ctypes

from launcher.system.bare import stat_fields

_PR_SET_NAME = 15


def set_title(title: str) -> None:
    """Overwrite this process's arguments as other programs see them, where that can be done."""
    try:
        fields = stat_fields("/proc/self/stat")
        start, end = int(fields[48]), int(fields[49])
    except (OSError, IndexError):  # a chroot without /proc; a sandbox that does not tell
        return
    size = end - start
    if start == 0 or size <= 1:
        return
    text = title.encode("utf-8", "surrogateescape")[: size - 1]
    ctypes.memmove(start, text.ljust(size, b"\0"), size)
    # The short name, which `top` and `ps -o comm` show.
    name = text.partition(b"]")[0].lstrip(b"[")[:15]
    ctypes.CDLL(None).prctl(_PR_SET_NAME, ctypes.c_char_p(name), 0, 0, 0)
