"""This process is a rank already: mpirun, srun or horovodrun has started it. The contract is set
once, and the script runs in place.

No child, no pipes, no second supervisor. The one place in this package, outside the workers, that
puts anything into os.environ.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping

from launcher.attached.agreement import MPI_ENGINES, Agreement, agree, known_nodes
from launcher.attached.script import run_in_place
from launcher.contract import environment
from launcher.errors import EnvironmentMismatch, UsageError
from launcher.options.spec import LaunchSpec
from launcher.plan.program import horovod_use
from launcher.ranks import Place
from launcher.starters.detect import find_mpi_engine
from launcher.starters.meeting import find_job_id, find_master
from launcher.system.machine import usable_cpus
from launcher.system.processes import die_with_parent, process_info

# Engines that start one process for each rank, and tell it which one it is.
_ENGINES = {
    "openmpi": "mpirun",
    "mvapich": "mpirun",
    "mpich": "mpirun",
    "slurm": "srun",
    "horovod": "horovodrun",
}

_COUNT_FLAG = {"horovodrun": "-np"}

# The processes of engines that start ranks, by the names that the kernel shows. horovodrun tidies
# up by itself.
_DAEMONS = {
    "mpirun",
    "mpiexec",
    "orterun",
    "orted",
    "prterun",
    "prted",
    "hydra_pmi_proxy",
    "slurmstepd",
}


def should_attach(spec: LaunchSpec, place: Place) -> bool:
    """Tell whether this process is to be one rank of an engine's job, and no supervisor.

    Decided by how many processes the engine has started on this node. Raises EnvironmentMismatch
    when the flags ask each of them for several workers more.
    """
    asks_for_workers = (
        spec.provenance.get("nproc_per_node", "default") != "default" and spec.nproc != 1
    )
    # One process alone starts workers, unless it is to be a rank of MPI, which needs an engine.
    is_alone = place.world_size == 1 and (spec.backend != "mpi" or asks_for_workers)
    if place.starter not in _ENGINES or is_alone:
        return False
    engine = _ENGINES[place.starter]
    if not asks_for_workers:
        return True
    source = place.sources.get("local_world_size", "")
    started = (
        f"{engine} has started {place.local_world_size} processes on this node"
        f" ({source}={place.local_world_size})"
    )
    if place.local_world_size > 1:
        raise EnvironmentMismatch(
            f"{started}, and --nproc-per-node {spec.nproc_per_node} asks each of them to start"
            f" {spec.nproc_per_node} more.",
            hint=(
                f"Type for {place.world_size} ranks: {engine} {_COUNT_FLAG.get(engine, '-n')}"
                f" {place.world_size} python -m launcher {spec.script}, or for one launcher per"
                f" node: {_per_node(engine)}python -m launcher --nproc-per-node"
                f" {spec.nproc_per_node} {spec.script}"
            ),
        )
    raise UsageError(
        f"{engine} has started {place.world_size} launchers, one on each node, and this version"
        " runs one node.",
        hint=(
            f"Type for one rank per process: {engine} {_COUNT_FLAG.get(engine, '-n')} RANKS python"
            f" -m launcher {spec.script}"
        ),
    )


def end_with_engine(is_rank: bool) -> None:
    """See to it that this process ends when the engine's process that started it is killed.

    A rank that uses MPI notices that; one that does not would run on, and nobody would end it. A
    rank is killed, like a worker whose launcher is killed; a launcher gets SIGTERM, and its workers
    their time. Where a shell or another program of the user's stands between, that one is in
    charge.
    """
    signum = signal.SIGKILL if is_rank else signal.SIGTERM
    parent_pid = os.getppid()
    parent = process_info(parent_pid)
    if parent is not None and parent.name in _DAEMONS and not die_with_parent(signum, parent_pid):
        signal.raise_signal(signum)


def _per_node(engine: str) -> str:
    """Return what starts one launcher on each node; nothing for horovodrun: it uses this one."""
    return {"mpirun": "mpirun --map-by ppr:1:node ", "srun": "srun --ntasks-per-node=1 "}.get(
        engine, ""
    )


def check_horovod(spec: LaunchSpec, place: Place, environ: Mapping[str, str]) -> None:
    """Raise UsageError where Horovod finds neither MPI nor a store: ranks would train alone."""
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


def become_rank(spec: LaunchSpec, place: Place) -> Callable[[], int]:
    """Set the contract of this rank in this process; return what then runs the script.

    Raises UsageError where the engine tells too little for the ranks to meet.
    """
    for name in ("nproc_per_node", "max_restarts", "start", "numa_binding"):
        _warn_if_ignored(spec, place, name)
    agreed = agree(place, os.environ)
    variables = make_contract(spec, place, os.environ, agreed)
    os.environ.update(variables)
    args = [environment.expand(argument, variables) for argument in spec.script_args]

    def run() -> int:
        try:
            return run_in_place(spec, place, args, agreed.port)
        finally:
            # Bound until now, on rank 0: nobody else takes the port before torch's store does.
            if agreed.reserved is not None:
                agreed.reserved.close()

    return run


def dry_run(spec: LaunchSpec, place: Place, environ: Mapping[str, str]) -> str:
    """Return what `become_rank` would do, as text.

    MPI is left alone: what it would agree on is not known before.
    """
    from launcher.plan.dry_run import render_rank

    is_set = environ.get("MASTER_ADDR") and environ.get("MASTER_PORT")
    nodes = known_nodes(place, environ)
    if place.starter in MPI_ENGINES and not is_set:
        variables = make_contract(
            spec, place, environ, Agreement("rank 0's, told over MPI", 0, None, nodes)
        )
        variables["MASTER_PORT"] = variables["MASTER_ADDR"]
    else:
        variables = make_contract(
            spec, place, environ, Agreement(*find_master(place, environ), None, nodes)
        )
    if nodes is None:
        variables.update(
            dict.fromkeys(environment.NODE_VARIABLES, "told over MPI, if mpi4py is installed")
        )
    return render_rank(spec, place, variables)


def make_contract(
    spec: LaunchSpec, place: Place, environ: Mapping[str, str], agreed: Agreement
) -> dict[str, str]:
    """Return the contract of an attached rank.

    What the user has set stays; what nobody knows is not in it.
    """
    run_id = find_job_id(place, environ) or f"{place.starter}-{agreed.port}"
    if agreed.nodes is not None:
        place = place._replace(node_rank=agreed.nodes.rank, num_nodes=agreed.nodes.num)
    run = environment.Run(run_id, spec.role, spec.backend)
    attempt = int(environ.get("SLURM_RESTART_COUNT", "0"))
    values = environment.make_identity(run, place, attempt, (agreed.address, agreed.port))
    values.update(LAUNCHER_RUN_ID=run_id, LAUNCHER_BACKEND=spec.backend)
    defaults = {"OMP_NUM_THREADS": str(_threads(place)), "PYTHONUNBUFFERED": "1"}
    if place.local_world_size == place.world_size:
        defaults.update(GLOO_SOCKET_IFNAME="lo", NCCL_SOCKET_IFNAME="lo")
    values.update((name, value) for name, value in defaults.items() if name not in environ)
    return values


def _threads(place: Place) -> int:
    cpus = usable_cpus()
    # An engine that binds its ranks has already given each one its share.
    is_bound = cpus < (os.cpu_count() or 1)
    return cpus if is_bound else max(1, cpus // place.local_world_size)


def _warn_if_ignored(spec: LaunchSpec, place: Place, name: str) -> None:
    source = spec.provenance.get(name, "default")
    value = str(getattr(spec, name))
    if source != "default" and place.rank == 0 and value not in ("1", "0", "auto"):
        sys.stderr.write(
            f"launcher: {source} {value} has no effect: {_ENGINES[place.starter]} starts the"
            " ranks\n"
        )
