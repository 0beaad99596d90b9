"""Write lines of 100 bytes. Arguments: how many MB, and `both` for every other block to stderr."""

import os
import sys

LINE = b"x" * 99 + b"\n"
LINES_PER_WRITE = 500

streams = [1, 2] if sys.argv[2:] == ["both"] else [1, 1]
for number in range(int(sys.argv[1]) * 1_000_000 // (len(LINE) * LINES_PER_WRITE)):
    block = LINE * LINES_PER_WRITE
    while block:
        block = block[os.write(streams[number % 2], block) :]
