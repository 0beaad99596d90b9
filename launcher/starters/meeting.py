"""Where the ranks meet: the master address and port, also for starters that set neither.

Rank 0 serves torch's store there. Owns MASTER_ADDR and MASTER_PORT, and what all ranks of a run can
derive alike without them: loopback on one node, the first node of a Slurm step, a port made of the
job's id. Opens no socket. Pure.
"""

from __future__ import annotations

from launcher.errors import UsageError
from launcher.ranks import Place
from launcher.starters.detect import NO_VARIABLE, Environ, in_slurm_step, read_number
from launcher.starters.slurm import expand_nodes

# Derived ports lie below those that the kernel gives to outgoing connections (32768 and up).
_FIRST_PORT, _NUM_PORTS = 20_000, 12_000


def find_master(place: Place, environ: Environ) -> tuple[str, int]:
    """Return the master address and port: the variables', or what all ranks derive alike.

    Raises UsageError, with the command to type, where the starter tells too little to derive it.
    """
    address = environ.get("MASTER_ADDR") or _derive_address(place, environ)
    if environ.get("MASTER_PORT"):
        return address, read_number(environ, "MASTER_PORT", most=65535)
    job = find_job_id(place, environ)
    if not job:
        raise UsageError(
            f"The ranks meet at {address}, but MASTER_PORT is not set, and {place.starter} gives no"
            " job id that it could be derived from.",
            hint=_make_hint(place, "MASTER_PORT=29500"),
        )
    return address, derive_port(job)


def derive_port(job: str) -> int:
    """Return a port for the ranks of a job, the same for all that know its name."""
    from binascii import crc32

    return _FIRST_PORT + crc32(job.encode("utf-8", "surrogateescape")) % _NUM_PORTS


def find_job_id(place: Place, environ: Environ) -> str:
    """Return the starter's name of this run, the same on all its ranks; empty where it has none."""
    run_id = environ.get("LAUNCHER_RUN_ID") or environ.get("TORCHELASTIC_RUN_ID")
    if run_id:
        return run_id
    if place.starter == "openmpi":
        for name in ("PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid", "OMPI_MCA_orte_hnp_uri"):
            if environ.get(name):
                return environ[name]
    if place.starter == "horovod" and environ.get("HOROVOD_GLOO_RENDEZVOUS_PORT"):
        return "horovod." + environ["HOROVOD_GLOO_RENDEZVOUS_PORT"]
    step = name_slurm_step(environ)
    requeues = count_requeues(environ)
    return f"{step}.{requeues}" if requeues else step


def name_slurm_step(environ: Environ) -> str:
    """Return Slurm's name of this job step, `JOB.STEP`, or of the job; empty outside of a job.

    A job that is requeued keeps its name, and so do its steps in their order.
    """
    names = ("SLURM_JOB_ID", "SLURM_STEP_ID") if in_slurm_step(environ) else ("SLURM_JOB_ID",)
    return ".".join(environ[name] for name in names if environ.get(name))


def count_requeues(environ: Environ) -> int:
    """Return how often Slurm has started this job again."""
    has_any = environ.get("SLURM_JOB_ID") and environ.get("SLURM_RESTART_COUNT")
    return read_number(environ, "SLURM_RESTART_COUNT") if has_any else 0


def find_nodes(place: Place, environ: Environ) -> tuple[int, int] | None:
    """Return the index of this rank's node and how many nodes there are.

    None where mpirun over several hosts has not numbered them. The count is that of the Slurm step,
    elsewhere as if each node had as many ranks as this one.
    """
    if place.world_size == place.local_world_size:
        return 0, 1
    if place.sources.get("node_rank", NO_VARIABLE) == NO_VARIABLE:
        return None
    if place.starter == "slurm" and environ.get("SLURM_STEP_NODELIST"):
        return place.node_rank, len(expand_nodes(environ["SLURM_STEP_NODELIST"]))
    return place.node_rank, -(-place.world_size // place.local_world_size)


def _derive_address(place: Place, environ: Environ) -> str:
    if place.starter == "slurm" and environ.get("SLURM_STEP_NODELIST"):
        nodes = expand_nodes(environ["SLURM_STEP_NODELIST"])
        return nodes[0] if len(nodes) > 1 else "127.0.0.1"
    if place.local_world_size == place.world_size:
        return "127.0.0.1"
    raise UsageError(
        f"The {place.world_size} ranks are on several nodes, {place.local_world_size} of them here,"
        f" and neither MASTER_ADDR nor {place.starter} says where rank 0 is.",
        hint=_make_hint(place, "MASTER_ADDR=<host of rank 0>", "MASTER_PORT=29500"),
    )


def _make_hint(place: Place, *settings: str) -> str:
    if place.starter == "openmpi":
        return "Type: mpirun " + " ".join(f"-x {setting}" for setting in settings) + " ..."
    return "Set " + " and ".join(settings) + ", the same for all ranks."
