"""Write lines of 100 bytes to stdout. Argument: how many MB."""

import os
import sys

LINE = b"x" * 99 + b"\n"
LINES_PER_WRITE = 500

for _ in range(int(sys.argv[1]) * 1_000_000 // (len(LINE) * LINES_PER_WRITE)):
    block = LINE * LINES_PER_WRITE
    while block:
        block = block[os.write(1, block) :]
