"""Join a Gloo group, add up the ranks, leave: the first thing that every distributed job does."""

import torch
import torch.distributed as dist
from ranks import fill_in_torch_variables

fill_in_torch_variables()
dist.init_process_group("gloo")
total = torch.tensor(float(dist.get_rank()))
dist.all_reduce(total)
assert total.item() == sum(range(dist.get_world_size()))
dist.destroy_process_group()
