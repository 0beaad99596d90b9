"""Services that start one container for each node: which one this is, and where they meet.

Most set MASTER_ADDR, WORLD_SIZE and RANK. Whether WORLD_SIZE counts nodes or workers differs from
one to the next, and is decided where the number of workers is known. Names stay names. Pure.
"""

from __future__ import annotations

from collections.abc import Callable

from launcher.errors import EnvironmentMismatch, UsageError
from launcher.starters.detect import Environ, read_number
from launcher.starters.placement import Placement

# Of a pod of an indexed Job: there may be others, and they may be runs of their own.
INDEX = "JOB_COMPLETION_INDEX"

# Which node this is, best first. RANK is it where a service numbers its containers.
_RANKS = ("NODE_RANK", "GROUP_RANK", "RANK", INDEX)

# How many there are: torchrun's name, those that people and services have made up, Azure ML's.
_COUNTS = ("GROUP_WORLD_SIZE", "NNODES", "NUM_NODES", "AZUREML_NODE_COUNT")

# A service's name of a run: Azure ML's, SageMaker's, Vertex AI's.
_JOBS = ("AZUREML_RUN_ID", "TRAINING_JOB_NAME", "CLOUD_ML_JOB_ID")

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def place_by_service(environ: Environ, read_full_name: Callable[[], str]) -> Placement | None:
    """Return the place among the containers of a service; None where no variable says one.

    read_full_name: returns the name of this host with its domain.
    """
    placement = (
        _place_on_sagemaker(environ)
        or _place_on_vertex(environ)
        or _place_by_variables(environ, read_full_name)
    )
    return placement and _add_master(placement, environ)


def _place_by_variables(environ: Environ, read_full_name: Callable[[], str]) -> Placement | None:
    """Return the place that MASTER_ADDR, NODE_RANK and the like give; None without them.

    A number alone, left over in a shell, gives none: it takes an address, or a number of a node.
    """
    address = environ.get("MASTER_ADDR", "")
    if not address and not environ.get("NODE_RANK") and not environ.get(INDEX):
        return None
    rank = next(filter(environ.get, _RANKS), "")
    if address in _LOOPBACK and rank in ("", "RANK"):
        return None  # all ranks are to be on this host
    _refuse_ranks(environ)
    count = next(filter(environ.get, _COUNTS), "")
    host = "" if address else _name_first_pod(environ, read_full_name)
    sources = {"num_nodes": count, "node_rank": rank, "world_size": "WORLD_SIZE"}
    placement = Placement(
        starter="Kubernetes" if rank == INDEX else "the environment",
        num_nodes=read_number(environ, count, least=1) if count else None,
        node_rank=read_number(environ, rank) if rank else None,
        host=host,
        world_size=read_number(environ, "WORLD_SIZE", least=1) if environ.get("WORLD_SIZE") else 0,
        sources={
            **{field: name for field, name in sources.items() if environ.get(name)},
            **({"host": INDEX} if host else {}),
        },
    )
    _check_rank(placement)
    return placement


def _name_first_pod(environ: Environ, read_full_name: Callable[[], str]) -> str:
    """Return the name of an indexed Job's first pod; "" where the pods have no names.

    They are called JOB-INDEX.SERVICE where they have a headless service as their subdomain.
    """
    if not environ.get(INDEX):
        return ""
    own, _, domain = read_full_name().partition(".")
    job = own.removesuffix(f"-{read_number(environ, INDEX)}")
    return f"{job}-0.{domain}" if domain and job != own else ""


def _refuse_ranks(environ: Environ) -> None:
    """Raise EnvironmentMismatch where this process is one of several of its container."""
    for name, least in (("LOCAL_RANK", 1), ("LOCAL_WORLD_SIZE", 2)):
        if environ.get(name) and read_number(environ, name) >= least:
            raise EnvironmentMismatch(
                f"{name}={environ[name]} says that somebody has started a process for each rank,"
                " and --nproc-per-node and --nnodes are for one launcher on each node.",
                hint=(
                    "Leave both flags out, or start one process per node; if it is left over:"
                    " `unset LOCAL_RANK LOCAL_WORLD_SIZE`."
                ),
            )


def _check_rank(placement: Placement) -> None:
    rank, sources = placement.node_rank, placement.sources
    for field, count in (("num_nodes", placement.num_nodes), ("world_size", placement.world_size)):
        if count and rank is not None and rank >= count:
            raise EnvironmentMismatch(
                f"{sources['node_rank']}={rank} does not go with {sources[field]}={count}: nodes"
                f" are 0 to {count - 1}.",
                hint=f"Correct one of them, or `unset {sources['node_rank']} {sources[field]}`.",
            )


def _place_on_sagemaker(environ: Environ) -> Placement | None:
    """SM_HOSTS is a list such as ["algo-1", "algo-2"], and SM_CURRENT_HOST one of them."""
    hosts = _read_json(environ, "SM_HOSTS")
    name = environ.get("SM_CURRENT_HOST")
    if not isinstance(hosts, list) or len(hosts) < 2 or name not in hosts:
        return None
    sources = {"num_nodes": "SM_HOSTS", "node_rank": "SM_CURRENT_HOST", "host": "SM_HOSTS"}
    return Placement("SageMaker", len(hosts), hosts.index(name), str(hosts[0]), sources=sources)


def _place_on_vertex(environ: Environ) -> Placement | None:
    """CLUSTER_SPEC has the replicas of each pool, and which one of them this is.

    The first pool has the primary replica, the second one the workers; those of others do not
    train.
    """
    spec = _read_json(environ, "CLUSTER_SPEC")
    if not isinstance(spec, dict):
        return None
    try:
        pools = [spec["cluster"].get(f"workerpool{number}", []) for number in (0, 1)]
        pool = {"workerpool0": 0, "workerpool1": 1}.get(spec["task"]["type"])
        index = int(spec["task"]["index"])
        host = str(pools[0][0]).rpartition(":")[0]
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return None  # another one's variable of that name
    num_nodes = len(pools[0]) + len(pools[1])
    if pool is None or num_nodes < 2:
        return None
    node_rank = index + (len(pools[0]) if pool else 0)
    sources = dict.fromkeys(("num_nodes", "node_rank", "host"), "CLUSTER_SPEC")
    return Placement("Vertex AI", num_nodes, node_rank, host, sources=sources)


def _add_master(placement: Placement, environ: Environ) -> Placement:
    """Add what somebody has set for torch's store, whoever has numbered the nodes."""
    address, port = environ.get("MASTER_ADDR", ""), 0
    sources = dict(placement.sources)
    if environ.get("MASTER_PORT"):
        port = read_number(environ, "MASTER_PORT", least=1, most=65535)
        sources["port"] = "MASTER_PORT"
    if address:
        sources["host"] = "MASTER_ADDR"
    return placement._replace(
        host=address or placement.host,
        job=next(filter(None, map(environ.get, _JOBS)), "") or "",
        master_addr=address,
        master_port=port,
        sources=sources,
    )


def _read_json(environ: Environ, name: str) -> object:
    """Return what a variable holds as JSON; None without it."""
    if not environ.get(name):
        return None
    import json

    try:
        return json.loads(environ[name])
    except ValueError:
        raise UsageError(f"{name} is not JSON.", hint=f"`unset {name}`") from None
