"""The environment contract: every variable that a worker finds, documented by one table.

`make_common` gives what holds for all workers of a node (the fork server starts with it), and
`make_per_rank` what differs between them; `make_identity` is the part of that which a rank also
gets when somebody else has started it. What the user has set is never overridden, except the names
that say which rank a worker is. Knows neither options nor machine: the values of both, and the
user's environment, are arguments.
"""

from __future__ import annotations

from collections.abc import Mapping, Set

from launcher.contract.files import torch_error_file
from launcher.named import NamedTuple
from launcher.ranks import Assignment, Place

# Name -> meaning. docs/reference/environment.md is generated from this table, and a test compares
# it with what workers get.
VARIABLES: dict[str, str] = {
    "RANK": "index of this worker in the whole run, from 0",
    "LOCAL_RANK": "index of this worker on its node, from 0 (always 0 with --virtual-local-rank)",
    "WORLD_SIZE": "number of workers in the run",
    "LOCAL_WORLD_SIZE": "number of workers on this node",
    "NODE_RANK": "index of this node in the run",
    "GROUP_RANK": "the same as NODE_RANK, under torchrun's name",
    "GROUP_WORLD_SIZE": "number of nodes",
    "ROLE_NAME": "value of --role",
    "ROLE_RANK": "the same as RANK (there is one role)",
    "ROLE_WORLD_SIZE": "the same as WORLD_SIZE",
    "MASTER_ADDR": "address at which rank 0 serves torch's process group store",
    "MASTER_PORT": "port of that store; a fresh one for every attempt",
    "TORCHELASTIC_RESTART_COUNT": (
        "number of restarts before this attempt, plus replacements in it before this worker"
    ),
    "TORCHELASTIC_MAX_RESTARTS": "value of --max-restarts",
    "TORCHELASTIC_RUN_ID": "the run's id",
    "TORCHELASTIC_ERROR_FILE": "where a script decorated with torch's @record leaves its exception",
    "LAUNCHER_RUN_ID": "the run's id",
    "LAUNCHER_RUN_DIR": "the run folder, absolute; not set when there is none",
    "LAUNCHER_BACKEND": "value of --backend",
    "LAUNCHER_ERROR_FILE": "where the worker leaves its exception for the failure report",
    "LAUNCHER_STDIN_RANK": "the rank that reads the launcher's stdin; value of --stdin-rank",
    "LAUNCHER_RUN_MARK": "a random word by which the processes of this run are found at clean-up",
    "OMP_NUM_THREADS": (
        "usable CPUs of the node divided by LOCAL_WORLD_SIZE, at least 1; unless you set it"
    ),
    "PYTHONUNBUFFERED": "1, so that output appears when it is written; unless you set it",
    "GLOO_SOCKET_IFNAME": (
        "lo when the run has one node, else the interface on which this one reaches the others;"
        " unless you set it"
    ),
    "NCCL_SOCKET_IFNAME": "lo when the run has one node; unless you set it",
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1, as under torchrun; unless you set it",
    "CUDA_VISIBLE_DEVICES": "set only by --devices and --virtual-local-rank",
    "HOROVOD_RANK": (
        "the same as RANK; this and all below only with --backend horovod, or for a script that"
        " imports it"
    ),
    "HOROVOD_SIZE": "the same as WORLD_SIZE",
    "HOROVOD_LOCAL_RANK": "the same as LOCAL_RANK",
    "HOROVOD_LOCAL_SIZE": "the same as LOCAL_WORLD_SIZE",
    "HOROVOD_CROSS_RANK": "the same as NODE_RANK",
    "HOROVOD_CROSS_SIZE": "number of nodes",
    "HOROVOD_HOSTNAME": "name of this node",
    "HOROVOD_CONTROLLER": "gloo; unless you set it",
    "HOROVOD_CPU_OPERATIONS": "gloo; unless you set it",
    "HOROVOD_GLOO_RENDEZVOUS_ADDR": "where the launcher serves Horovod's store, with a secret path",
    "HOROVOD_GLOO_RENDEZVOUS_PORT": "its port; a fresh one for every attempt",
    "HOROVOD_GLOO_TIMEOUT_SECONDS": (
        "600 (the launcher notices dead ranks itself), 5 with HOROVOD_ELASTIC; unless you set it"
    ),
    "HOROVOD_STALL_CHECK_TIME_SECONDS": (
        "a quarter of --hang-timeout, from 1 to 60, when that is given; unless you set it"
    ),
    "HOROVOD_GLOO_IFACE": "the same as GLOO_SOCKET_IFNAME; unless you set it",
    "HOROVOD_ELASTIC": (
        "1 for a script that uses hvd.elastic, with --max-restarts; `no_proxy` then contains"
        " 127.0.0.1"
    ),
}

# Of a surrounding launcher: a store that is not ours, and the place for a result that is not this
# worker's. And who asked for this launch: a launcher that a worker starts would look for it above
# itself, and not find it.
_NOT_INHERITED = (
    "TORCHELASTIC_USE_AGENT_STORE",
    "LAUNCHER_PARENT_PID",
    "LAUNCHER_RUN_DIR",
    "LAUNCHER_ERROR_FILE",
    "LAUNCHER_RESULT_FILE",
    "LAUNCHER_SECRET",
    "LAUNCHER_QUIET",
    "LAUNCHER_TERMINAL",
    "TORCHELASTIC_ERROR_FILE",
)

# How an MPI process finds its engine: a worker that we start is none of its ranks, and MPI_Init
# would wait for ever.
_NOT_INHERITED_PREFIXES = (
    "OMPI_APP_",
    "OMPI_COMM_WORLD_",
    "OMPI_FIRST_RANKS",
    "OMPI_MCA_ess_",
    "OMPI_MCA_orte_",
    "OMPI_NUM_APP_",
    "OMPI_UNIVERSE_SIZE",
    "MV2_COMM_WORLD_",
    "PMIX_",
    "PMI_",
)

# The names that `$NAME` in the script's arguments may refer to; every other dollar stays as it is.
EXPANDED_IN_ARGUMENTS = (
    "RANK",
    "LOCAL_RANK",
    "NODE_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
)


# What a variable's name consists of.
_NAME_LETTERS = "_0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

# What a rank is told about nodes.
NODE_VARIABLES = ("NODE_RANK", "GROUP_RANK", "GROUP_WORLD_SIZE")

# Tells a worker, and is taken away before its script runs: the ranks are to agree over MPI on what
# their supervisors do not know.
AGREE = "LAUNCHER_AGREE"

# What python itself reads when it starts.
_READ_AT_START = {"PYTHONUNBUFFERED": "1"}


class Run(NamedTuple):
    """The run as its workers are told of it.

    The defaults are those of a run without a supervisor: an engine has started its ranks.
    """

    run_id: str
    role: str
    backend: str
    max_restarts: int = 0
    # The random word by which the run's processes are found, and its folder.
    mark: str = ""
    run_dir: str | None = None
    # Of this node.
    hostname: str = ""
    # GPUs that the node's workers may see, and whether it was --devices that chose them.
    gpus: tuple[str, ...] = ()
    gpus_are_chosen: bool = False
    virtual_local_rank: bool = False
    # Value of --hang-timeout in seconds, 0 without.
    hang_timeout_s: float = 0.0
    # The rank that reads the launcher's stdin; None where an engine has given each its own.
    stdin_rank: int | None = None
    # How often the whole launch has been started again before.
    past_restarts: int = 0


def make_for_start(mark: str, user_environ: Mapping[str, str]) -> dict[str, str]:
    """Return what must be there when a fork server's interpreter starts; the rest can wait."""
    return {
        "LAUNCHER_RUN_MARK": mark,
        **{name: user_environ.get(name, value) for name, value in _READ_AT_START.items()},
    }


def make_common(
    run: Run, assignment: Assignment, user_environ: Mapping[str, str], usable_cpus: int
) -> dict[str, str]:
    """Return the variables that all workers of this node share."""
    threads = max(1, usable_cpus // assignment.local_world_size)
    defaults = {
        "OMP_NUM_THREADS": str(threads),
        **_READ_AT_START,
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1",
    }
    if assignment.num_nodes == 1:
        # One node talks to itself over loopback only: no firewall, VPN or missing host name can get
        # in the way.
        defaults["GLOO_SOCKET_IFNAME"] = "lo"
        defaults["NCCL_SOCKET_IFNAME"] = "lo"
    elif assignment.interface:
        # Gloo would ask for the address of the host's own name, which may be unknown or loopback.
        defaults["GLOO_SOCKET_IFNAME"] = assignment.interface
    if assignment.horovod_port:
        defaults["HOROVOD_CONTROLLER"] = defaults["HOROVOD_CPU_OPERATIONS"] = "gloo"
        # Elastic ranks that have noticed a loss wait for those that have not, and the timeout is
        # how these come to notice.
        defaults["HOROVOD_GLOO_TIMEOUT_SECONDS"] = "5" if assignment.is_elastic else "600"
        if assignment.num_nodes == 1:
            defaults["HOROVOD_GLOO_IFACE"] = "lo"
        elif assignment.interface:
            defaults["HOROVOD_GLOO_IFACE"] = assignment.interface
        if run.hang_timeout_s:
            # Horovod looks once per so many whole seconds, by default 60, and names a tensor that
            # it has seen before only after up to four such intervals.
            interval_s = max(1, min(60, int(run.hang_timeout_s / 4)))
            defaults["HOROVOD_STALL_CHECK_TIME_SECONDS"] = str(interval_s)
    variables = {name: value for name, value in defaults.items() if name not in user_environ}
    variables.update(
        LAUNCHER_RUN_ID=run.run_id, LAUNCHER_RUN_MARK=run.mark, LAUNCHER_BACKEND=run.backend
    )
    if run.stdin_rank is not None:
        variables["LAUNCHER_STDIN_RANK"] = str(run.stdin_rank)
    if not assignment.master_addr:
        variables[AGREE] = "1"
    if assignment.is_elastic:
        variables["HOROVOD_ELASTIC"] = "1"
        if "http_proxy" in user_environ or "HTTP_PROXY" in user_environ:
            # Horovod's Python client would ask the proxy for the store.
            direct = user_environ.get("no_proxy", user_environ.get("NO_PROXY", ""))
            variables["no_proxy"] = f"{direct},127.0.0.1" if direct else "127.0.0.1"
    if run.run_dir is not None:
        variables["LAUNCHER_RUN_DIR"] = run.run_dir
    if run.gpus_are_chosen:
        variables["CUDA_VISIBLE_DEVICES"] = ",".join(run.gpus)
    return variables


def make_per_rank(
    run: Run, assignment: Assignment, place: Place, error_file: str | None
) -> dict[str, str]:
    """Return what one worker of a supervisor is told alone."""
    master = (assignment.master_addr, assignment.master_port)
    variables = make_identity(run, place, run.past_restarts + assignment.attempt, master)
    if assignment.horovod_port:
        variables.update(_make_horovod(run, assignment, place))
    variables.update(_make_error_files(error_file))
    if run.virtual_local_rank:
        variables["LOCAL_RANK"] = "0"
        if place.local_rank < len(run.gpus):
            variables["CUDA_VISIBLE_DEVICES"] = run.gpus[place.local_rank]
    return variables


def make_identity(run: Run, place: Place, attempt: int, master: tuple[str, int]) -> dict[str, str]:
    """Return the variables that tell one rank who it is and where the ranks meet.

    `master` is the address and the port. What nobody knows is left out: an empty address, nodes
    that nobody has counted.
    """
    variables: dict[str, object] = {
        "RANK": place.rank,
        "LOCAL_RANK": place.local_rank,
        "WORLD_SIZE": place.world_size,
        "LOCAL_WORLD_SIZE": place.local_world_size,
        "ROLE_NAME": run.role,
        "ROLE_RANK": place.rank,
        "ROLE_WORLD_SIZE": place.world_size,
        "TORCHELASTIC_RESTART_COUNT": attempt,
        "TORCHELASTIC_MAX_RESTARTS": run.max_restarts,
        "TORCHELASTIC_RUN_ID": run.run_id,
    }
    if master[0]:
        variables.update(MASTER_ADDR=master[0], MASTER_PORT=master[1])
    if place.num_nodes is not None:
        of_nodes = (place.node_rank, place.node_rank, place.num_nodes)
        variables.update(zip(NODE_VARIABLES, of_nodes, strict=True))
    return {name: str(value) for name, value in variables.items()}


def make_replacement(rank: int, restart_count: int, error_file: str | None) -> dict[str, str]:
    """Return what is different for a worker that takes a lost one's place (elastic Horovod)."""
    ranks = dict.fromkeys(("RANK", "ROLE_RANK", "HOROVOD_RANK"), str(rank))
    return {
        **ranks,
        "TORCHELASTIC_RESTART_COUNT": str(restart_count),
        **_make_error_files(error_file),
    }


def _make_error_files(path: str | None) -> dict[str, str]:
    if path is None:
        return {}
    return {"LAUNCHER_ERROR_FILE": path, "TORCHELASTIC_ERROR_FILE": torch_error_file(path)}


def _make_horovod(run: Run, assignment: Assignment, place: Place) -> dict[str, str]:
    """Return what Horovod's Gloo controller reads when hvd.init() is called."""
    return {
        "HOROVOD_RANK": str(place.rank),
        "HOROVOD_SIZE": str(place.world_size),
        "HOROVOD_LOCAL_RANK": str(place.local_rank),
        "HOROVOD_LOCAL_SIZE": str(place.local_world_size),
        "HOROVOD_CROSS_RANK": str(place.node_rank),
        "HOROVOD_CROSS_SIZE": str(place.num_nodes),
        "HOROVOD_HOSTNAME": run.hostname,
        "HOROVOD_GLOO_RENDEZVOUS_ADDR": assignment.horovod_addr,
        "HOROVOD_GLOO_RENDEZVOUS_PORT": str(assignment.horovod_port),
    }


def select_removed(
    given: Set[str], user_environ: Mapping[str, str], *, is_ours: bool = True
) -> tuple[str, ...]:
    """Return the names that a worker must not inherit, given those that it gets from us.

    is_ours: it is no rank of the engine that has started the launcher.
    """
    of_engines = (
        name for name in user_environ if is_ours and name.startswith(_NOT_INHERITED_PREFIXES)
    )
    return tuple(name for name in (*_NOT_INHERITED, *of_engines) if name not in given)


def compare(
    environ: Mapping[str, str], base: Mapping[str, str]
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return what an environment adds to `base` or changes, and the names that it lacks."""
    different = {name: value for name, value in environ.items() if base.get(name) != value}
    return different, tuple(name for name in base if name not in environ)


def expand(argument: str, variables: Mapping[str, str]) -> str:
    """Replace `$NAME` and `${NAME}` of the contract in one script argument; other dollars stay."""
    expanded, *pieces = argument.split("$")
    for piece in pieces:
        name, length = _read_reference(piece)
        if name in EXPANDED_IN_ARGUMENTS and name in variables:
            expanded += variables[name] + piece[length:]
        else:
            expanded += "$" + piece
    return expanded


def _read_reference(text: str) -> tuple[str, int]:
    """Return the name at the start of `text`, behind a dollar, and the length of the reference."""
    if text.startswith("{"):
        end = text.find("}")
        return (text[1:end], end + 1) if end > 0 else ("", 0)
    name = text[: len(text) - len(text.lstrip(_NAME_LETTERS))]
    return name, len(name)
