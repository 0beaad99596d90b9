"""The node of this launcher, by whoever has started a launcher on each one: the order of asking.

Environment in, value out. Pure, but for the name of this host.
"""

from __future__ import annotations

from collections.abc import Callable

from launcher.starters.detect import Environ
from launcher.starters.mpi_nodes import place_mpi
from launcher.starters.placement import Placement

# What the workers of a launcher and of torchrun have. A launcher below one of them makes a run of
# its own, whatever has started the one above.
_WORKERS = ("LAUNCHER_RUN_ID", "TORCHELASTIC_RUN_ID")


def find_placement(environ: Environ, read_full_name: Callable[[], str]) -> Placement | None:
    """Return the place among the run's launchers; None where this launcher is the only one.

    Asked are, in this order: mpirun, because SLURM_ numbers below it are of its daemons; srun; the
    variables of services, which a batch script may export for all of a job's steps; and the index
    of a Kubernetes Job. read_full_name: returns the name of this host with its domain.
    """
    if is_below_a_rank(environ):
        return None
    placement = place_mpi(environ)
    if placement is not None:
        return placement
    from launcher.starters.service_nodes import place_by_service
    from launcher.starters.slurm_nodes import place_slurm

    return place_slurm(environ) or place_by_service(environ, read_full_name)


def is_below_a_rank(environ: Environ) -> bool:
    """Tell whether this process has been started by a worker, whose variables it has inherited."""
    return bool(environ.get("RANK")) and any(map(environ.get, _WORKERS))
