"""What this machine has, as far as a plan depends on it: CPUs, GPUs, how many workers that makes.

Looks and asks only: makes no folder, starts nothing. `--dry-run` looks in the same way.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

from launcher.contract.files import RunPaths
from launcher.errors import LauncherError
from launcher.named import NamedTuple
from launcher.options.option import PROG
from launcher.options.spec import LaunchSpec
from launcher.plan.task import Task
from launcher.runs.folder import NO_JOB, SlurmJob, new_run_id
from launcher.system.machine import usable_cpus, visible_gpus

# A worker takes two pipes and three log files here; the launcher some itself.
_FILES_OF_A_WORKER, _OUR_FILES = 5, 40


# Variables by which services and engines tell that there are other nodes.
_TELL_OF_NODES = (
    *("OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_NODES"),
    *("NODE_RANK", "MASTER_ADDR", "WORLD_SIZE", "SM_HOSTS", "CLUSTER_SPEC"),
    "JOB_COMPLETION_INDEX",
)

# Where packages announce their plug-ins for torchrun's --logs-specs.
_LOGS_SPECS = "torchrun.logs_specs"


TYPE_CHECKING = False
if TYPE_CHECKING:
    from launcher.plan.nodes import Node, NodeGroup


class NodeFacts(NamedTuple):
    """What this machine and this run are, as far as a plan depends on it."""

    run_id: str
    mark: str
    usable_cpus: int
    gpus: tuple[str, ...]
    hostname: str
    environ: Mapping[str, str]
    local_world_size: int
    # CPUs of each local rank with --numa-binding; empty without it.
    cpus: tuple[frozenset[int], ...] = ()
    # What an engine has started here, by local rank; empty where the workers are our own.
    tasks: tuple[Task, ...] = ()
    # The nodes of the run; None where this is the only one.
    nodes: NodeGroup | None = None
    # Whether a person reads what the workers write: stdout is a terminal of ours.
    is_terminal: bool = False
    # The job of Slurm's in which this runs.
    job: SlurmJob = NO_JOB
    # None when no folder has been made, or could be: then there are no log files.
    paths: RunPaths | None = None

    @property
    def is_gathered(self) -> bool:
        """Whether an engine takes what all nodes write to one place."""
        return self.nodes is not None and self.nodes.gathers_output


def look_at_node(
    spec: LaunchSpec, mark: str = "", tasks: Sequence[Task] = (), run_id: str = ""
) -> NodeFacts:
    """Find out what this machine has; give the run its id and its mark unless there is one.

    tasks: what an engine has started here, and so how many workers there are.

    Raises LauncherError when the machine cannot hold the workers, UsageError when it has not what
    an option asks for.
    """
    _check_logs_specs(spec)
    gpus = visible_gpus(os.environ)
    num_cpus = usable_cpus()
    if tasks:
        local_world_size = len(tasks)
        num_cpus = _cpus_of_tasks(tasks, num_cpus)
    else:
        local_world_size = spec.local_world_size(lambda: num_cpus, lambda: len(gpus))
    _check_open_files(local_world_size)
    nodes = _find_nodes(spec) if not tasks else None
    if nodes is None and not tasks and spec.stdin_rank >= local_world_size:
        hint = f"Type: {PROG} --stdin-rank {local_world_size - 1} {spec.script}"
        raise spec.error("stdin_rank", f"must be below {local_world_size}, the world size", hint)
    job = _find_slurm_job(os.environ)
    chosen = nodes.run_id if nodes and nodes.has_id else spec.rdzv_id
    # A step of Slurm's has the same name after a requeue.
    named = job.name if chosen in ("", "none") and "." in job.name else chosen
    return NodeFacts(
        run_id=run_id or new_run_id(named),
        mark=mark or os.urandom(8).hex(),
        usable_cpus=num_cpus,
        gpus=tuple(gpus),
        hostname=os.uname().nodename,
        environ=dict(os.environ),
        local_world_size=local_world_size,
        cpus=_bind(spec, local_world_size, gpus),
        tasks=tuple(tasks),
        nodes=nodes,
        is_terminal=not tasks and _shows_on_terminal(os.environ, nodes),
        job=job,
    )


def _find_slurm_job(environ: Mapping[str, str]) -> SlurmJob:
    """Return the job and step in which this launcher runs, unless it is part of another run."""
    if not environ.get("SLURM_JOB_ID"):
        return NO_JOB
    from launcher.starters.meeting import count_requeues, name_slurm_step
    from launcher.starters.nodes import is_below_a_rank

    if is_below_a_rank(environ):
        return NO_JOB
    return SlurmJob(name_slurm_step(environ), count_requeues(environ))


def _shows_on_terminal(environ: Mapping[str, str], nodes: NodeGroup | None) -> bool:
    """Tell whether stdout comes to a terminal, here or through another launcher.

    One that an engine has given us, for what all nodes write, is no sign of it.
    """
    if nodes is not None and nodes.gathers_output:
        return False
    far = environ.get("LAUNCHER_TERMINAL", "").split()
    return "out" in far if far else os.isatty(1)


def _find_nodes(spec: LaunchSpec) -> NodeGroup | None:
    if spec.max_nodes == 1 and not any(map(os.environ.get, _TELL_OF_NODES)):
        return None  # as nearly always: nothing is loaded for it
    from launcher.plan.nodes import find_nodes

    return find_nodes(spec, os.environ)


def look_at_member(spec: LaunchSpec, facts: NodeFacts) -> Node:
    """Return this node as the others are to know it."""
    from launcher.plan.nodes import Node

    places = tuple(task.place for task in facts.tasks)
    return Node(facts.hostname, facts.local_world_size, _look_at_program(spec), places)


def _look_at_program(spec: LaunchSpec) -> dict[str, str]:
    """Return what all nodes must have alike: the program, and the version of torch."""
    from launcher.system.digest import sha256

    text = os.path.basename(spec.script)
    try:
        with open(spec.script, "rb") as file:
            text += f" ({sha256(file.read()).hexdigest()[:12]})"
    except OSError:
        pass  # a module, or a command of PATH
    return {"the script": text, "the version of torch": find_version("torch")}


def find_version(package: str) -> str:
    """Return the version of an installed package; "" where there is none.

    importlib.metadata knows more, and takes as long to import as all the rest of a launcher.
    """
    begin, end = f"{package}-", ".dist-info"
    for folder in sys.path:
        try:
            names = os.listdir(folder or ".")
        except OSError:
            continue
        for name in names:
            if name.startswith(begin) and name.endswith(end):
                return name[len(begin) : -len(end)]
    return ""


def _check_logs_specs(spec: LaunchSpec) -> None:
    """Raise UsageError when --logs-specs names what no installed package has: a typing error."""
    if spec.logs_specs is None:
        return
    from importlib.metadata import entry_points

    known = sorted({entry.name for entry in entry_points(group=_LOGS_SPECS)})
    if spec.logs_specs not in known:
        names = ", ".join(known) or "there is none here"
        raise spec.error(
            "logs_specs",
            f"must be the name of an installed plug-in of torchrun ({names})",
            "Leave it out: it has no meaning here.",
        )


def _cpus_of_tasks(tasks: Sequence[Task], num_cpus: int) -> int:
    """Return how many CPUs the tasks have in all; where their engine has bound them, by its shares.

    Tasks that share CPUs count them together.
    """
    smallest = min(len(task.inheritance.cpus) for task in tasks)
    is_bound = smallest < len({cpu for task in tasks for cpu in task.inheritance.cpus})
    return smallest * len(tasks) if is_bound else num_cpus


def _check_open_files(local_world_size: int) -> None:
    """Raise LauncherError when this process may not have as many open files as all workers need.

    That is before the first one starts, and not at the one for which it is. The limit for the
    process itself, which it can raise, does not matter.
    """
    import resource

    needed = _FILES_OF_A_WORKER * local_world_size + _OUR_FILES
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if most == resource.RLIM_INFINITY or most >= needed:
        return
    who = f"{local_world_size} workers need" if local_world_size > 1 else "One worker needs"
    raise LauncherError(
        f"{who} up to {needed} open files, and the limit here is {most}.",
        hint=f"An administrator must raise it: ulimit -Hn {needed}",
    )


def _bind(
    spec: LaunchSpec, local_world_size: int, gpus: Sequence[str]
) -> tuple[frozenset[int], ...]:
    """Return the CPUs of each local rank, as --numa-binding shares them out; nothing without it."""
    if spec.numa_binding is None:
        return ()
    from launcher.system.numa import cpus_of_workers

    try:
        return cpus_of_workers(
            spec.numa_binding, local_world_size, spec.devices or gpus, os.sched_getaffinity(0)
        )
    except ValueError as problem:
        raise spec.error(
            "numa_binding", str(problem), "Leave it out, or name another one of its values."
        ) from None
