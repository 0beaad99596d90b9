"""Engines that start one process for each rank: mpirun, srun, horovodrun. What follows from that.

Whether this process is one of several ranks or a launcher, and whether the flags go with it.
"""

from __future__ import annotations

from collections.abc import Mapping

from launcher.errors import EnvironmentMismatch, UsageError
from launcher.options.spec import LaunchSpec
from launcher.plan.program import horovod_use
from launcher.ranks import Place
from launcher.starters.detect import find_mpi_engine
from launcher.starters.nodes import is_below_a_rank

# Engines that start one process for each rank, and tell it which one it is.
_ENGINES = {
    "openmpi": "mpirun",
    "mvapich": "mpirun",
    "mpich": "mpirun",
    "slurm": "srun",
    "horovod": "horovodrun",
}

_COUNT_FLAG = {"horovodrun": "-np"}


def engine_name(place: Place) -> str:
    """Return the command that has started a process with this place."""
    return _ENGINES.get(place.starter, "a service")


def is_rank(spec: LaunchSpec, place: Place) -> bool:
    """Tell whether this process is to be one rank of an engine's job, and no supervisor.

    Decided by how many processes the engine has started on this node; one there that is asked for
    several workers, or told of nodes, is that node's launcher. Raises EnvironmentMismatch when the
    flags ask several processes of a node for that.
    """
    asks_for_workers = (
        spec.provenance.get("nproc_per_node", "default") != "default" and spec.nproc != 1
    )
    # One process alone starts workers, unless it is to be a rank of MPI, which needs an engine.
    is_alone = place.world_size == 1 and (spec.backend != "mpi" or asks_for_workers)
    if place.starter not in _ENGINES or is_alone:
        return False
    engine = _ENGINES[place.starter]
    if not asks_for_workers and spec.max_nodes == 1:
        return True
    if place.local_world_size > 1:
        raise _several_launchers(spec, place, asks_for_workers=asks_for_workers)
    if engine == "horovodrun":
        raise UsageError(
            f"horovodrun has started {place.world_size} launchers, one on each node, and cannot"
            " tell them where they meet.",
            hint=(
                f"Type: mpirun --map-by ppr:1:node python -m launcher --nproc-per-node"
                f" {spec.nproc_per_node} {spec.script}, or for one rank per process: horovodrun -np"
                f" RANKS python -m launcher {spec.script}"
            ),
        )
    return False


def is_rank_of_service(spec: LaunchSpec, environ: Mapping[str, str]) -> bool:
    """Tell whether a service has started this process as one of several ranks.

    It has set the whole contract, LOCAL_RANK too; neither a number of workers was typed nor one of
    nodes: that is for the launcher of each.
    """
    names = ("MASTER_ADDR", "RANK", "LOCAL_RANK", "WORLD_SIZE")
    return (
        spec.provenance.get("nproc_per_node", "default") == "default"
        and spec.max_nodes == 1
        and all(map(environ.get, names))
        and environ["WORLD_SIZE"].strip() != "1"
        and not is_below_a_rank(environ)
    )


def _several_launchers(
    spec: LaunchSpec, place: Place, *, asks_for_workers: bool
) -> EnvironmentMismatch:
    """Return the error for several processes of an engine on one node, each to be a launcher."""
    engine = _ENGINES[place.starter]
    per_node = f"--nproc-per-node {spec.nproc_per_node}"
    asked = f"{per_node} asks each of them to start {spec.nproc_per_node} more"
    if not asks_for_workers:
        asked = f"--nnodes {spec.nnodes} is for one launcher on each"
    return EnvironmentMismatch(
        f"{engine} has started {place.local_world_size} processes on this node"
        f" ({place.sources.get('local_world_size', '')}={place.local_world_size}), and {asked}.",
        hint=(
            f"Type for {place.world_size} ranks: {engine} {_COUNT_FLAG.get(engine, '-n')}"
            f" {place.world_size} python -m launcher {spec.script}, or for one launcher per"
            f" node: {_per_node(engine)}python -m launcher {per_node} {spec.script}"
        ),
    )


def _per_node(engine: str) -> str:
    """Return what starts one launcher on each node; nothing for horovodrun: it uses this one."""
    return {"mpirun": "mpirun --map-by ppr:1:node ", "srun": "srun --ntasks-per-node=1 "}.get(
        engine, ""
    )


def check_horovod(spec: LaunchSpec, place: Place, environ: Mapping[str, str]) -> None:
    """Raise UsageError where Horovod finds neither MPI nor a store: ranks would train alone.

    For ranks on several hosts, and for those that run in place.
    """
    if place.starter != "slurm" or find_mpi_engine(environ) or not horovod_use(spec, environ):
        return
    why = (
        "--backend horovod"
        if spec.backend == "horovod"
        else f"{spec.script}, which imports horovod,"
    )
    raise UsageError(
        f"{why} cannot bring together the {place.world_size} ranks that srun has started: Horovod"
        " needs MPI for that, and neither PMIX_RANK nor PMI_RANK is set.",
        hint=(
            f"Type: srun --mpi=pmix -n {place.world_size} python -m launcher {spec.script}, in an"
            f" allocation: mpirun -np {place.world_size} python -m launcher {spec.script}, or on"
            f" one node: srun -n 1 python -m launcher --nproc-per-node {place.world_size}"
            f" {spec.script}"
        ),
    )
