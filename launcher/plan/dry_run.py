"""What `--dry-run` prints: the layout, and each rank's command and variables with their origin.

Makes text, of a plan, or of the one rank that an engine has started; decides nothing.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping

from launcher.options.spec import LaunchSpec
from launcher.plan.interpreter import make_command_line
from launcher.plan.plan import LaunchPlan, WorkerPlan
from launcher.plan.program import program_kind
from launcher.ranks import Assignment, Place, format_ranges

TYPE_CHECKING = False
if TYPE_CHECKING:
    from launcher.plan.nodes import NodeGroup

# The values that decide the layout, with the option each one comes from.
_LAYOUT = (
    "nproc_per_node",
    "nnodes",
    "max_restarts",
    "shutdown_timeout",
    "run_dir",
    "rdzv_id",
    "start",
)

# The fields of a Place, and the variables that they become.
_PLACE = {
    "rank": "RANK",
    "world_size": "WORLD_SIZE",
    "local_rank": "LOCAL_RANK",
    "local_world_size": "LOCAL_WORLD_SIZE",
    "node_rank": "NODE_RANK",
}

# Variables whose value matters to workers, and which stay as the user has set them.
_KEPT = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "MASTER_ADDR")

# Words in a variable's name that make its value a secret.
_SECRET_WORDS = ("TOKEN", "SECRET", "PASSWORD", "API_KEY", "CREDENTIAL")


def render_plan(
    spec: LaunchSpec, plan: LaunchPlan, method: str, group: NodeGroup | None = None
) -> str:
    """Return the plan as text. method: `warm` or `spawn`, how the workers would be started.

    group: the nodes of the run; None where this one is the only one.
    """
    assignment = plan.assignment
    warm = "a fork server that imports the heavy modules once"
    how = warm if method == "warm" else "one exec each"
    tasks = [worker.task for worker in plan.workers if worker.task]
    if tasks:
        how += f", for the processes that {tasks[0].place.starter} has started"
    nodes = "1 node" if assignment.num_nodes == 1 else f"{assignment.num_nodes} nodes"
    store = f"store of rank 0: {assignment.master_addr}:{assignment.master_port}"
    if spec.master_port is None:
        store += " (another port in the real run)"
    lines = [f"{assignment.world_size} workers on {nodes}, started by {how}", store]
    if group is not None:
        lines += _render_group(group, assignment)
    lines += ["", "options:"]
    for name in _LAYOUT[1:] if tasks else _LAYOUT:
        origin = spec.provenance.get(name, "default")
        lines.append(f"  {name} = {getattr(spec, name)}   ({origin})")
    lines += ["", "environment of all ranks:"]
    lines += [
        f"  {name}={hide_secret(name, value)}"
        for name, value in sorted(plan.workers[0].common_env.items())
    ]
    # What the workers inherit as it is.
    untouched = os.environ.keys() - plan.workers[0].common_env.keys() - plan.workers[0].env.keys()
    lines += [f"  {name}={os.environ[name]}   (yours, kept)" for name in _KEPT if name in untouched]
    for worker in plan.workers:
        lines += ["", *_render_worker(worker)]
    return "\n".join(lines)


def render_rank(spec: LaunchSpec, place: Place, variables: Mapping[str, str]) -> str:
    """Return what one rank of an engine would run, and its variables, as text."""
    origins = {_PLACE[field]: source for field, source in place.sources.items()}
    here = f"in the process that {place.starter} has started"
    lines = [
        f"rank {place.rank} of {place.world_size}, {here}:",
        _render_program(program_kind(spec), spec.script, spec.script_args),
    ]
    for name, value in sorted(variables.items()):
        lines.append(
            f"  {name}={hide_secret(name, value)}"
            + (f"   ({origins[name]})" if name in origins else "")
        )
    return "\n".join(lines)


def _render_group(group: NodeGroup, assignment: Assignment) -> list[str]:
    """Return how the nodes come together, and what is assumed of the others."""
    of_each = f"as if each node had {assignment.local_world_size} workers"
    number = f"rank {group.node_rank}, and"
    if group.node_rank is None:
        number = "rank 0, though ranks go by arrival, and"
    source = group.sources.get("host", "")
    known = "with a secret" if group.secret else "without a secret"
    return [
        f"the nodes meet at {group.host}:{group.port}, {known} ({source})",
        f"shown is the node with {number} {of_each}",
    ]


def _render_worker(worker: WorkerPlan) -> list[str]:
    lines = [
        f"rank {worker.rank}:",
        _render_program(worker.kind, worker.target, worker.args),
        f"  by exec: {shlex.join(make_command_line(worker, os.getpid()))}",
    ]
    if worker.cpus:
        lines.append(f"  CPUs: {format_ranges(worker.cpus)}")
    given = worker.task.environ if worker.task else {}
    lines += [
        f"  {name}={hide_secret(name, value)}"
        for name, value in sorted(worker.env.items())
        if given.get(name) != value
    ]
    return lines


def _render_program(kind: str, target: str, args: tuple[str, ...]) -> str:
    """Return the line that says what a rank runs, as one would type it without the launcher."""
    python = {"command": (), "module": ("python", "-m")}.get(kind, ("python",))
    return f"  command: {shlex.join((*python, target, *args))}"


def hide_secret(name: str, value: str) -> str:
    """Return a value as it may be shown."""
    return "***" if any(word in name.upper() for word in _SECRET_WORDS) else value
