"""A pipe as stdin of a launch over several hosts, whatever engine places them."""

from __future__ import annotations

import hashlib
import subprocess

from tests.conftest import TIMEOUT_S, Running

# More than a pipe holds.
_DATA = bytes(range(256)) * 2000
EMPTY = hashlib.sha256(b"").hexdigest()

# What a rank has read, in one line.
READ = """
import hashlib, sys
print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())
"""


def check_that_one_reads(running: Running, reader: int) -> None:
    """Feed a launch of two ranks each on h1 and h2, which run READ; this rank has it all."""
    running.process.stdin.write(_DATA)
    running.process.stdin.close()
    done = running.finish()
    assert done.code == 0, done.err
    read = [EMPTY] * 4
    read[reader] = hashlib.sha256(_DATA).hexdigest()
    assert sorted(done.lines) == [
        f"[h{1 + rank // 2}:{rank}] {digest}" for rank, digest in enumerate(read)
    ]


def check_that_nobody_waits(running: Running) -> None:
    """Feed a launch whose ranks read nothing: more than fits anywhere, and no end of it."""
    writer = subprocess.Popen(["yes"], stdout=running.process.stdin)
    try:
        assert running.finish().code == 0
        running.process.stdin.close()
        writer.wait(TIMEOUT_S)
    finally:
        writer.kill()
        writer.wait()
