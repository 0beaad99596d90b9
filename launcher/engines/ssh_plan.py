"""What a launch over ssh will do: the command of each host, and what is told to it.

Values and their text for --dry-run; nothing is started here, and no name is looked up. The secret
of the run and the user's variables never stand in a command: they go through the connection.
"""

from __future__ import annotations

import math
import os
import shlex
import sys
from collections.abc import Mapping, Sequence

from launcher.engines import remote
from launcher.engines.command import engine_args, make_node_command
from launcher.engines.reader import find_reader
from launcher.engines.variables import select_variables
from launcher.errors import RendezvousError, UsageError
from launcher.named import NamedTuple
from launcher.options.hosts import Host
from launcher.options.option import PROG
from launcher.options.spec import LaunchSpec
from launcher.plan.dry_run import hide_secret
from launcher.plan.secret import read_secret
from launcher.runs.folder import new_run_id
from launcher.system.network import is_loopback

# The variable that names another ssh, with arguments of its own.
SSH_VARIABLE = "LAUNCHER_SSH"

# What the last call may take where all that can come have been reached already.
_LAST_CALL = "last_call_timeout=5"

# How long ssh may try to connect, unless LAUNCHER_SSH says otherwise.
_CONNECT_S = 10

# How often ssh asks in vain whether the host is there, before it gives up.
_NUM_ALIVE = 3

# How much longer than the ranks' own time to stop their supervisor may take.
_STOP_S = 10.0

# A connection may be silent for so many times --node-timeout: it may lead to somebody's desk.
_SILENCES = 5

_JOIN_S = 600.0

# What a process that is started here, without ssh, has of our environment: what a login gives.
_LOGIN = ("HOME", "LOGNAME", "SHELL", "TMPDIR", "USER", "XDG_RUNTIME_DIR")


class Here(NamedTuple):
    """What matters of this machine."""

    # The working folder, as the user calls it.
    folder: str
    # The names and addresses in the list that are its own.
    names: frozenset[str]
    # Whether somebody types here: our stdin is a terminal.
    is_typed: bool = False


class HostPlan(NamedTuple):
    """One host: what is started there."""

    host: Host
    # Of its supervisor, which is told later where the nodes meet.
    command: tuple[str, ...]
    # Whether it is this machine, for which no ssh is needed.
    is_here: bool = False
    # Whether one of its ranks reads our stdin.
    has_reader: bool = False


class SshPlan(NamedTuple):
    """A launch over ssh."""

    hosts: tuple[HostPlan, ...]
    # How the others reach the first host, where that was typed; and the port, 0 for a free one.
    endpoint: tuple[str, int]
    folder: str
    # Whether what the reader's rank reads is typed.
    is_typed: bool
    variables: Mapping[str, str]
    secret: str
    # The command of ssh, with the user's arguments.
    ssh: tuple[str, ...]
    # A word that only this run has, before what the other ends say.
    mark: str
    min_nodes: int
    max_nodes: int
    join_timeout_s: float
    node_timeout_s: float
    shutdown_timeout_s: float

    @property
    def is_elastic(self) -> bool:
        return self.min_nodes < len(self.hosts)

    @property
    def silence_s(self) -> float:
        """How long the other end of a connection may say nothing."""
        return _SILENCES * self.node_timeout_s

    @property
    def patience_s(self) -> float:
        """How long a supervisor may take to stop when it has been asked."""
        return self.shutdown_timeout_s + _STOP_S


def make_ssh_plan(
    spec: LaunchSpec, environ: Mapping[str, str], hosts: Sequence[Host], here: Here
) -> SshPlan:
    """Decide everything that can be before the hosts have answered. UsageError names the option."""
    secret = os.fsdecode(read_secret(spec, environ)) or os.urandom(16).hex()
    conf = spec.rendezvous_settings
    return SshPlan(
        hosts=_plan_hosts(spec, hosts, here),
        endpoint=_find_endpoint(spec),
        folder=here.folder,
        is_typed=here.is_typed,
        variables=select_variables(spec, environ),
        secret=secret,
        ssh=(*_find_ssh(environ), *engine_args(spec)),
        mark=os.urandom(8).hex(),
        min_nodes=spec.min_nodes if _is_given(spec, "nnodes") else len(hosts),
        max_nodes=spec.max_nodes if _is_given(spec, "nnodes") else len(hosts),
        join_timeout_s=conf.get("join_timeout", conf.get("timeout", _JOIN_S)),
        node_timeout_s=spec.node_timeout,
        shutdown_timeout_s=spec.shutdown_timeout,
    )


def _plan_hosts(spec: LaunchSpec, hosts: Sequence[Host], here: Here) -> tuple[HostPlan, ...]:
    has_number = _is_given(spec, "nnodes")
    # With more hosts than nodes, who comes first has a rank, and the others wait.
    is_ranked = len(hosts) > 1 and (not has_number or spec.max_nodes == len(hosts))
    counts = [_count_workers(spec, host) for host in hosts]
    reader = find_reader(
        spec,
        counts if is_ranked or len(hosts) == 1 else [],
        is_typed=here.is_typed,
        hint="Type: --hosts a:2,b:2, and as many as --nnodes says",
    )
    common = {
        "nnodes": spec.nnodes if has_number else str(len(hosts)),
        "rdzv_id": new_run_id(spec.rdzv_id),
        "rdzv_conf": _find_conf(spec),
        # These say where the nodes meet.
        "rdzv_endpoint": "",
        "control_port": None,
    }
    plans = []
    for index, host in enumerate(hosts):
        nproc = _count_workers(spec, host)
        node_rank = index if is_ranked else None
        command = make_node_command(spec, **common, nproc_per_node=nproc, node_rank=node_rank)
        is_here = not host.user and host.name in here.names
        plans.append(HostPlan(host, tuple(command), is_here, index == reader))
    return tuple(plans)


def _count_workers(spec: LaunchSpec, host: Host) -> str:
    """Return how many a host has, as --nproc-per-node takes it: also `auto` and the like."""
    return str(host.num_workers or spec.nproc_per_node)


def _find_conf(spec: LaunchSpec) -> str:
    if spec.min_nodes == spec.max_nodes or "last_call_timeout" in spec.rendezvous_settings:
        return spec.rdzv_conf
    return f"{spec.rdzv_conf},{_LAST_CALL}" if spec.rdzv_conf else _LAST_CALL


def _find_ssh(environ: Mapping[str, str]) -> tuple[str, ...]:
    text = environ.get(SSH_VARIABLE) or "ssh"
    try:
        return tuple(shlex.split(text))
    except ValueError as problem:
        raise UsageError(
            f"{SSH_VARIABLE}={text}: {problem}.",
            hint=f"Type for example: export {SSH_VARIABLE}='ssh -F my_config'",
        ) from None


def _find_endpoint(spec: LaunchSpec) -> tuple[str, int]:
    """Return what was typed of the place where the nodes meet: "" and 0 for nothing."""
    host, port = spec.endpoint
    if not host and _is_given(spec, "master_addr"):
        host = spec.master_addr
    return host, port or spec.control_port or 0


def choose_endpoint(plan: SshPlan, answers: Mapping[int, Mapping[str, object]]) -> tuple[str, int]:
    """Return how the other hosts reach the first one.

    answers: what each host that takes part has said of itself. The name in the list, if all know
    it, else the address at which ssh has reached the host: the name may be one of ssh's
    configuration. RendezvousError where neither will do.
    """
    first, *others = sorted(answers)
    name, host = plan.endpoint[0], plan.hosts[first].host
    port = plan.endpoint[1] or int(str(answers[first]["port"]))
    found = {index: str(answers[index]["found"]) for index in others}
    if name or not others or (first == 0 and all(map(_can_be_reached, found.values()))):
        return name or host.name, port
    address = str(answers[first]["address"])
    if _can_be_reached(address):
        return address, port
    if first > 0:
        return host.name, port  # nobody has been asked for this one
    blind = [plan.hosts[i].host.name for i in others if not _can_be_reached(found[i])]
    raise RendezvousError(
        f"{', '.join(blind)} cannot reach the first host by the name {host.name}.",
        hint="Type its address in their network: --rdzv-endpoint ADDRESS",
    )


def _can_be_reached(address: str) -> bool:
    """Tell whether an address is one that other machines can connect to."""
    return bool(address) and not is_loopback(address)


def make_command(plan: SshPlan, index: int, *, may_ask: bool = False) -> list[str]:
    """Return what starts the other end on a host. may_ask: ssh may ask the user for a password."""
    host = plan.hosts[index]
    command = [sys.executable, "-I", "-S", os.path.abspath(remote.__file__), plan.mark]
    if host.is_here:
        return command
    # So ssh is not quicker than we are to give up a host that has fallen silent; before that has
    # answered us, nobody else does.
    alive_s = math.ceil(plan.silence_s / _NUM_ALIVE)
    options = [
        f"-oConnectTimeout={_CONNECT_S}",
        *(f"-oServerAliveInterval={alive_s}", f"-oServerAliveCountMax={_NUM_ALIVE}"),
        "-oClearAllForwardings=yes",
    ]
    if not may_ask:
        options.append("-oBatchMode=yes")
    return [*plan.ssh, "-T", *options, host.host.target, f"exec {shlex.join(command)}"]


def make_question(plan: SshPlan, index: int, variables: Mapping[str, str]) -> dict[str, object]:
    """Return what a host is asked, and what it is to start when it is told to go.

    variables: besides those that are the user's.
    """
    first = plan.hosts[0].host.name
    return {
        "folder": plan.folder,
        # Any host may be the first, if those before it cannot be reached.
        "reserve": plan.endpoint[1] if index == 0 else 0,
        "find": first if len(plan.hosts) > 1 and not plan.endpoint[0] else "",
        "silence_s": plan.silence_s,
        "patience_s": plan.patience_s,
        "has_input": plan.hosts[index].has_reader,
        "argv": plan.hosts[index].command,
        "environ": {
            **plan.variables,
            **variables,
            "LAUNCHER_SECRET": plan.secret,
            # All that is said comes to one screen; at first, the first host speaks for all.
            "LAUNCHER_QUIET": str(int(index > 0)),
        },
    }


def show_endpoint(plan: SshPlan, endpoint: tuple[str, int]) -> str:
    """Return the endpoint as it is typed; "" where there is one node, which needs none."""
    host, port = endpoint
    if plan.max_nodes == 1:
        return ""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def select_login(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what a host's own variables are on this machine, where nobody logs in."""
    return {name: environ[name] for name in _LOGIN if name in environ}


def render_ssh_plan(plan: SshPlan) -> str:
    """Return the plan as text."""
    name = plan.endpoint[0] or plan.hosts[0].host.name
    port = plan.endpoint[1]
    where = f"port {port}" if port else "a free port of it"
    lines = [f"{len(plan.hosts)} hosts, a launcher on each, started by {shlex.join(plan.ssh)}"]
    if plan.max_nodes > 1:
        lines.append(f"they meet at: {name}, {where}")
    lines += [f"folder on each: {plan.folder}", ""]
    for index, host in enumerate(plan.hosts):
        start = shlex.join(make_command(plan, index)).replace(plan.mark, "MARK")
        runs = shlex.join(host.command)
        lines += [f"{host.host.name}{', this machine' if host.is_here else ''}:"]
        lines += [f"  started by: {start}", f"  which runs: {runs}"]
        lines += ["  a rank of it reads the stdin of this command"] if host.has_reader else []
    lines += ["", "variables taken along, through the connection:"]
    taken = {**plan.variables, "LAUNCHER_SECRET": plan.secret}
    lines += [f"  {name}={hide_secret(name, value)}" for name, value in sorted(taken.items())]
    lines += ["", f"what the ranks of one host get: {PROG} --dry-run, without --hosts"]
    return "\n".join(lines)


def _is_given(spec: LaunchSpec, name: str) -> bool:
    return spec.provenance.get(name, "default") != "default"
