"""mpirun with one launcher on each node: which node this is, and where the launchers meet.

Neither Open MPI nor MPICH tells a process where the others are. But the processes of Open MPI find
what its daemons need to find each other, and that is enough. Names stay names. Pure.
"""

from __future__ import annotations

from launcher.ranks import Place
from launcher.starters.detect import Environ, detect_engine, read_number
from launcher.starters.meeting import derive_port, find_job_id
from launcher.starters.placement import Placement

_ENGINES = ("openmpi", "mvapich", "mpich")

# `2594897920.1;tcp4://127.0.0.1:60361`: the daemon of this host, by number behind the dot.
_DAEMON_URIS = (
    *("PMIX_SERVER_URI41", "PMIX_SERVER_URI4", "PMIX_SERVER_URI3", "PMIX_SERVER_URI21"),
    *("PMIX_SERVER_URI2", "OMPI_MCA_orte_local_daemon_uri"),
)

# Of Open MPI up to 4: `2594897920.0;tcp://10.77.0.1,192.168.5.1:35159`, the host of mpirun, which
# has daemon 0; and `h[1:1-3]@0(3)`, the hosts of all daemons.
_MPIRUN_URI = "OMPI_MCA_orte_hnp_uri"
_NODE_NAMES = "OMPI_MCA_orte_node_regex"

# Of Open MPI 5: `prterun-h1-4711@1`, in which stands the host of mpirun.
_JOB_NAME = "PMIX_NAMESPACE"

# Of Open MPI up to 4: 128 random bits, the same for all processes of a job, and in no command.
_JOB_KEY = "OMPI_MCA_orte_precondition_transports"

# It is on one of the first, but for orders of the user's own.
_MOST_TRIED = 4

# Azure ML, whose MPI jobs are mpirun's: `10.0.0.4:6105`, where rank 0 is.
_AZURE_MASTER = "AZ_BATCH_MASTER_NODE"


def place_mpi(environ: Environ) -> Placement | None:
    """Return the place of a launcher among those of mpirun; None where it is no such launcher."""
    place = detect_engine(environ)
    if place.starter not in _ENGINES or place.world_size == 1 or place.local_world_size > 1:
        return None
    host, source = _find_host(place, environ)
    master_addr = environ.get("MASTER_ADDR", "")
    has_port = bool(environ.get("MASTER_PORT"))
    job = find_job_id(place, environ)
    sources = {
        "num_nodes": place.sources["world_size"],
        "node_rank": place.sources["rank"],
        "host": "MASTER_ADDR" if master_addr else source,
    }
    return Placement(
        starter="mpirun",
        num_nodes=place.world_size,
        node_rank=place.rank,
        host=master_addr or host,
        port=derive_port(job) if job else 0,
        job=job,
        is_named=False,
        master_addr=master_addr,
        master_port=read_number(environ, "MASTER_PORT", least=1, most=65535) if has_port else 0,
        secret=read_job_key(environ),
        gathers_output=True,
        sources={field: source for field, source in sources.items() if source},
    )


def read_job_key(environ: Environ) -> str:
    """Return what only the processes of Open MPI's job have; "" without it."""
    return environ.get(_JOB_KEY, "")


def list_hosts(environ: Environ) -> str:
    """Return where rank 0 may be, the likeliest first: the host of mpirun, then the others.

    "" where Open MPI does not say it.
    """
    hosts = [_read_addresses(environ.get(_MPIRUN_URI, ""))]
    if environ.get(_NODE_NAMES):
        names = _expand_names(environ[_NODE_NAMES])
        hosts += [names[daemon] for daemon in sorted(names) if 0 < daemon <= _MOST_TRIED]
    return ",".join(filter(None, hosts))


def _find_host(place: Place, environ: Environ) -> tuple[str, str]:
    """Return the host of rank 0, and the variable that names it; "" where none does.

    Daemons and launchers are numbered in one order, and the host of mpirun has the first daemon,
    whether it takes part or not: so the difference of our two numbers is the number of rank 0's
    daemon.
    """
    if environ.get(_AZURE_MASTER):
        return environ[_AZURE_MASTER].partition(":")[0], _AZURE_MASTER
    daemon = _find_daemon(environ)
    if daemon is None or daemon < place.rank:
        return "", ""
    first = daemon - place.rank
    if first == 0 and environ.get(_MPIRUN_URI):
        return _read_addresses(environ[_MPIRUN_URI]), _MPIRUN_URI
    if environ.get(_NODE_NAMES):
        names = _expand_names(environ[_NODE_NAMES])
        return (names[first], _NODE_NAMES) if first in names else ("", "")
    job = environ.get(_JOB_NAME, "")
    if first == 0 and job.count("-") > 1:
        return job.split("-", 1)[1].rpartition("-")[0], _JOB_NAME
    return "", ""


def _find_daemon(environ: Environ) -> int | None:
    """Return the number of this host's daemon; None where Open MPI does not say it."""
    for name in filter(environ.get, _DAEMON_URIS):
        number = environ[name].partition(";")[0].rpartition(".")[2]
        if number.isdecimal():
            return int(number)
    return None


def _read_addresses(uri: str) -> str:
    """Return the addresses in a daemon's URI, with commas between them."""
    found: list[str] = []
    for part in uri.split(";")[1:]:
        addresses = part.partition("://")[2].rpartition(":")[0]
        found += [address.strip("[]") for address in addresses.split(",") if address]
    return ",".join(found)


def _expand_names(text: str) -> dict[int, str]:
    """Return daemon -> name of its host, as `node[2:1-3],login@0(3),-1(1)` writes them.

    That is: a number of 2 digits, from 1 to 3; hosts 0 to 2 have daemons, from 0 on, and the last
    one has none. A text of another form gives nothing.
    """
    nodes, _, daemons = text.partition("@")
    try:
        names = [name for item in _split(nodes) for name in _expand(item)]
        numbers = [number for item in daemons.split(",") for number in _count_up(item)]
    except ValueError:
        return {}
    return {
        number: name for name, number in zip(names, numbers, strict=False) if number is not None
    }


def _split(nodes: str) -> list[str]:
    """Cut at the commas that stand outside brackets."""
    items = [""]
    for part in nodes.split(","):
        is_open = items[-1].count("[") > items[-1].count("]")
        items = [*items[:-1], f"{items[-1]},{part}"] if is_open else [*items, part]
    return items[1:]


def _expand(item: str) -> list[str]:
    head, bracket, rest = item.partition("[")
    if not bracket:
        return [item]
    inside, _, tail = rest.partition("]")
    width, _, ranges = inside.partition(":")
    names = []
    for part in ranges.split(","):
        first, dash, last = part.partition("-")
        for number in range(int(first), int(last if dash else first) + 1):
            names.append(f"{head}{number:0{int(width)}}{tail}")
    return names


def _count_up(item: str) -> list[int | None]:
    """Return the daemons of hosts in a row, as `3(2)` writes 3 and 4; None for those without."""
    first, _, count = item.partition("(")
    length = int(count.rstrip(")")) if count else 1
    if int(first) < 0:
        return [None] * length
    return [int(first) + at for at in range(length)]
