"""Join Horovod, add up the ranks, leave."""

import horovod.torch as hvd
import torch

hvd.init()
total = hvd.allreduce(torch.tensor([float(hvd.rank())]), op=hvd.Sum)
assert total.item() == sum(range(hvd.size()))
