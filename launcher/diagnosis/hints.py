"""What well-known error texts mean, and what to do: one table. Pure."""

from __future__ import annotations

# (what the error contains, one of these; what to tell a person). The first match counts.
_HINTS = (
    (
        ("CUDA out of memory", "CUDA error: out of memory"),
        (
            "the GPU's memory is full: a smaller batch, or another process on this GPU (see"
            " nvidia-smi)"
        ),
    ),
    (
        (
            "No space left on device (28)",
            "unable to allocate shared memory",
            "unable to open shared memory object",
            "out of shared memory",
        ),
        (
            "shared memory is full: make /dev/shm larger (docker run --shm-size), or use fewer data"
            " workers"
        ),
    ),
    (
        ("ncclInvalidUsage", "Duplicate GPU detected"),
        "two ranks use the same GPU: let each take its LOCAL_RANK",
    ),
    (
        ("ncclSystemError",),
        (
            "NCCL could not use the network or shared memory: NCCL_DEBUG=INFO in the environment"
            " tells which"
        ),
    ),
    (
        ("ncclUnhandledCudaError", "unhandled cuda error"),
        "a CUDA call inside NCCL failed: NCCL_DEBUG=INFO tells which",
    ),
    (
        ("no kernel image is available",),
        "this build of torch does not support this GPU: install one for its compute capability",
    ),
    (
        ("No module named 'horovod'",),
        "Horovod is built for one torch, from a checkout of the launcher: scripts/build_horovod",
    ),
    (
        ("libmpi.so.40: cannot open shared object file",),
        (
            "the runtime of Open MPI is missing, with which Horovod or mpi4py was built: apt-get"
            " install openmpi-bin"
        ),
    ),
    (
        ("bdb.BdbQuit",),
        (
            "one rank reads the terminal, rank 0 or that of --stdin-rank, and a debugger without"
            " one ends its rank: torch.distributed.breakpoint() stops rank 0 while the others wait"
        ),
    ),
    (("Too many open files",), "the limit of open files is low: ulimit -n 65536"),
    (
        ("Watchdog caught collective operation timeout",),
        "a collective did not end in time: another rank is slow or has gone",
    ),
)

_DATA_WORKER_HINT = (
    "a data worker of this rank has died: often memory; fewer data workers, or smaller batches"
)


def hint_for(text: str, *, lost_data_worker: bool = False) -> str:
    """Return what an error text means, or ""."""
    for marks, hint in _HINTS:
        if any(mark in text for mark in marks):
            return hint
    return _DATA_WORKER_HINT if lost_data_worker else ""
