"""The launcher's command line for a run, and the environment in which it is called. Pure.

The run layer knows the launcher by its command line alone. On Slurm and on a list of hosts the
launcher has the nodes that were asked for; elsewhere all of them are this one machine. Only a
script that needs MPI itself has its ranks started by mpirun.
"""

from __future__ import annotations

import os
import re
import shlex
from typing import NamedTuple

from launcher import __version__
from launcher.jobs.configuration import Shape, shape_of
from launcher.jobs.store import RunFolder, cache_root
from launcher.system.secrets import MASK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

# The folder in which the package `launcher` lies, and the one with the stand-in for the SDK.
PACKAGE_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_SHIM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "shim")

# What says that this process is a rank of somebody's: a run that it submits is none of that.
_OF_A_RANK = re.compile(
    "(LOCAL_|GROUP_|ROLE_|LOCAL_WORLD_)?(RANK|WORLD_SIZE|NAME)|NODE_RANK|LOCAL_WORLD_SIZE"
    "|MASTER_(ADDR|PORT)|(TORCHELASTIC|OMPI|PMIX?|HYDRA|SLURM|HOROVOD_(RANK|SIZE|LOCAL|CROSS"
    "|GLOO|CONTROLLER|HOSTNAME))_(?!CONF$).*|LAUNCHER_(?!JOBS_SHIM|STORE|HOME|CACHE).*|PET_.*"
)

# `python` in a command is the run's own, though nobody has activated its virtual environment. Of an
# interpreter that lies here, the order of the user's path is the better guess.
_SYSTEM_FOLDERS = ("/bin", "/usr/bin", "/usr/local/bin")

# The prefix of a rank's lines.
RANK_PREFIX = re.compile(rb"\[(\d+)\] ")

# Runs a command with its output in a log of the rank's own.
_TO_ITS_LOG = (
    'mkdir -p "$LAUNCHER_JOBS_RUN/ranks" &&'
    ' exec "$@" >>"$LAUNCHER_JOBS_RUN/ranks/$OMPI_COMM_WORLD_RANK.log" 2>&1'
)

# Each process is one node of the user's own launcher: of ours it keeps only what names the node.
# The command itself comes in a variable, because the launcher replaces names in arguments.
_COMMAND_VARIABLE = "LAUNCHER_JOBS_COMMAND"
_PER_NODE = (
    "NODE_RANK=$RANK; export NODE_RANK; unset RANK LOCAL_RANK LOCAL_WORLD_SIZE GROUP_RANK"
    " GROUP_WORLD_SIZE ROLE_NAME ROLE_RANK ROLE_WORLD_SIZE TORCHELASTIC_RUN_ID"
    " TORCHELASTIC_RESTART_COUNT TORCHELASTIC_MAX_RESTARTS TORCHELASTIC_ERROR_FILE"
    " TORCHELASTIC_USE_AGENT_STORE LAUNCHER_RUN_ID LAUNCHER_ERROR_FILE LAUNCHER_RUN_DIR"
    ' LAUNCHER_BACKEND OMP_NUM_THREADS; eval "$LAUNCHER_JOBS_COMMAND"'
)


class Call(NamedTuple):
    """What the agent executes."""

    argv: list[str]
    environ: dict[str, str]
    notes: list[str]


def make_call(
    run: RunFolder,
    asked: dict[str, Any],
    interpreter: str,
    environ: Mapping[str, str],
    *,
    source: bytes = b"",
    target: Mapping[str, Any] | None = None,
    names: Sequence[str] = (),
) -> Call:
    """Return how the launcher is called for a run.

    source: the script's text. target: the settings of the compute target. names: the GPUs or hosts
    of it that are the run's own.
    """
    target = target or {}
    definition: dict[str, Any] = asked["definition"]
    shape = shape_of(definition)
    notes = []
    is_slurm = bool(asked.get("is_slurm"))
    made = _make_environ(run, asked, interpreter, environ)
    if shape.num_nodes > 1 and not is_slurm and not target.get("hosts"):
        notes.append(f"{shape.num_nodes} nodes were asked for: all of them are this machine")
    launch = [interpreter, "-m", "launcher", "--run-dir", run.launcher, "--rdzv-id", run.run_id]
    per_node = shape.num_processes // shape.num_nodes
    if _wants_mpirun(definition, source):
        mpirun = ["mpirun", "--oversubscribe", "-np", str(shape.num_processes)]
        if shape.num_nodes > 1 and (is_slurm or target.get("hosts")):
            mpirun += ["--map-by", f"ppr:{per_node}:node"]
        if target.get("hosts"):
            mpirun += ["--host", _name_hosts(names, per_node), *(target.get("extra") or [])]
            mpirun += [word for name in _ours(made, environ) for word in ("-x", name)]
        launch = [*mpirun, "/bin/sh", "-c", _TO_ITS_LOG, "sh", *launch]
    else:
        if is_slurm and shape.num_nodes > 1:
            launch += ["--engine", "slurm", "--nnodes", str(shape.num_nodes)]
        elif target.get("hosts"):
            launch += ["--engine", "mpi", "--hosts", _name_hosts(names, per_node)]
            launch += [word for name in _ours(made, environ) for word in ("--export", name)]
            if target.get("extra"):
                launch += ["--engine-args", shlex.join(target["extra"])]
        else:
            per_node = shape.num_processes  # the only node
        prefix = "[${rank}] " if is_tagged(shape) else ""
        launch += ["--nproc-per-node", str(per_node)]
        if names and not target.get("hosts"):
            launch += ["--devices", ",".join(names)]
        launch += ["--log-line-prefix-template", prefix, *(asked.get("launcher_options") or [])]
    if shape.is_command:
        launch += ["--no-python", "/bin/sh", "-c", _PER_NODE]
    else:
        launch += [*_program(run, str(definition["script"])), *definition["arguments"]]
    # Who submits as root knows that: mpirun would refuse it twice.
    made.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    return Call(launch, made, notes)


def _program(run: RunFolder, script: str) -> list[str]:
    """Return what is executed: a file, or a folder as the package that it is."""
    if not os.path.isdir(os.path.join(run.code, script)):
        return [script]
    return ["-m", os.path.normpath(script).replace(os.sep, ".")]


def _name_hosts(names: Sequence[str], per_node: int) -> str:
    return ",".join(f"{name}:{per_node}" for name in names)


def _ours(made: Mapping[str, str], environ: Mapping[str, str]) -> list[str]:
    """Return which variables another host must be given."""
    changed = [name for name, value in made.items() if environ.get(name) != value]
    return [*dict.fromkeys([*changed, "PATH"])]


def without_rank(environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without what makes a process a rank of somebody's."""
    return {name: value for name, value in environ.items() if not _OF_A_RANK.fullmatch(name)}


def is_installed() -> bool:
    """Tell whether this package lies among others, which must not come onto a run's path."""
    return os.path.basename(PACKAGE_ROOT) in ("site-packages", "dist-packages")


def package_copy() -> str:
    """Return the folder with the copy of this package for other interpreters."""
    return os.path.join(cache_root(), "package", __version__)


def is_tagged(shape: Shape) -> bool:
    """Tell whether the lines of the driver log have a rank in front."""
    return shape.num_processes > 1


def _wants_mpirun(definition: dict[str, Any], source: bytes) -> bool:
    """Tell whether only MPI can start the ranks: scripts of Horovod's, the launcher serves."""
    is_mpi = str(definition.get("communicator") or "").lower() in ("mpi", "openmpi", "intelmpi")
    lines = [line.strip() for line in source.splitlines()]
    imports = [line for line in lines if line.startswith((b"import ", b"from "))]
    uses_mpi4py = any(b"mpi4py" in line for line in imports)
    return is_mpi and uses_mpi4py and not any(b"horovod" in line for line in imports)


def _make_environ(
    run: RunFolder, asked: dict[str, Any], interpreter: str, environ: Mapping[str, str]
) -> dict[str, str]:
    definition = asked["definition"]
    made = without_rank(environ)
    if asked.get("is_slurm") and shape_of(definition).num_nodes > 1:
        made.update({name: value for name, value in environ.items() if name.startswith("SLURM_")})
    for variables in ((definition.get("environment") or {}), definition):
        made.update(
            {
                name: value
                for name, value in (variables.get("environmentVariables") or {}).items()
                if value != MASK  # the agent has inherited it
            }
        )
    made["LAUNCHER_JOBS_RUN"] = run.path
    made["AZUREML_RUN_ID"] = run.run_id
    made["AZUREML_EXPERIMENT_NAME"] = asked.get("experiment", "")
    if definition.get("command"):
        made[_COMMAND_VARIABLE] = definition["command"]
    if asked.get("resume_from"):
        made["LAUNCHER_RESUME_FROM"] = asked["resume_from"]
    paths = [] if made.get("LAUNCHER_JOBS_SHIM") == "0" else [_SHIM]
    if not is_installed():
        paths.append(PACKAGE_ROOT)  # a checkout: the run uses the launcher that submitted it
    elif interpreter != asked["interpreter"]:
        paths.append(package_copy())
    paths += filter(None, made.get("PYTHONPATH", "").split(os.pathsep))
    made["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    folder = os.path.dirname(interpreter)
    if folder and folder not in _SYSTEM_FOLDERS:
        made["PATH"] = os.pathsep.join((folder, made.get("PATH", os.defpath)))
    return made
