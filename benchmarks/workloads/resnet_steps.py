"""Train a ResNet-18 on made-up pictures with all ranks, and report the steps per second of rank 0.

Arguments: FIFO, then `horovod` or `ddp` (torch's DistributedDataParallel over Gloo). 224 pixels,
batches of 2 per rank, float32, on the CPU; the same model, data and optimizer both ways. The first
steps are not timed.
"""

import sys
import time

import torch
from ranks import fill_in_torch_variables, report
from torch import nn
from torchvision.models import resnet18

BATCH = 2
WARM_UP_STEPS = 5
STEPS = 20


def with_horovod(model: nn.Module) -> tuple[int, nn.Module, torch.optim.Optimizer]:
    """Return the rank, the model and the optimizer whose steps average the gradients."""
    import horovod.torch as hvd

    hvd.init()
    hvd.broadcast_parameters(model.state_dict(), root_rank=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9)
    return (
        hvd.rank(),
        model,
        hvd.DistributedOptimizer(optimizer, named_parameters=model.named_parameters()),
    )


def with_ddp(model: nn.Module) -> tuple[int, nn.Module, torch.optim.Optimizer]:
    """Return the rank, the model whose backward pass averages the gradients, and the optimizer."""
    import torch.distributed as dist

    fill_in_torch_variables()
    dist.init_process_group("gloo")
    wrapped = nn.parallel.DistributedDataParallel(model)
    return dist.get_rank(), wrapped, torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9)


def main() -> None:
    """Train, and report."""
    fifo, way = sys.argv[1:]
    rank, model, optimizer = {"horovod": with_horovod, "ddp": with_ddp}[way](resnet18(weights=None))
    torch.manual_seed(rank)
    inputs, labels = torch.randn(BATCH, 3, 224, 224), torch.randint(1000, (BATCH,))

    def train(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), labels).backward()
            optimizer.step()

    train(WARM_UP_STEPS)
    began = time.perf_counter()
    train(STEPS)
    took = time.perf_counter() - began
    if rank == 0:
        report(fifo, "steps_per_s", STEPS / took)
    if way == "ddp":
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
