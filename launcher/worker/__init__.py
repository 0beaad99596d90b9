"""What runs inside a worker; in this file: who am I, for scripts that want only their rank.

Owns the torch-free helpers; each reads the environment when it is called, whoever started this
process (the launcher, torchrun, mpirun, srun, or nobody: then it is rank 0 of 1). Imports nothing
when it is loaded, because the bootstrap of every worker passes through here.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from launcher.ranks import Place


def place() -> "Place":
    """Return all that the environment says of this process.

    That is: rank, local_rank, node_rank, world_size, local_world_size, `starter` (who started it)
    and `sources` (which variable said so).

    Raises UsageError, as all of these functions do, where the environment contradicts itself.
    """
    import os

    from launcher.starters.detect import detect

    return detect(os.environ)


def rank() -> int:
    """Return the index of this worker in the whole run, from 0."""
    return place().rank


def local_rank() -> int:
    """Return the index of this worker on its node, from 0."""
    return place().local_rank


def node_rank() -> int:
    """Return the index of this worker's node in the run, from 0."""
    return place().node_rank


def world_size() -> int:
    """Return the number of workers in the whole run."""
    return place().world_size


def local_world_size() -> int:
    """Return the number of workers on this node."""
    return place().local_world_size


def is_main() -> bool:
    """Tell whether this is rank 0, the one that prints and saves."""
    return place().rank == 0


def restart_count() -> int:
    """Return how many times the workers were started again, 0 in the first attempt.

    Restarts by the launcher, by torchrun and by Slurm's requeue count.
    """
    import os

    from launcher.starters.detect import restart_count as count

    return count(os.environ)
