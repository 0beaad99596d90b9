"""What runs inside a worker process. This file: who am I, for scripts that want no more than their
rank.

Owns the torch-free helpers; each reads the environment when it is called, whoever started this
process (the launcher, torchrun, mpirun, srun, or nobody: then it is rank 0 of 1). Imports nothing
when it is loaded, because the bootstrap of every worker passes through here.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from launcher.ranks import Place


def place() -> "Place":
    """All that the environment says of this process: rank, local_rank, node_rank, world_size,
    local_world_size, `starter` (who started it) and `sources` (which variable said so).

    Raises UsageError, as all of these functions do, where the environment contradicts itself.
    """
    import os

    from launcher.starters.detect import detect

    return detect(os.environ)


def rank() -> int:
    """Index of this worker in the whole run, from 0."""
    return place().rank


def local_rank() -> int:
    """Index of this worker on its node, from 0."""
    return place().local_rank


def node_rank() -> int:
    """Index of this worker's node in the run, from 0."""
    return place().node_rank


def world_size() -> int:
    """Number of workers in the whole run."""
    return place().world_size


def local_world_size() -> int:
    """Number of workers on this node."""
    return place().local_world_size


def is_main() -> bool:
    """True on rank 0, the one that prints and saves."""
    return place().rank == 0


def restart_count() -> int:
    """How many times the workers were started again, by the launcher, torchrun or Slurm's requeue;
    0 in the first attempt.
    """
    import os

    from launcher.starters.detect import restart_count as count

    return count(os.environ)
