"""In the first attempt rank 3 is killed at step 5; in later attempts every rank reports its first
all-reduce.

Arguments: the FIFO to report to, and `plain` or `prefix`. With `prefix` the script gives each
attempt a part of the store of its own, which is what it takes under a launcher whose store survives
a restart. Times are the monotonic clock's, which all processes of a machine share.
"""

import datetime
import os
import signal
import sys
import time

import torch
import torch.distributed as dist
from ranks import report

KILLED_RANK, KILLED_STEP = 3, 5

fifo, way = sys.argv[1:]
attempt = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
timeout = datetime.timedelta(seconds=60)
if way == "prefix":
    shared, rank, world_size = next(dist.rendezvous("env://", timeout=timeout))
    store = dist.PrefixStore(f"attempt {attempt}", shared)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size, timeout=timeout)
else:
    dist.init_process_group("gloo", timeout=timeout)
rank = dist.get_rank()
for step in range(10):
    dist.all_reduce(torch.ones(1))
    if attempt == 1 and step == 0:
        report(fifo, "reduced", time.monotonic_ns())
    if attempt == 0 and step == KILLED_STEP and rank == KILLED_RANK:
        report(fifo, "killed", time.monotonic_ns())
        os.kill(os.getpid(), signal.SIGKILL)
dist.destroy_process_group()
