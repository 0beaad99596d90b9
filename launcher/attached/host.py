"""Puts together the ranks that one supervisor starts for the processes of this host.

All of them have to be there, and to run one program; what they have that differs must be such that
it can be handed over. Where that is not so, each process is told to be its rank itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

from launcher.attached.crew import Crew, Link
from launcher.attached.engine import check_horovod, engine_name
from launcher.attached.obstacles import Facts, find_import_obstacle, find_obstacle
from launcher.errors import UsageError
from launcher.named import NamedTuple
from launcher.options.arguments import read_arguments
from launcher.options.spec import LaunchSpec
from launcher.plan.program import horovod_use, starts_warm
from launcher.plan.task import Task
from launcher.ranks import Place
from launcher.starters.detect import NO_VARIABLE, find_mpi_engine
from launcher.starters.meeting import derive_port, find_job_id, find_master, find_nodes
from launcher.system import inheritance
from launcher.system.network import check_name, reserve_port

TYPE_CHECKING = False
if TYPE_CHECKING:
    from launcher.plan.nodes import NodeGroup


class Together(NamedTuple):
    """The ranks of this host, and what their engine says about all of them."""

    crew: Crew
    # By local rank.
    tasks: tuple[Task, ...]
    # Address and port at which the ranks of all hosts meet; None where the supervisor chooses,
    # an empty address where the ranks agree on it among themselves.
    master: tuple[str, int] | None
    # Given where several hosts need the same one.
    run_id: str = ""
    # The hosts of the job; None where there is one, or where they cannot find each other.
    nodes: NodeGroup | None = None


class Apart(Exception):
    """The processes are ranks themselves, and why."""


def assemble(
    crew: Crew, spec: LaunchSpec, place: Place, say: Callable[[str], None]
) -> tuple[LaunchSpec, Together]:
    """Wait for all processes of this host; return their ranks, and the options that go with them.

    place: that of any of them. `say` prints a line for the user. Raises Apart where they must be
    ranks themselves.
    """
    engine = engine_name(place)
    reason = _reason_before(spec, place, engine)
    if reason:
        raise Apart(reason)
    _gather(crew, place, engine, say)
    links = crew.links
    facts = {link.place.rank: link.facts for link in links}
    reason = find_obstacle(facts) or crew.find_file_limit()
    if reason:
        raise Apart(reason)
    tasks = tuple(
        _make_task(link, args) for link, args in zip(links, _arguments(facts, spec), strict=True)
    )
    reason = _find_other_cpus(tasks)
    if reason:
        raise Apart(reason)
    for task in tasks:
        reason = inheritance.find_obstacle(task.inheritance)
        if reason:
            raise Apart(f"rank {task.place.rank} has {reason}")
    if starts_warm(spec, len(tasks)) and spec.start == "auto":
        reason = find_import_obstacle(facts)
        if reason:
            say(f"starting each rank with its own interpreter (--start spawn): {reason}")
            spec = spec.replace(start="spawn")
    is_one_host, nodes = place.world_size == place.local_world_size, None
    if not is_one_host:
        from launcher.plan.nodes import find_nodes_of_ranks

        check_horovod(spec, place, os.environ)
        nodes = find_nodes_of_ranks(spec, tasks[0].place, os.environ)
    reason = _find_restart_obstacle(spec, is_one_run=is_one_host or nodes is not None)
    if reason:
        say(f"--max-restarts has no effect: {reason}")
        spec = spec.replace(max_restarts=0)
    if nodes is not None:
        return spec, Together(crew, tasks, None, nodes=nodes)
    run_id = "" if is_one_host else f"{find_job_id(place, os.environ)}.{os.uname().nodename}"
    return spec, Together(crew, tasks, _find_master(place), run_id)


def find_free_port() -> int:
    """Return a port for ranks that start at once: nobody keeps it for them."""
    with reserve_port("127.0.0.1") as reserved:
        return int(reserved.getsockname()[1])


def find_common_port(crew: Crew, place: Place) -> int:
    """Return a port that every supervisor of this job on this host would name.

    0 where each rank derives one by itself.
    """
    return 0 if find_job_id(place, os.environ) else derive_port(crew.name)


def _reason_before(spec: LaunchSpec, place: Place, engine: str) -> str:
    """Return why there is no need to wait for the others, or ""."""
    if spec.start == "in-place":
        return "--start in-place"
    if place.starter == "horovod" and os.environ.get("HOROVOD_ELASTIC") == "1":
        return "horovodrun's elastic mode starts and ends ranks while others go on"
    if place.sources.get("local_world_size", NO_VARIABLE) == NO_VARIABLE:
        return f"{engine} does not say how many ranks this host has"
    return ""


def _gather(crew: Crew, place: Place, engine: str, say: Callable[[str], None]) -> None:
    def say_how_many(number: str) -> None:
        say(
            f"{number} processes that {engine} has started on this host have come; waiting for the"
            " others (--start in-place goes on without them)"
        )

    if not crew.gather(say_how_many):
        if crew.have_all_gone:
            raise SystemExit(1)  # nobody is left to tell
        if any(link.facts.pid == 0 for link in crew.links):
            raise Apart("one of them is in a process namespace of its own")
        raise Apart(
            f"of the {place.local_world_size} processes that {engine} has started on this host,"
            f" {len(crew.links)} are launchers of this job"
        )


def _arguments(found: Mapping[int, Facts], spec: LaunchSpec) -> list[tuple[str, ...]]:
    """Return the script's arguments of each; Apart where they run different programs."""
    first = next(iter(found.values()))
    result: list[tuple[str, ...]] = []
    for facts in found.values():
        if result and _is_called_alike(facts, first):
            result.append(result[0])  # as nearly always: there is nothing to read
            continue
        try:
            given, command = read_arguments(LaunchSpec, list(facts.arguments))
            other = LaunchSpec.from_sources(
                given, facts.environ, script=command[0], script_args=spec.script_args
            )
        except (UsageError, IndexError):
            raise Apart("they have different options") from None
        if other.script != spec.script or _file_of(other, facts.folder) != _file_of(
            other, first.folder
        ):
            raise Apart("they run different programs")
        if other != spec:
            raise Apart("they have different options")
        result.append(tuple(command[1:]))
    return result


def _is_called_alike(one: Facts, other: Facts) -> bool:
    """Tell whether two processes have the same arguments, folder and variables for options."""
    variables = [
        {name: value for name, value in facts.environ.items() if name.startswith("PET_")}
        for facts in (one, other)
    ]
    return (one.arguments, one.folder, variables[0]) == (
        other.arguments,
        other.folder,
        variables[1],
    )


def _file_of(spec: LaunchSpec, folder: str) -> object:
    """Return what the program is for a process in a folder: a file, or the folder of a module."""
    if spec.module:
        return folder
    try:
        found = os.stat(os.path.join(folder, spec.script))
    except OSError:  # a command that is looked for in PATH
        return spec.script
    return found.st_dev, found.st_ino


def _make_task(link: Link, args: tuple[str, ...]) -> Task:
    try:
        task = link.make_task(args)
    except OSError:
        raise Apart("one of them has ended") from None
    nodes = find_nodes(task.place, task.environ)
    if nodes is None:
        return task
    return task._replace(place=task.place._replace(node_rank=nodes[0], num_nodes=nodes[1]))


def _find_other_cpus(tasks: Sequence[Task]) -> str:
    """Return that a process has CPUs which this one may not use, or ""; take on those of all."""
    wanted = {cpu for task in tasks for cpu in task.inheritance.cpus}
    try:
        os.sched_setaffinity(0, wanted)
    except OSError:
        return "ranks have CPUs that rank 0's cgroup excludes"
    return "" if os.sched_getaffinity(0) == wanted else "ranks have CPUs of their own (a cpuset)"


def _find_restart_obstacle(spec: LaunchSpec, *, is_one_run: bool) -> str:
    """Return why --max-restarts cannot be had, as far as is known before the ranks start, or ""."""
    if not spec.max_restarts:
        return ""
    if not is_one_run:
        return "the ranks are on several hosts, which cannot find each other"
    # Elastic ranks use Gloo. Others end all at once, and then nobody can see that they used MPI.
    if find_mpi_engine(os.environ) and horovod_use(spec, os.environ) == "fixed":
        return "Horovod uses MPI here, which ranks can initialise only once"
    return ""


def _find_master(place: Place) -> tuple[str, int] | None:
    environ = os.environ
    if place.world_size == place.local_world_size:
        is_set = environ.get("MASTER_ADDR") and environ.get("MASTER_PORT")
        return find_master(place, environ) if is_set else None
    from importlib.util import find_spec

    from launcher.worker.agreement import needs_agreement

    if needs_agreement(place, environ) and find_spec("mpi4py"):
        return "", 0
    address, port = find_master(place, environ)
    if not environ.get("MASTER_ADDR"):
        check_name(address)
    return address, port
