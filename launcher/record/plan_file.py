"""What `plan.json` holds: what was asked for, and what is done about it.

No package is imported for its version. Secrets are masked by the names of variables and options.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

from launcher.plan.plan import LaunchPlan, WorkerPlan
from launcher.system.identity import whoami
from launcher.system.secrets import MASK, mask_arguments, mask_variables

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Its address ends in a secret, which the name does not say.
_ALSO_SECRET = "HOROVOD_GLOO_RENDEZVOUS_ADDR"


def make_plan_file(
    plan: LaunchPlan, argv: Sequence[str], environ: Mapping[str, str], about: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the object that plan.json holds.

    argv: the launcher's arguments. about: what the caller knows of the run.
    """
    first = plan.workers[0]
    return {
        **about,
        "process": whoami(),
        "cwd": _find_cwd(),
        "command": [sys.executable, "-m", "launcher", *mask_arguments(argv)],
        "environment": mask_variables(environ),
        "layout": {
            "attempt": plan.attempt,
            "world_size": plan.assignment.world_size,
            "nodes": plan.assignment.num_nodes or 1,
            "node": plan.assignment.places[0].node_rank,
            "hosts": [{"host": host, "ranks": count} for host, count in plan.assignment.hosts],
            "master_addr": plan.assignment.master_addr,
            "master_port": plan.assignment.master_port,
            "variables": _mask(first.common_env),
            "ranks": [_describe(worker) for worker in plan.workers],
        },
        "versions": {
            "launcher": about["launcher"],
            "python": sys.version.split()[0],
            "torch": find_version("torch", sys.path),
            "system": " ".join((os.uname().sysname, os.uname().release, os.uname().machine)),
        },
    }


def _find_cwd() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # somebody has removed it
        return None


def _describe(worker: WorkerPlan) -> dict[str, Any]:
    return {
        "rank": worker.rank,
        "local_rank": worker.local_rank,
        "arguments": mask_arguments(worker.args),
        "logs": worker.logs,
        "cpus": sorted(worker.cpus) if worker.cpus else None,
        "variables": _mask(worker.env),
    }


def _mask(variables: Mapping[str, str]) -> dict[str, str]:
    masked = mask_variables(variables)
    if masked.get(_ALSO_SECRET):
        masked[_ALSO_SECRET] = MASK
    return masked


def find_version(package: str, paths: Sequence[str]) -> str | None:
    """Return the version of a package as its file version.py has it; None where there is none.

    The package is not imported, and no list of all packages is read.
    """
    for folder in paths:
        try:
            with open(os.path.join(folder or ".", package, "version.py"), "rb") as file:
                text = file.read(1 << 16).decode(errors="replace")
        except OSError:
            continue
        line = next((line for line in text.splitlines() if line.startswith("__version__")), "")
        value = line.partition("=")[2].strip()
        return value[1:].partition(value[0])[0] if value.startswith(("'", '"')) else None
    return None
