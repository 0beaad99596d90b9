"""The page of a launch over ssh: reach the hosts -> start their supervisors -> show -> exit code.

This process starts no worker. It holds a connection to each host, and a supervisor there lives no
longer than that; between themselves they find each other and decide, as if they had been started by
hand. What they print comes out here; what stops this process stops them.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping

from launcher.engines.connections import FORWARDED_SIGNALS, Connections
from launcher.engines.hosts import find_hosts
from launcher.engines.ssh_plan import (
    Here,
    SshPlan,
    choose_endpoint,
    make_ssh_plan,
    render_ssh_plan,
    show_endpoint,
)
from launcher.options.spec import LaunchSpec
from launcher.output.console import Console
from launcher.system.bare import fill_standard_descriptors
from launcher.system.loop import Loop
from launcher.system.network import is_own
from launcher.system.parent import watch_parent


def launch(spec: LaunchSpec, environ: Mapping[str, str]) -> int:
    """Run the launch on its hosts, and return its exit code.

    RendezvousError where not all hosts can be reached, UsageError for what is wrong with the list.
    """
    plan = _make_plan(spec, environ)
    parent = _prepare_process(spec)
    with Loop((*spec.signals, *FORWARDED_SIGNALS, signal.SIGTSTP)) as loop:
        console = Console(loop, environ)
        console.is_quiet = spec.quiet
        try:
            if parent:
                watch_parent(parent, loop, console.say)
            with Connections(plan, environ, loop, console) as hosts:
                answers = hosts.reach()
                if hosts.signum is None:
                    hosts.start(show_endpoint(plan, choose_endpoint(plan, answers)))
                    hosts.wait()
                return hosts.exit_code()
        finally:
            console.close()


def dry_run(spec: LaunchSpec, environ: Mapping[str, str]) -> str:
    """Return what `launch` would do, as text; reaches no host."""
    return render_ssh_plan(_make_plan(spec, environ))


def _make_plan(spec: LaunchSpec, environ: Mapping[str, str]) -> SshPlan:
    hosts = find_hosts(spec)
    names = frozenset(host.name for host in hosts if is_own(host.name))
    here = Here(_find_folder(environ), names, is_typed=os.isatty(0))
    return make_ssh_plan(spec, environ, hosts, here)


def _find_folder(environ: Mapping[str, str]) -> str:
    """Return the working folder by the name that the shell has for it, which other hosts know."""
    folder, named = os.getcwd(), environ.get("PWD", "")
    try:
        return named if os.path.isabs(named) and os.path.samefile(named, folder) else folder
    except OSError:
        return folder


def _prepare_process(spec: LaunchSpec) -> int:
    """Make this process what it has to be; return the one whose end ends the run, or 0."""
    import ctypes  # noqa: F401  (it takes milliseconds, which each ssh would wait for by itself)

    fill_standard_descriptors()
    parent = os.environ.pop("LAUNCHER_PARENT_PID", "")
    if parent.isdigit():
        return int(parent)
    return os.getppid() if spec.die_with_parent else 0
