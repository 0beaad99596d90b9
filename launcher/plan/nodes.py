"""The nodes of a run: how many, which of them this is, and where they meet.

What was typed comes first, then what a starter says (launcher/starters/nodes.py); where both speak
they must agree. Names stay names: none of them is looked up here. Pure, but for the secret's file,
this host's name, what it has where workers are to be counted, and hydra.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from launcher.errors import EnvironmentMismatch, UsageError
from launcher.named import NamedTuple
from launcher.options.option import PROG
from launcher.options.spec import LaunchSpec
from launcher.plan.node_count import count_nodes
from launcher.plan.secret import read_secret
from launcher.ranks import Assignment, Place, make_places
from launcher.starters.meeting import derive_port
from launcher.starters.nodes import find_placement, is_below_a_rank
from launcher.starters.placement import Placement
from launcher.system.machine import usable_cpus, visible_gpus
from launcher.system.network import check_name, own_address, read_full_name

# As torchrun's.
_DEFAULT_PORT = 29400
_JOIN_TIMEOUT_S = 600.0
_LAST_CALL_S = 30.0

# How long the hosts of an engine's ranks wait for each other.
_PATIENCE_S = 60.0

# By which hydra has reached this host.
_HYDRA_NAME = "MPIR_CVAR_CH3_INTERFACE_HOSTNAME"


class NodeGroup(NamedTuple):
    """The nodes of one run, as this node has been told of them."""

    # Compared when nodes meet; runs with different ids never mix.
    run_id: str
    min_nodes: int
    max_nodes: int
    # None where it does not matter which node has which rank.
    node_rank: int | None
    # The endpoint: one of the nodes, and the port at which that one serves the control plane.
    # Several names and addresses with commas between them where one of them is right: the others
    # are tried in turn.
    host: str
    port: int
    # Whether this node is that one; None where whoever has the address is.
    is_host: bool | None = None
    # What the workers are to find in MASTER_ADDR and MASTER_PORT; "" and 0 where we choose.
    master_addr: str = ""
    master_port: int = 0
    # Of this node, for the others; "" for the one from which it has reached them.
    local_addr: str = ""
    # By which the nodes prove to each other that they belong together; empty without one.
    secret: bytes = b""
    join_timeout_s: float = _JOIN_TIMEOUT_S
    last_call_s: float = _LAST_CALL_S
    node_timeout_s: float = 6.0
    # Whether a newcomer means a restart at once.
    rescales_now: bool = True
    # Whether what the launchers of all nodes say comes out in one place.
    gathers_output: bool = False
    # What had to be decided, in a line for the user; "" where there was no choice.
    note: str = ""
    # Whether `run_id` is a name for people, too; mpirun's is a mere number.
    is_named: bool = True
    # What decided: field -> flag or variable.
    sources: Mapping[str, str] = {}

    @property
    def has_id(self) -> bool:
        """Whether somebody has named the run, so that it need not be named after its folder."""
        return self.is_named and self.run_id not in ("", "none")

    @property
    def is_elastic(self) -> bool:
        return self.min_nodes < self.max_nodes


class Node(NamedTuple):
    """This node, as the others are to know it."""

    hostname: str
    num_workers: int
    # What all nodes must have alike, in words: name -> value.
    alike: dict[str, str]
    # Of the workers, where an engine has given them; else empty.
    places: tuple[Place, ...] = ()


def preview(group: NodeGroup, local_world_size: int, places: tuple[Place, ...] = ()) -> Assignment:
    """Return what this node would be told, were all nodes there and had as many workers.

    places: of workers whose engine has given them.
    """
    node_rank = group.node_rank or 0
    return Assignment(
        attempt=0,
        places=places or make_places(node_rank, [local_world_size] * group.max_nodes),
        master_addr=group.master_addr or group.host.partition(",")[0],
        master_port=group.master_port,
    )


def find_nodes(spec: LaunchSpec, environ: Mapping[str, str]) -> NodeGroup | None:
    """Return the nodes of the run; None where this node is the only one.

    What was typed comes first, then what a starter says. Raises EnvironmentMismatch, with what to
    type instead, where the two contradict each other, and where numbers of the environment could
    mean two things; UsageError where nothing says where the nodes meet.
    """
    if spec.standalone:
        return None
    placement = find_placement(environ, read_full_name)
    if placement is None:
        if not is_below_a_rank(environ):
            _refuse_left_over(spec, environ)
        placement = Placement("", None, None)

    def count_workers() -> int:
        return spec.local_world_size(usable_cpus, lambda: len(visible_gpus(environ)))

    count = count_nodes(spec, placement, count_workers)
    if count is None or count.most == 1:
        return None
    conf = spec.rendezvous_settings
    join_timeout_s = conf.get("join_timeout", conf.get("timeout", _JOIN_TIMEOUT_S))
    node_rank = _find_rank(spec, placement)
    if not _find_meeting(spec, placement).host:
        from launcher.starters import hydra

        if hydra.can_exchange(environ):
            placement = _meet_over_hydra(placement, environ, join_timeout_s)
    meeting = _find_meeting(spec, placement)
    if not meeting.host:
        raise _ask_for_endpoint(spec, placement)
    has_id = spec.provenance.get("rdzv_id", "default") != "default"
    return NodeGroup(
        run_id=spec.rdzv_id if has_id or not placement.job else placement.job,
        min_nodes=count.least,
        max_nodes=count.most,
        node_rank=node_rank,
        host=meeting.host,
        port=meeting.port,
        is_host=_is_host(spec, node_rank, conf),
        master_addr=meeting.master_addr,
        master_port=spec.master_port or placement.master_port,
        local_addr=spec.local_addr or "",
        secret=read_secret(spec, environ) or placement.secret.encode(),
        join_timeout_s=join_timeout_s,
        last_call_s=conf.get("last_call_timeout", _LAST_CALL_S),
        node_timeout_s=spec.node_timeout,
        rescales_now=spec.rescale == "now",
        gathers_output=placement.gathers_output,
        note=count.note,
        is_named=has_id or placement.is_named,
        sources={**placement.sources, "host": meeting.source, "max_nodes": count.source},
    )


def find_nodes_of_ranks(
    spec: LaunchSpec, first: Place, environ: Mapping[str, str]
) -> NodeGroup | None:
    """Return the hosts of the ranks that an engine has started; None where they are one, or alone.

    first: the first rank of this host. Its number takes the place of the host's: only the order
    counts. Raises RendezvousError where this host does not know the name of the first one.
    """
    from launcher.starters.rank_nodes import place_ranks

    placement = place_ranks(first, environ)
    if placement is None or placement.num_nodes in (None, 1):
        return None
    if placement.starter == "srun" and not placement.master_addr:
        check_name(placement.host)
    conf = spec.rendezvous_settings
    return NodeGroup(
        run_id=placement.job,
        min_nodes=placement.num_nodes,
        max_nodes=placement.num_nodes,
        node_rank=first.rank,
        host=placement.host,
        port=spec.control_port or placement.port,
        is_host=first.rank == 0,
        master_addr=placement.master_addr,
        master_port=placement.master_port,
        local_addr=spec.local_addr or "",
        secret=read_secret(spec, environ) or placement.secret.encode(),
        # An engine starts them all at once.
        join_timeout_s=conf.get("join_timeout", _PATIENCE_S),
        node_timeout_s=spec.node_timeout,
        gathers_output=placement.gathers_output,
        is_named=placement.is_named,
    )


class _Meeting(NamedTuple):
    """Where the nodes meet, and what the workers are told of it."""

    host: str
    port: int
    master_addr: str
    source: str


def _find_meeting(spec: LaunchSpec, placement: Placement) -> _Meeting:
    if spec.rdzv_endpoint:
        host, port = spec.endpoint
        port = spec.control_port or port or placement.port or _DEFAULT_PORT
        return _Meeting(host, port, placement.master_addr, spec.find_source("rdzv_endpoint"))
    master_port = spec.master_port or placement.master_port
    port = spec.control_port or placement.port or _control_port(master_port)
    if spec.provenance.get("master_addr", "default") != "default":
        return _Meeting(spec.master_addr, port, spec.master_addr, spec.find_source("master_addr"))
    source = placement.sources.get("host", "")
    return _Meeting(placement.host, port, placement.master_addr, source)


def _find_rank(spec: LaunchSpec, placement: Placement) -> int | None:
    if spec.node_rank is None or placement.node_rank in (None, spec.node_rank):
        return placement.node_rank if spec.node_rank is None else spec.node_rank
    source = spec.find_source("node_rank")
    raise EnvironmentMismatch(
        f"{source}{' ' if source.startswith('-') else '='}{spec.node_rank} does not go with"
        f" {placement.sources['node_rank']}={placement.node_rank} of {placement.starter}.",
        hint=f"Leave {source} out: it is known without it.",
    )


def _meet_over_hydra(placement: Placement, environ: Mapping[str, str], wait_s: float) -> Placement:
    """Return the placement with what the launcher of rank 0 says of itself, and a secret."""
    from launcher.starters import hydra

    names = (environ.get(_HYDRA_NAME, ""), own_address(), os.uname().nodename)
    hosts = ",".join(dict.fromkeys(name for name in names if name not in ("", "localhost")))
    job, word = hydra.exchange(environ, f"{hosts};{os.urandom(16).hex()}", wait_s)
    host, _, secret = word.partition(";")
    sources = {**placement.sources, "host": "PMI_FD"}
    port = derive_port(job)
    return placement._replace(host=host, port=port, job=job, secret=secret, sources=sources)


def _ask_for_endpoint(spec: LaunchSpec, placement: Placement) -> UsageError:
    """Return the error for nodes that do not know where to meet."""
    counted = "" if placement.num_nodes else f" --nnodes {spec.nnodes}"
    workers = f" --nproc-per-node {spec.nproc_per_node}" if placement.starter else ""
    endpoint = f" --rdzv-endpoint HOST:{_DEFAULT_PORT}"
    command = f"{PROG}{counted}{workers}{endpoint} {spec.script}"
    if not placement.starter:
        hint = f"Type on each node, with the name of one of them for HOST: {command}"
        return spec.error("nnodes", "needs to know where the nodes meet", hint)
    return UsageError(
        f"{placement.starter} has started a launcher on each node, and does not say where the first"
        " of them is.",
        hint=f"Type, with its name for HOST: {command}",
    )


def _refuse_left_over(spec: LaunchSpec, environ: Mapping[str, str]) -> None:
    """Raise EnvironmentMismatch for a WORLD_SIZE with which nothing else here goes.

    Whoever exports it expects so many workers; beside a number that was typed it is left over.
    """
    typed = [spec.provenance.get(name, "default") for name in ("nproc_per_node", "nnodes")]
    size = environ.get("WORLD_SIZE", "1").strip()
    if typed != ["default", "default"] or not size.isdecimal() or int(size) <= 1:
        return
    nodes = f"{PROG} --nnodes {size} --rdzv-endpoint HOST:{_DEFAULT_PORT} {spec.script}"
    raise EnvironmentMismatch(
        f"WORLD_SIZE={size} is set, and this command starts one worker.",
        hint=(
            f"Type: {PROG} --nproc-per-node {size} {spec.script}, or on each of {size} nodes:"
            f" {nodes}, or if it is left over: unset WORLD_SIZE"
        ),
    )


def _control_port(master_port: int) -> int:
    """Return the port beside the workers' one, which is theirs alone."""
    if not master_port:
        return _DEFAULT_PORT
    return master_port + 1 if master_port < 65535 else master_port - 1


def _is_host(spec: LaunchSpec, node_rank: int | None, conf: Mapping[str, float]) -> bool | None:
    if "is_host" in conf:
        return bool(conf["is_host"])
    # With fixed ranks it is node 0; where one was named, it is whoever has the address.
    return None if node_rank is None or spec.rdzv_endpoint else node_rank == 0
