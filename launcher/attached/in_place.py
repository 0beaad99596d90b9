"""This process is a rank itself: the engine's own child runs the script.

That is so where one supervisor cannot start the ranks of this host (see obstacles.py), and where
the user asks for it. The contract is set once, and the script runs in place: no second process, no
pipes; what a failure leads to is up to the engine. The one place in this package, outside the
workers, that puts anything into os.environ.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping

from launcher.attached.engine import engine_name
from launcher.attached.proxy import OWNERS
from launcher.contract import environment
from launcher.errors import UsageError
from launcher.exits import exit_code_of
from launcher.options.spec import LaunchSpec
from launcher.plan.program import program_kind
from launcher.ranks import Place
from launcher.starters.meeting import find_job_id, find_master, find_nodes
from launcher.system.bare import die_with_parent
from launcher.system.machine import usable_cpus
from launcher.system.network import check_name
from launcher.system.processes import process_info

# Options that need a supervisor.
_WITHOUT_EFFECT = (
    *("nproc_per_node", "max_restarts", "hang_timeout", "numa_binding"),
    *("devices", "virtual_local_rank"),
)

# What Open MPI says of the CPUs of a process: whether it is bound, and what was typed of that.
_IS_BOUND = "OMPI_MCA_orte_bound_at_launch"
_BINDING_IS_TYPED = ("OMPI_MCA_hwloc_base_binding_policy", "OMPI_MCA_hwloc_base_cpu_list")
_MAPPING = "OMPI_MCA_rmaps_base_mapping_policy"


def end_with_engine(*, is_rank: bool) -> None:
    """See to it that this process ends when the engine's process that started it is killed.

    A rank that uses MPI notices that; one that does not would run on, and nobody would end it. A
    rank is killed, like a worker whose launcher is killed; a launcher gets SIGTERM, and its workers
    their time. Where a shell or another program of the user's stands between, that one is in
    charge.
    """
    signum = signal.SIGKILL if is_rank else signal.SIGTERM
    parent_pid = os.getppid()
    parent = process_info(parent_pid)
    is_owner = parent is not None and parent.name in OWNERS
    if is_owner and not die_with_parent(signum, parent_pid):
        signal.raise_signal(signum)


def take_all_cpus(environ: Mapping[str, str]) -> None:
    """Undo mpirun's binding of a launcher to the CPUs of one rank; what was typed stays.

    Open MPI binds each process unless it is told otherwise, and one of two to a core: all workers
    of a node would share that.
    """
    is_typed = any(name in environ for name in _BINDING_IS_TYPED)
    if environ.get(_IS_BOUND) != "1" or is_typed or ":pe=" in environ.get(_MAPPING, ""):
        return
    try:
        os.sched_setaffinity(0, os.sched_getaffinity(os.getppid()))
    except OSError:
        pass  # there may be a container between mpirun and this process


def become_rank(spec: LaunchSpec, place: Place, port: int) -> Callable[[], int]:
    """Set the contract of this rank in this process; return what then runs the script.

    port: a free one for all ranks, where they are on one host and have met; else 0.

    Raises UsageError where the engine tells too little for the ranks to meet.
    """
    for name in _WITHOUT_EFFECT:
        _warn_if_ignored(spec, place, name)
    one_host = place.local_world_size == place.world_size
    if not one_host:
        from launcher.worker.agreement import agree

        agree(place, os.environ)
    if one_host and port and not os.environ.get("MASTER_PORT"):
        master = (os.environ.get("MASTER_ADDR") or "127.0.0.1", port)
    else:
        master = find_master(place, os.environ)
        if not one_host and not os.environ.get("MASTER_ADDR"):
            check_name(master[0])
    variables = make_contract(spec, place, os.environ, master)
    os.environ.update(variables)
    args = [environment.expand(argument, variables) for argument in spec.script_args]
    return lambda: _run(spec, args)


def dry_run(spec: LaunchSpec, place: Place, environ: Mapping[str, str]) -> str:
    """Return what `become_rank` would do, as text."""
    from launcher.plan.dry_run import render_rank

    unknown = "0"
    try:
        master = find_master(place, environ)
    except UsageError:
        master = (unknown, 0)
    variables = make_contract(spec, place, environ, master)
    if master[0] == unknown:
        told = "told when the ranks have met"
        variables.update(MASTER_ADDR=told, MASTER_PORT=told)
    return render_rank(spec, place, variables)


def make_contract(
    spec: LaunchSpec, place: Place, environ: Mapping[str, str], master: tuple[str, int]
) -> dict[str, str]:
    """Return the contract of a rank in place.

    What the user has set stays; what nobody knows is not in it.
    """
    run_id = find_job_id(place, environ) or f"{place.starter}-{master[1]}"
    nodes = find_nodes(place, environ)
    if nodes is not None:
        place = place._replace(node_rank=nodes[0], num_nodes=nodes[1])
    run = environment.Run(run_id, spec.role, spec.backend)
    attempt = int(environ.get("SLURM_RESTART_COUNT", "0"))
    values = environment.make_identity(run, place, attempt, master)
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
    option, value = spec.options[name], getattr(spec, name)
    is_harmless = value == option.default or (name == "nproc_per_node" and spec.nproc == 1)
    if source != "default" and place.rank == 0 and not is_harmless:
        shown = source if option.is_switch else f"{source} {option.unparse(value)}"
        sys.stderr.write(
            f"launcher: {shown} has no effect: the ranks run in the processes that"
            f" {engine_name(place)} has started\n"
        )


def _run(spec: LaunchSpec, args: list[str]) -> int:
    """Run the script; its exceptions come through, to be shown by python."""
    kind = program_kind(spec)
    if kind == "command":
        os.execvp(spec.script, [spec.script, *args])
    from launcher.worker import bootstrap, diagnose

    diagnose.arm(None)
    bootstrap.set_import_path(kind, spec.script)
    pid = os.getpid()
    try:
        bootstrap.run(kind, spec.script, args, None)
    except BaseException as error:
        if os.getpid() == pid and exit_code_of(error) and "mpi4py.MPI" in sys.modules:
            from mpi4py.run import set_abort_status

            # The others may wait for this rank in a collective: they are to end, too.
            set_abort_status(error)
        raise
    return 0
