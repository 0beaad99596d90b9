"""Files that others see complete or not at all, and descriptors out of a script's way."""

from __future__ import annotations

import fcntl
import os

# Below it are descriptors that scripts number by hand, `3<file` in a shell, say.
_LOWEST_FD = 50


def write_whole(path: str, text: str) -> bool:
    """Write a file that others see complete or not at all.

    Returns whether: a full disk is not worth an error here.
    """
    temporary = f"{path}.tmp"
    try:
        with open(temporary, "w", encoding="utf-8", errors="surrogatepass") as file:
            file.write(text)
        os.replace(temporary, path)
    except OSError:
        try:
            os.unlink(temporary)
        except OSError:
            pass
        return False
    return True


def write_in_place(path: str, text: str) -> str:
    """Write into a file that belongs to somebody else, who may have mounted it; return why not."""
    try:
        with open(path, "w", encoding="utf-8", errors="surrogatepass") as file:
            file.write(text)
    except OSError as error:
        return os.strerror(error.errno or 0)
    return ""


def move_out_of_the_way(fd: int) -> int:
    """Give a descriptor that stays open a high number, and return it.

    Then a script finds its next free descriptor where it would under plain python.
    """
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _LOWEST_FD)
    finally:
        os.close(fd)
