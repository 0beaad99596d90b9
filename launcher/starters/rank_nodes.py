"""Hosts on which an engine has started the ranks: how many they are, and where rank 0 is.

For the supervisors of ranks on several hosts, which form one run where both is known. The number of
a host among them follows from its ranks. Names stay names. Pure.
"""

from __future__ import annotations

from launcher.ranks import Place
from launcher.starters.detect import Environ, read_number
from launcher.starters.meeting import count_requeues, derive_port, find_job_id, name_slurm_step
from launcher.starters.mpi_nodes import list_hosts, read_job_key
from launcher.starters.placement import Placement
from launcher.starters.slurm import expand_nodes

_SLURM_NODES = "SLURM_STEP_NODELIST"

# Of Open MPI up to 4: the hosts that have ranks.
_NUM_HOSTS = "OMPI_MCA_orte_num_nodes"


def place_ranks(place: Place, environ: Environ) -> Placement | None:
    """Return what is known of the hosts of this rank's job; None where it is on one host.

    None, too, where the engine says too little: MPICH and Open MPI 5 do not count the hosts.
    """
    if place.world_size == place.local_world_size:
        return None
    if place.starter == "slurm":
        found = _place_slurm(environ)
    elif place.starter == "openmpi":
        found = _place_openmpi(place, environ)
    else:
        found = None
    if found is None or not (found.host or environ.get("MASTER_ADDR")):
        return None
    has_port = bool(environ.get("MASTER_PORT"))
    return found._replace(
        host=environ.get("MASTER_ADDR") or found.host,
        master_addr=environ.get("MASTER_ADDR", ""),
        master_port=read_number(environ, "MASTER_PORT", least=1, most=65535) if has_port else 0,
    )


def _place_slurm(environ: Environ) -> Placement | None:
    # A list of the user's may have rank 0 on any node.
    if not environ.get(_SLURM_NODES) or environ.get("SLURM_DISTRIBUTION") == "arbitrary":
        return None
    nodes = expand_nodes(environ[_SLURM_NODES])
    step = name_slurm_step(environ)
    port = derive_port(f"{step}.{count_requeues(environ)}.ranks")
    return Placement("srun", len(nodes), None, nodes[0], port, step, gathers_output=True)


def _place_openmpi(place: Place, environ: Environ) -> Placement | None:
    job = find_job_id(place, environ)
    if not environ.get(_NUM_HOSTS) or not job:
        return None
    number = read_number(environ, _NUM_HOSTS, least=1)
    return Placement(
        "mpirun",
        number,
        None,
        list_hosts(environ),
        derive_port(f"{job}.ranks"),
        job,
        is_named=False,
        secret=read_job_key(environ),
        gathers_output=True,
    )
