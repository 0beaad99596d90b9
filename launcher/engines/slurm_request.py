"""What Slurm is asked for: the srun command of a launch, or the batch script with that command.

One task on each node, which is a launcher; the launchers decide when a run ends and how. Takes the
environment as an argument. Pure.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping

from launcher.engines.command import engine_args, make_node_command, read_exports
from launcher.engines.reader import find_reader
from launcher.errors import EnvironmentMismatch
from launcher.options.option import PROG
from launcher.options.spec import LaunchSpec
from launcher.options.syntax import parse_nodes
from launcher.starters.detect import detect_engine, in_slurm_step, read_number

# Of every step. A site's settings may be others: they would end the launchers when the first of
# them ends, or give them a share of the node that is meant for one rank.
_STEP = ("--kill-on-bad-exit=0", "--wait=0", "--cpu-bind=none", "--mpi=none", "--export=ALL")

# What srun takes from its environment as if it were an option, and what an allocation with a task
# for each rank leaves there: a launcher would get the share of one rank.
_SHARES_OF_RANKS = (
    *("SLURM_CPUS_PER_TASK", "SLURM_GPUS_PER_TASK", "SLURM_TRES_PER_TASK"),
    *("SLURM_NTASKS_PER_GPU", "SLURM_NTASKS_PER_TRES"),
)

# Flags of ours that are options of Slurm by the same name.
_SAME_NAMES = ("time", "partition", "account", "gpus_per_node")

# Slurm's own options for the CPUs of a task, which leave nothing for us to ask for.
_CPU_OPTIONS = ("-c", "--cpus-per-task", "--cpus-per-gpu", "--exclusive")


def in_allocation(environ: Mapping[str, str]) -> bool:
    """Tell whether this process runs inside a job of Slurm's."""
    return bool(environ.get("SLURM_JOB_ID"))


def check_request(spec: LaunchSpec, environ: Mapping[str, str]) -> None:
    """Raise EnvironmentMismatch where an engine has already settled what is asked for."""
    read_exports(spec)
    place = detect_engine(environ)
    if place.world_size > 1:
        source = place.sources["world_size"]
        raise EnvironmentMismatch(
            f"{spec.find_source('engine')} slurm starts a launcher on each node, and"
            f" {place.world_size} of them have been started already ({source}={place.world_size}).",
            hint=f"Type without srun or mpirun: {PROG} --engine slurm {spec.script}",
        )
    if spec.submit or not in_allocation(environ):
        return
    has = _num_allocated(environ)
    if has and spec.min_nodes > has:
        job = environ["SLURM_JOB_ID"]
        raise EnvironmentMismatch(
            f"{spec.find_source('nnodes')} {spec.nnodes}: the allocation {job} has {has}"
            f" node{'s' if has > 1 else ''} (SLURM_JOB_NUM_NODES={has}).",
            hint=f"Type: {PROG} --engine slurm --nnodes {has} {spec.script}, or leave --nnodes out",
        )


def nodes_of(spec: LaunchSpec, environ: Mapping[str, str]) -> str:
    """Return how many nodes are asked for, as --nnodes has it; without, all of an allocation."""
    if spec.provenance.get("nnodes", "default") == "default":
        inside = in_allocation(environ) and not spec.submit
        return str(_num_allocated(environ) or 1) if inside else "1"
    return spec.nnodes


def find_task(spec: LaunchSpec, environ: Mapping[str, str], *, is_typed: bool) -> int:
    """Return the number of the task whose rank reads our stdin; -1 for none. See `find_reader`."""
    least, _ = parse_nodes(nodes_of(spec, environ))
    counts = [spec.nproc_per_node] * least
    hint = "Type the number of workers: --nproc-per-node 4"
    return find_reader(spec, counts, is_typed=is_typed, hint=hint)


def make_srun(
    spec: LaunchSpec, environ: Mapping[str, str], name: str, reader: int = -1
) -> list[str]:
    """Return the whole srun command.

    name: of the step, and of the job that srun makes for it. reader: the task that gets its stdin.
    """
    resources = _step_resources(spec, environ)
    if not in_allocation(environ):
        resources += _job_resources(spec)
    elif in_slurm_step(environ):
        # A shell that srun has started holds the CPUs of its node.
        resources.append("--overlap")
    node = make_node_command(spec, nnodes=nodes_of(spec, environ))
    return [
        "srun",
        f"--job-name={name}",
        *resources,
        *_make_step(reader),
        *engine_args(spec),
        *node,
    ]


def drop_shares(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables for srun, without what an allocation says of the tasks of single ranks.

    One that was made for a task on each node says what is right.
    """
    tasks, nodes = (environ.get(name, "") for name in ("SLURM_NTASKS", "SLURM_JOB_NUM_NODES"))
    is_for_ranks = tasks.isdecimal() and nodes.isdecimal() and int(tasks) > int(nodes)
    dropped = _SHARES_OF_RANKS if is_for_ranks else ()
    return {name: value for name, value in environ.items() if name not in dropped}


def make_script(spec: LaunchSpec, run_id: str, output: str, folder: str) -> str:
    """Return the batch script. output: the file for what the job writes, in Slurm's notation.

    It can be submitted again by hand: it holds all options, and no secret.
    """
    secret = {} if spec.secret_file is None else {"secret_file": os.path.abspath(spec.secret_file)}
    resources = [
        f"--job-name={job_name(spec)}",
        *_step_resources(spec, {}),
        *_job_resources(spec),
        f"--chdir={folder}",
        f"--output={output}",
        "--open-mode=append",
    ]
    node = make_node_command(spec, nnodes=nodes_of(spec, {}), rdzv_id=run_id, **secret)
    lines = [
        "#!/bin/bash",
        f"# {PROG} {shlex.join(spec.to_argv())}".replace("\n", " "),
        *(f"#SBATCH {shlex.quote(option)}" for option in resources),
        *([f"#SBATCH {shlex.join(engine_args(spec))}"] if spec.engine_args else []),
        "",
        "# All options stand below.",
        'unset "${!PET_@}"',
        *(f"export {name}={shlex.quote(value)}" for name, value in read_exports(spec)),
        "# All that is said comes to one file: there, one node speaks for all.",
        "export LAUNCHER_QUIET=0",
    ]
    if not secret:
        lines += [
            "# By which the launchers know each other.",
            'LAUNCHER_SECRET="${LAUNCHER_SECRET:-$(head -c 24 /dev/urandom | base64)}"',
            "export LAUNCHER_SECRET",
        ]
    lines += [
        "",
        shlex.join(["srun", "--ntasks-per-node=1", *_no_kill(spec), *_make_step()]) + " \\",
        f"  {shlex.join(node)}",
    ]
    return "\n".join(lines) + "\n"


def job_name(spec: LaunchSpec) -> str:
    """Return what a job is called in lists: the script's name, or the module's."""
    return os.path.basename(spec.script.rstrip("/")) or "launcher"


def _num_allocated(environ: Mapping[str, str]) -> int:
    for name in ("SLURM_JOB_NUM_NODES", "SLURM_NNODES"):
        if environ.get(name):
            return read_number(environ, name, least=1)
    return 0


def _step_resources(spec: LaunchSpec, environ: Mapping[str, str]) -> list[str]:
    """Return the options for a task on each of the nodes; environ: {} for a job of its own."""
    least, most = parse_nodes(nodes_of(spec, environ))
    if least == most or in_allocation(environ):
        number = min(most, _num_allocated(environ) or most)
        counts = [f"--nodes={number}", f"--ntasks={number}", "--ntasks-per-node=1"]
    else:
        # One task on each is the default. Beside --ntasks-per-node, Slurm would give the least.
        counts = [f"--nodes={least}-{most}"]
    return [*counts, *_no_kill(spec)]


def _make_step(reader: int = -1) -> list[str]:
    return [*_STEP, f"--input={reader if reader >= 0 else 'none'}"]


def _no_kill(spec: LaunchSpec) -> list[str]:
    """Return what lets an elastic run go on without a node that has failed."""
    return ["--no-kill"] if spec.min_nodes < spec.max_nodes else []


def _job_resources(spec: LaunchSpec) -> list[str]:
    options = [
        f"--{name.replace('_', '-')}={getattr(spec, name)}"
        for name in _SAME_NAMES
        if getattr(spec, name)
    ]
    cpus = _count_cpus(spec)
    if cpus > 1:
        options.insert(0, f"--cpus-per-task={cpus}")
    return options


def _count_cpus(spec: LaunchSpec) -> int:
    """Return how many CPUs a launcher's workers need at least, one each; 0 where Slurm is to say.

    Slurm would give its task, of which there is one on each node, a single one.
    """
    if any(argument.partition("=")[0] in _CPU_OPTIONS for argument in engine_args(spec)):
        return 0
    if isinstance(spec.nproc, int):
        return spec.nproc
    number = spec.gpus_per_node.rpartition(":")[2]
    return int(number) if spec.nproc in ("gpu", "auto") and number.isdecimal() else 0
