"""A training on several nodes as far as a launcher sees it: ranks that add up small numbers.

Arguments: the FIFO to report to, and `once` or `on`: whether it ends after its first all-reduce, of
which each rank reports its rank, the world's size, the time, its host and its process there. The
time is the monotonic clock's, which all hosts made of namespaces share.
"""

import datetime
import os
import sys
import time

import torch
import torch.distributed as dist
from ranks import report

fifo, way = sys.argv[1:]
dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=60))
rank, world_size = dist.get_rank(), dist.get_world_size()
dist.all_reduce(torch.ones(1))
host = os.uname().nodename
report(fifo, "reduced", rank, world_size, time.monotonic_ns(), host, os.getpid())
while way == "on":
    time.sleep(0.05)
    dist.all_reduce(torch.ones(1))
dist.destroy_process_group()
