"""Files that others see complete or not at all, and descriptors out of the way."""

from __future__ import annotations

import os


def write_whole(path: str, text: str) -> bool:
    """Write a file that others see complete or not at all; returns whether: a full disk is not
    worth an error here.
    """
    temporary = f"{path}.tmp"
    try:
        with open(temporary, "w", encoding="utf-8", errors="surrogatepass") as file:
            file.write(text)
        os.replace(temporary, path)
    except OSError:
        return False
    return True
