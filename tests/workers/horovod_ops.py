"""Every Horovod operation once, on any number of ranks; each result is checked against what it must
be.
"""

import sys

import horovod.torch as hvd
import torch

hvd.init(process_sets="dynamic")
rank, size = hvd.rank(), hvd.size()
total = size * (size + 1) // 2  # 1 + 2 + ... + size
mine = torch.full((2, 2), float(rank + 1))


def check(name, result, expected):
    expected = torch.as_tensor(expected, dtype=result.dtype)
    assert torch.allclose(result, expected), (
        f"{name} on rank {rank}: {result.tolist()}, not {expected.tolist()}"
    )


check("sum", hvd.allreduce(mine, op=hvd.Sum), torch.full((2, 2), total))
check("mean", hvd.allreduce(mine), torch.full((2, 2), total / size))
check("min", hvd.allreduce(mine, op=hvd.Min), torch.ones(2, 2))
check(
    "compressed",
    hvd.allreduce(mine, op=hvd.Sum, compression=hvd.Compression.fp16),
    torch.full((2, 2), total),
)
rows = hvd.allgather(torch.full((rank + 1,), rank))  # another length on each rank
check("allgather", rows, [owner for owner in range(size) for _ in range(owner + 1)])
check("broadcast", hvd.broadcast(mine, root_rank=1), torch.full((2, 2), 2.0))
received = hvd.alltoall(torch.full((size,), rank))
check("alltoall", received[0] if isinstance(received, tuple) else received, list(range(size)))
check(
    "reducescatter",
    hvd.reducescatter(torch.arange(size * 2), op=hvd.Sum),
    [size * 2 * rank, size * (2 * rank + 1)],
)
if size > 2:
    pair = hvd.add_process_set([0, 1])
    if pair.included():
        check(
            "process set",
            hvd.allreduce(mine, op=hvd.Sum, process_set=pair),
            torch.full((2, 2), 3.0),
        )
    hvd.barrier()
    hvd.remove_process_set(pair)
if "adasum" in sys.argv:
    same = torch.tensor([3.0, 4.0])
    check("adasum of equal gradients", hvd.allreduce(same, op=hvd.Adasum, name="adasum"), same)
for step in range(rank + 1):  # ranks run out of work one after the other
    hvd.allreduce(torch.ones(1), name=f"uneven {step}")
last = hvd.join()
assert last == size - 1, f"the last rank to join was {last}"
with open(f"right_{rank}", "w"):  # mpirun may mix lines of several ranks on its stdout
    sys.stdout.write(f"rank {rank} of {size}: every operation is right\n")
