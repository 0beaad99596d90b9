"""Handing a launch to Slurm: a launcher on each node by srun, or a batch job with that srun.

The page of `--engine slurm`; what is asked for is made in slurm_request.py, how srun is run and a
job followed stands in files of their own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from launcher.engines import slurm_client
from launcher.engines.command import PARENT_VARIABLE, make_node_environ
from launcher.engines.slurm_request import (
    check_request,
    drop_shares,
    find_task,
    in_allocation,
    job_name,
    make_script,
    make_srun,
    nodes_of,
)
from launcher.errors import LauncherError, UsageError
from launcher.options.option import PROG
from launcher.options.spec import LaunchSpec
from launcher.output.console import ONLY_TYPED, TERMINAL_VARIABLE
from launcher.plan.secret import read_secret
from launcher.runs.folder import new_run_id
from launcher.system.bare import fill_standard_descriptors

# Slurm's words for what it refuses, and what helps.
_HELP = {
    "partition": "Type: sinfo --summarize, and name a partition with --partition",
    "account": "Type: sacctmgr show associations user=$USER, and name one with --account",
    "time limit": "Type: sinfo --format='%P %l', and give less with --time",
    "node configuration is not available": (
        "No node has so many CPUs or GPUs: see `sinfo -Nel`. The workers of a node are given a CPU"
        " each; --engine-args='--cpus-per-task=N' asks for another number"
    ),
}


def dry_run(spec: LaunchSpec, environ: Mapping[str, str]) -> str:
    """Return the srun command, or the batch script, as text; nothing is started or written."""
    import shlex

    check_request(spec, environ)
    if spec.submit:
        run_id = new_run_id(spec.rdzv_id)
        return make_script(spec, run_id, _output_of(spec, run_id), os.getcwd()).rstrip("\n")
    reader = find_task(spec, environ, is_typed=os.isatty(0))
    return shlex.join(make_srun(spec, environ, job_name(spec), reader))


def start(
    spec: LaunchSpec,
    environ: Mapping[str, str],
    say: Callable[[str], None],
    show: Callable[[str], None],
) -> int:
    """Run or submit a launch; return its exit code.

    `say` prints a line of ours, `show` what the caller of --submit may want to read.
    """
    check_request(spec, environ)
    if spec.submit:
        return _submit(spec, environ, say, show)
    return _run(spec, environ, say)


def _run(spec: LaunchSpec, environ: Mapping[str, str], say: Callable[[str], None]) -> int:
    from launcher.engines.srun import PASSED_ON, Srun
    from launcher.system.loop import Loop
    from launcher.system.parent import watch_parent

    fill_standard_descriptors()
    name = f"{job_name(spec)}.{os.urandom(3).hex()}"
    is_typed = os.isatty(0)
    reader = find_task(spec, environ, is_typed=is_typed)
    argv = make_srun(spec, environ, name, reader)
    variables = drop_shares(make_node_environ(spec, environ))
    secret = read_secret(spec, environ) or os.urandom(24).hex().encode()
    # All that is said comes to one screen: there, one node speaks for all.
    variables.update(LAUNCHER_SECRET=os.fsdecode(secret), LAUNCHER_QUIET="0")
    if reader >= 0 and is_typed:
        variables[TERMINAL_VARIABLE] = f"{ONLY_TYPED} lines"  # srun passes on whole ones
    parent = _find_parent(spec, environ)
    with Loop((*spec.signals, *PASSED_ON)) as loop:
        if parent:
            watch_parent(parent, loop, say)
        with Srun(loop, name, argv, variables, has_input=reader >= 0) as srun:
            code = srun.wait()
    if srun.refusal and not srun.signum:
        nodes = nodes_of(spec, environ)
        asked = "1 node" if nodes == "1" else f"{nodes} nodes"
        where = f" of the allocation {environ['SLURM_JOB_ID']}" if in_allocation(environ) else ""
        raise _refused(spec, f"Slurm does not give {asked}{where}", srun.refusal)
    if srun.signum and not srun.has_begun:
        return 128 + srun.signum
    return code


def _find_parent(spec: LaunchSpec, environ: Mapping[str, str]) -> int:
    """Return the process whose end ends the run, or 0."""
    named = environ.get(PARENT_VARIABLE, "")
    if named.isdigit():
        return int(named)
    return os.getppid() if spec.die_with_parent else 0


def _submit(
    spec: LaunchSpec,
    environ: Mapping[str, str],
    say: Callable[[str], None],
    show: Callable[[str], None],
) -> int:
    run_id = new_run_id(spec.rdzv_id)
    output = _output_of(spec, run_id)
    path = os.path.join(os.path.abspath(spec.run_dir), f"{run_id}.sh")
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(make_script(spec, run_id, output, os.getcwd()))
    except OSError as error:
        raise LauncherError(
            f"The batch script {path} cannot be written: {error.strerror}.",
            hint="Type, with a folder that all nodes see: --run-dir DIR",
        ) from None
    number, refusal = slurm_client.submit(path, make_node_environ(spec, environ))
    if not number:
        os.unlink(path)
        raise _refused(spec, "sbatch refuses the job", refusal)
    written = output.replace("%j", number).replace("%%", "%")
    say(f"job {number} is {path}, and writes to {written}; `scancel {number}` stops it")
    if not spec.wait:
        show(f"{number}\n")
        return 0
    from launcher.engines.slurm_follow import follow

    return follow(number, written, spec.signals, say)


def _output_of(spec: LaunchSpec, run_id: str) -> str:
    """Return the file for what a job writes, in Slurm's notation: %j is the job's number."""
    folder = os.path.abspath(spec.run_dir).replace("%", "%%")
    return os.path.join(folder, f"{run_id.replace('%', '%%')}-%j.out")


def _refused(spec: LaunchSpec, what: str, words: str) -> UsageError:
    """Return the error for what Slurm does not give, in its own words."""
    lines = [line.partition("error: ")[2] or line for line in words.splitlines()]
    told = "; ".join(line for line in lines if line)
    hint = next((hint for word, hint in _HELP.items() if word in told), "")
    return UsageError(
        f"{what}: {told}.",
        hint=hint
        or f"Type, to see what is asked for: {PROG} --dry-run --engine slurm {spec.script}",
    )
