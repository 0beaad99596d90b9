"""The launchers that are compared: which are installed, and the command line of each.

Owns nothing but these commands. `python` is the interpreter whose packages are used, so that ours
and torchrun run in the same environment.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence

# (python, number of ranks, restarts) -> the command in front of the script.
MakeCommand = Callable[[str, int, int], list[str]]

OURS, TORCHRUN = "launcher", "torchrun"

# Ours in another checkout, which stands beside it: what a change costs is seen in one run.
BEFORE = "launcher before"


def ours(python: str, ranks: int, restarts: int = 0) -> list[str]:
    return [python, "-m", "launcher", "--nproc-per-node", str(ranks), *_restarts(restarts)]


def before(folder: str, make_ours: MakeCommand = ours) -> MakeCommand:
    """Return what makes the commands of the launcher in another checkout."""

    def make(python: str, ranks: int, restarts: int = 0) -> list[str]:
        return ["env", f"PYTHONPATH={os.path.abspath(folder)}", *make_ours(python, ranks, restarts)]

    return make


def torchrun(python: str, ranks: int, restarts: int = 0) -> list[str]:
    return [
        python,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        str(ranks),
        *_restarts(restarts),
    ]


def accelerate(python: str, ranks: int, restarts: int = 0) -> list[str]:
    # Not --cpu: with it, and without a host file for mpirun, accelerate starts one process,
    # whatever --num_processes says. With --multi_gpu it starts them all, through
    # torch.distributed.run, and the workloads here ask for no GPU.
    fixed = [
        "--multi_gpu",
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
    ]
    return [_beside(python, "accelerate"), "launch", *fixed, "--num_processes", str(ranks)]


def mpirun(python: str, ranks: int, restarts: int = 0) -> list[str]:
    as_root = ["--allow-run-as-root"] if os.getuid() == 0 else []
    return [_beside(python, "mpirun"), *as_root, "--oversubscribe", "-np", str(ranks), python]


def ours_under_mpirun(python: str, ranks: int, restarts: int = 0) -> list[str]:
    return [*mpirun(python, ranks), "-m", "launcher", *_restarts(restarts)]


def horovodrun(python: str, ranks: int, restarts: int = 0) -> list[str]:
    return [
        _beside(python, "horovodrun"),
        "--gloo",
        "-np",
        str(ranks),
        "-H",
        f"localhost:{ranks}",
        python,
    ]


OTHERS: dict[str, MakeCommand] = {
    "accelerate launch": accelerate,
    "mpirun": mpirun,
    "horovodrun": horovodrun,
}


def find_installed(python: str) -> tuple[dict[str, MakeCommand], list[str]]:
    """Return the launchers that can be run here, ours and torchrun first, and the names of those
    that cannot.
    """
    found: dict[str, MakeCommand] = {OURS: ours, TORCHRUN: torchrun}
    found.update(
        {name: make for name, make in OTHERS.items() if os.path.isabs(make(python, 1, 0)[0])}
    )
    return found, [name for name in OTHERS if name not in found]


def version(python: str, name: str) -> str:
    """Return what the launcher calls its version, "unknown" when it does not say."""
    if name == BEFORE:
        return "another checkout"
    if name == OURS:
        command = [python, "-m", "launcher", "--version"]
    elif name == TORCHRUN:
        command = [python, "-c", "import torch; print('torch', torch.__version__)"]
    elif name == "accelerate launch":
        command = [
            python,
            "-c",
            "import importlib.metadata as m; print('accelerate', m.version('accelerate'))",
        ]
    else:
        command = [_beside(python, name), "--version"]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment(), timeout=60, check=False
    )
    lines = (done.stdout or done.stderr).strip().splitlines()
    return lines[0] if lines else "unknown"


def shown(command: Sequence[str]) -> str:
    """Return a command for the results file, without the paths of this machine."""
    return " ".join(_without_folders(word) for word in command)


def _without_folders(word: str) -> str:
    name, equals, value = word.rpartition("=")
    return name + equals + (os.path.basename(value) if os.path.isabs(value) else value)


def environment() -> dict[str, str]:
    """Return this process's environment without what a surrounding launcher may have left in it."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    # PYTHONDONTWRITEBYTECODE would let every start compile our sources, while those of an installed
    # torch are compiled.
    foreign = (
        *("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "RANK", "LOCAL_", "WORLD_SIZE", "MASTER_"),
        *("TORCHELASTIC_", "LAUNCHER_", "OMPI_", "PMI", "PET_"),
    )
    environ = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    environ["PYTHONPATH"] = os.pathsep.join(filter(None, (root, environ.get("PYTHONPATH"))))
    return environ


def _restarts(restarts: int) -> list[str]:
    return ["--max-restarts", str(restarts)] if restarts else []


def _beside(python: str, program: str) -> str:
    """Return the program of the interpreter's own environment, else the one on PATH, else its bare
    name.
    """
    path = os.pathsep.join((os.path.dirname(python), os.environ.get("PATH", "")))
    return shutil.which(program, path=path) or program
