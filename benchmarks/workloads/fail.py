"""Ranks that wait, until one of them fails. Arguments: the FIFO to report to, and what happens.

    exit        rank 3 exits with code 3 when told to
    stubborn    the same, while rank 1 ignores SIGTERM
    wait        all wait; each has a child of its own, as a data worker is
    hang        rank 3 stops moving when told to, the others wait in another function

Told to by the file FIFO.go. Times are the monotonic clock's, which all processes of a machine
share.
"""

import os
import signal
import sys
import threading
import time

from ranks import fill_in_torch_variables, report

FAILING_RANK, STUBBORN_RANK = 3, 1

fifo, what = sys.argv[1:]
fill_in_torch_variables()
rank = int(os.environ["RANK"])


def wait_for_others() -> None:
    threading.Event().wait()


def stand_still() -> None:
    time.sleep(1e6)


if what == "stubborn" and rank == STUBBORN_RANK:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if what == "wait" and os.fork() == 0:
    report(fifo, "child", os.getpid(), rank)
    stand_still()
report(fifo, "ready", os.getpid(), rank)
if rank != FAILING_RANK or what == "wait":
    wait_for_others()
while not os.path.exists(f"{fifo}.go"):
    time.sleep(0.001)
report(fifo, "failed", time.monotonic_ns())
if what == "hang":
    stand_still()
sys.exit(3)
