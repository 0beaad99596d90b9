"""The title of a worker in `ps` and `top`: `[rank 3/8] python train.py --lr 0.1`.

The kernel shows the memory where a process got its arguments, so the title is written there. The
fork server is started with a long last argument to make room.
"""

from __future__ import annotations

from launcher.system.bare import stat_fields


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
    # The short name, which `top` and `ps -o comm` show.
    name = text.partition(b"]")[0].lstrip(b"[")[:15]
    try:
        with open("/proc/self/mem", "r+b", buffering=0) as memory:
            memory.seek(start)
            memory.write(text.ljust(size, b"\0"))
        with open("/proc/self/comm", "wb", buffering=0) as comm:
            comm.write(name)
    except OSError:  # a sandbox that lets nobody write there
        return
