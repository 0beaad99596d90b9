"""The nodes of a run: how many, which of them this is, and where they meet.

What was typed comes first, then what a starter says (placement.py); where both speak they must
agree. None of it is looked up or connected to here: names stay names. Pure, but for the secret's
file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

from launcher.errors import UsageError
from launcher.options.option import PROG
from launcher.options.spec import LaunchSpec
from launcher.ranks import Assignment, Place, make_places

# As torchrun's.
_DEFAULT_PORT = 29400
_JOIN_TIMEOUT_S = 600.0
_LAST_CALL_S = 30.0

_NO_MASTER = "127.0.0.1"


class NodeGroup(NamedTuple):
    """The nodes of one run, as this node has been told of them."""

    # Compared when nodes meet; runs with different ids never mix.
    run_id: str
    min_nodes: int
    max_nodes: int
    # None where it does not matter which node has which rank.
    node_rank: int | None
    # The endpoint: one of the nodes, and the port at which that one serves the control plane.
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
    # What decided: field -> flag or variable.
    sources: Mapping[str, str] = {}

    @property
    def has_id(self) -> bool:
        """Whether somebody has named the run, so that it need not be named after its folder."""
        return self.run_id not in ("", "none")

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


def preview(group: NodeGroup, local_world_size: int) -> Assignment:
    """Return what this node would be told, were all nodes there and had as many workers."""
    node_rank = group.node_rank or 0
    return Assignment(
        attempt=0,
        places=make_places(node_rank, [local_world_size] * group.max_nodes),
        master_addr=group.master_addr or group.host,
        master_port=group.master_port,
    )


def find_nodes(spec: LaunchSpec, environ: Mapping[str, str]) -> NodeGroup | None:
    """Return the nodes of the run; None where this node is the only one."""
    return _by_flags(spec, environ)


def _by_flags(spec: LaunchSpec, environ: Mapping[str, str]) -> NodeGroup | None:
    if spec.max_nodes == 1:
        return None
    conf = spec.rendezvous_settings
    if spec.rdzv_endpoint:
        host, port = spec.endpoint
        port = port or _DEFAULT_PORT
        name = "rdzv_endpoint"
    elif spec.provenance.get("master_addr", "default") != "default":
        host, port = spec.master_addr, spec.control_port or _control_port(spec)
        name = "master_addr"
    else:
        command = f"{PROG} --nnodes {spec.nnodes} --rdzv-endpoint HOST:{_DEFAULT_PORT}"
        raise spec.error(
            "nnodes",
            "needs to know where the nodes meet",
            f"Type on each node, with the name of one of them for HOST: {command} {spec.script}",
        )
    has_master = name == "master_addr"
    return NodeGroup(
        run_id=spec.rdzv_id,
        min_nodes=spec.min_nodes,
        max_nodes=spec.max_nodes,
        node_rank=spec.node_rank,
        host=host,
        port=port,
        is_host=_is_host(spec, conf),
        master_addr=spec.master_addr if has_master else "",
        master_port=spec.master_port or 0,
        local_addr=spec.local_addr or "",
        secret=read_secret(spec, environ),
        join_timeout_s=conf.get("join_timeout", conf.get("timeout", _JOIN_TIMEOUT_S)),
        last_call_s=conf.get("last_call_timeout", _LAST_CALL_S),
        node_timeout_s=spec.node_timeout,
        rescales_now=spec.rescale == "now",
        sources={"host": spec.find_source(name), "max_nodes": spec.find_source("nnodes")},
    )


def _control_port(spec: LaunchSpec) -> int:
    """Return the port beside the workers' one, which is theirs alone."""
    if spec.master_port is None:
        return _DEFAULT_PORT
    return spec.master_port + 1 if spec.master_port < 65535 else spec.master_port - 1


def _is_host(spec: LaunchSpec, conf: Mapping[str, float]) -> bool | None:
    if "is_host" in conf:
        return bool(conf["is_host"])
    # With fixed ranks it is node 0; where ranks go by arrival, it is whoever has the address.
    if spec.node_rank is None or (spec.rdzv_endpoint and spec.min_nodes < spec.max_nodes):
        return None
    return None if spec.rdzv_endpoint else spec.node_rank == 0


def read_secret(spec: LaunchSpec, environ: Mapping[str, str]) -> bytes:
    """Return the secret of the run's nodes; empty without one.

    UsageError for a file that cannot be read, that is empty, or that others may read.
    """
    if spec.secret_file is None:
        return os.fsencode(environ.get("LAUNCHER_SECRET", ""))
    path = os.path.expanduser(spec.secret_file)
    try:
        with open(path, "rb") as file:
            mode, secret = os.fstat(file.fileno()).st_mode, file.read(4096).strip()
    except OSError as error:
        raise spec.error("secret_file", f"cannot be read: {error.strerror}") from None
    if mode & 0o077:
        raise UsageError(
            f"{spec.find_source('secret_file')} {spec.secret_file}: others may read it.",
            hint=f"Type: chmod 600 {spec.secret_file}",
        )
    if not secret:
        make = f"head -c 24 /dev/urandom | base64 > {spec.secret_file}"
        raise spec.error("secret_file", "is empty", f"Type: {make}")
    return secret
