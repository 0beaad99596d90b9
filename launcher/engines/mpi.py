"""The page of `--engine mpi`: mpirun starts a launcher on each host, and they do the rest.

This process starts no worker: it asks which mpirun there is, starts it, and sees to it that what
stops this process stops the launchers, gently. What they print comes out of mpirun as it is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from launcher.engines.hosts import find_hosts
from launcher.engines.mpi_command import PASSED_ON, MpiRun, guess_kind, make_command, read_version
from launcher.errors import LauncherError
from launcher.options.spec import LaunchSpec
from launcher.plan.program import search_path
from launcher.system.bare import fill_standard_descriptors

# The variable that names another mpirun, with arguments of its own.
MPIRUN_VARIABLE = "LAUNCHER_MPIRUN"

# mpirun says its version at once.
_VERSION_S = 20.0


def dry_run(spec: LaunchSpec, environ: Mapping[str, str]) -> str:
    """Return mpirun's command as text; the secret is no part of it.

    Nothing is started but `mpirun --version`.
    """
    import shlex

    return shlex.join(_plan(spec, environ).argv)


def launch(spec: LaunchSpec, environ: Mapping[str, str], say: Callable[[str], None]) -> int:
    """Run the launch on its hosts, and return its exit code. `say` prints a line for the user.

    UsageError for what is wrong with the list; LauncherError where there is no mpirun.
    """
    from launcher.engines.mpi_process import Mpirun
    from launcher.system.loop import Loop

    fill_standard_descriptors()
    run = _plan(spec, environ)
    with Loop((*spec.signals, *PASSED_ON)) as loop, Mpirun(loop, run, say) as mpirun:
        return mpirun.wait()


def _plan(spec: LaunchSpec, environ: Mapping[str, str]) -> MpiRun:
    hosts = find_hosts(spec)
    command = ["mpirun"]
    if environ.get(MPIRUN_VARIABLE):
        import shlex

        command = shlex.split(environ[MPIRUN_VARIABLE]) or command
    kind = guess_kind(_find(command[0])) or read_version(_ask_version(command[0]))
    return make_command(spec, environ, hosts, kind, command, is_typed=os.isatty(0))


def _find(program: str) -> str:
    """Return the file that is executed, behind all links; LauncherError where there is none."""
    path = search_path(program)
    if path is None or not os.access(path, os.X_OK):
        raise LauncherError(
            f"--engine mpi needs {program}, and there is none here.",
            hint="Type: apt-get install openmpi-bin, load your cluster's module, or: --engine ssh",
        )
    return os.path.realpath(path)


def _ask_version(program: str) -> str:
    import subprocess

    try:
        done = subprocess.run(
            [program, "--version"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_VERSION_S,
            stdin=subprocess.DEVNULL,
            check=False,
            env={
                **os.environ,
                "OMPI_ALLOW_RUN_AS_ROOT": "1",
                "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
            },
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LauncherError(f"`{program} --version` does not answer: {error}.") from None
    return done.stdout + done.stderr
