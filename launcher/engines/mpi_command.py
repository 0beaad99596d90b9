"""The command line of mpirun that starts a launcher on each host, by whose mpirun it is.

Values only; nothing is started here, and no name is looked up. The secret of the run and the user's
variables never stand in the command: their names do, and mpirun takes the values along.
"""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Mapping, Sequence

from launcher.engines.command import engine_args, make_node_command, make_node_environ
from launcher.engines.reader import find_reader
from launcher.engines.variables import select_variables
from launcher.errors import UsageError
from launcher.named import NamedTuple
from launcher.options.hosts import Host
from launcher.options.spec import LaunchSpec
from launcher.output.console import ONLY_TYPED, TERMINAL_VARIABLE
from launcher.plan.secret import read_secret
from launcher.runs.folder import new_run_id

_SECRET = "LAUNCHER_SECRET"

# The signal by which the launchers are stopped. At SIGTERM, Open MPI kills its processes a second
# later, one host after the other; this one goes to all processes at once, and means nothing to it.
STOP_SIGNAL = signal.SIGALRM

# Those that they take to the processes as they are.
PASSED_ON = (signal.SIGUSR1, signal.SIGUSR2)


class Kind(NamedTuple):
    """Whose mpirun it is."""

    # "Open MPI", or "hydra", which is MPICH's and others'.
    name: str
    # 0 where it does not matter.
    major: int = 0

    @property
    def is_open_mpi(self) -> bool:
        return self.name == "Open MPI"


class MpiRun(NamedTuple):
    """What is started."""

    argv: tuple[str, ...]
    environ: Mapping[str, str]
    # Whether its exit code can be trusted also after a signal; hydra's is then mostly 0.
    is_exact: bool = True
    # Whether one of the launchers reads our stdin.
    has_input: bool = False


def guess_kind(path: str) -> Kind | None:
    """Return whose mpirun a file is, where its name tells; None where it must be asked."""
    return {"orterun": Kind("Open MPI", 4), "mpiexec.hydra": Kind("hydra")}.get(
        os.path.basename(path)
    )


def read_version(text: str) -> Kind:
    """Return whose mpirun says this of itself; UsageError for one that is not known."""
    first = text.strip().partition("\n")[0]
    if "(Open MPI)" in first:
        major = first.rpartition(" ")[2].partition(".")[0]
        return Kind("Open MPI", int(major) if major.isdecimal() else 4)
    if "HYDRA" in text or "Intel(R) MPI Library" in text:
        return Kind("hydra")
    raise UsageError(
        f"--engine mpi knows the mpirun of Open MPI and MPICH, and this one says: {first!r}.",
        hint="Name another one: export LAUNCHER_MPIRUN=/path/to/mpirun",
    )


def make_command(
    spec: LaunchSpec,
    environ: Mapping[str, str],
    hosts: Sequence[Host],
    kind: Kind,
    command: Sequence[str],
    *,
    is_typed: bool = False,
) -> MpiRun:
    """Return what starts a launcher on each of these hosts.

    command: mpirun, and its arguments. is_typed: our stdin is a terminal.
    """
    _check_users(spec, hosts)
    groups = _group(hosts, spec)
    counts = [group.nproc_per_node for group in groups for _ in group.names]
    hint = "Type: --hosts a:2,b:2, with the number of workers on each"
    reader = find_reader(spec, counts, is_typed=is_typed, hint=hint)
    variables = select_variables(spec, environ)
    secret = os.fsdecode(read_secret(spec, environ)) or os.urandom(24).hex()
    variables[_SECRET] = secret
    if reader >= 0 and is_typed:
        variables[TERMINAL_VARIABLE] = ONLY_TYPED
    node = spec.replace(rdzv_id=new_run_id(spec.rdzv_id))
    make = _for_open_mpi if kind.is_open_mpi else _for_hydra
    head, parts = make(node, kind, groups, sorted(variables))
    if reader >= 0:
        head += _hand_stdin(spec, kind, reader, is_typed=is_typed)
    extra = engine_args(spec)
    others = {
        name: value
        for name, value in make_node_environ(spec, environ).items()
        if name not in variables
    }
    return MpiRun(
        (*command, *head, *extra, *itertools.chain(*_join(parts))),
        # In this order: hydra forgets to take along what stands last.
        {**variables, **others},
        is_exact=kind.is_open_mpi,
        has_input=reader >= 0,
    )


def _hand_stdin(spec: LaunchSpec, kind: Kind, reader: int, *, is_typed: bool) -> list[str]:
    """Return the arguments with which a launcher gets mpirun's stdin; the first does without."""
    if kind.is_open_mpi:
        return ["--stdin", str(reader)] if reader else []
    if not is_typed:
        # hydra ends everything when a rank does not read as fast as it does itself.
        problem = "this mpirun has a way for what is typed, and none for a pipe or a file"
    elif reader:
        problem = "is not on the first host, and this mpirun hands its stdin to nobody else"
    else:
        return []
    raise spec.error("stdin_rank", problem, "Type: --engine ssh")


def _check_users(spec: LaunchSpec, hosts: Sequence[Host]) -> None:
    named = next((host for host in hosts if host.user), None)
    if named is not None:
        source = spec.find_source("hosts" if spec.hosts else "hostfile")
        raise UsageError(
            f"{source}: mpirun has no way to log in at {named.name} as {named.user}.",
            hint=f"Write it in ~/.ssh/config: Host {named.name}, User {named.user}.",
        )


class _Group(NamedTuple):
    """Hosts in a row with the same number of workers."""

    names: tuple[str, ...]
    nproc_per_node: str


def _group(hosts: Sequence[Host], spec: LaunchSpec) -> list[_Group]:
    def count(host: Host) -> str:
        return spec.nproc_per_node if host.num_workers is None else str(host.num_workers)

    return [
        _Group(tuple(host.name for host in same), number)
        for number, same in itertools.groupby(hosts, count)
    ]


def _for_open_mpi(
    spec: LaunchSpec, kind: Kind, groups: Sequence[_Group], names: Sequence[str]
) -> tuple[list[str], list[list[str]]]:
    head = ["--map-by", "ppr:1:node", "--bind-to", "none"]
    if kind.major < 5:
        head += ["-q"]  # without its banner, but with what it says of hosts
    else:
        signals = ",".join(signal.Signals(number).name for number in (*PASSED_ON, STOP_SIGNAL))
        head += ["--prtemca", "ess_base_forward_signals", signals]
    is_told = spec.rdzv_endpoint or spec.provenance.get("master_addr", "default") != "default"
    if (len(groups) > 1 or kind.major > 4) and not is_told:
        # With several commands the order of its processes need not be that of its daemons, from
        # which they would find each other; and Open MPI 5 does not name the daemons' hosts.
        spec = spec.replace(rdzv_endpoint=_endpoint(groups[0].names[0]))
    exports = list(itertools.chain(*(("-x", name) for name in names)))
    return head, [
        [
            *exports,
            *("--host", ",".join(group.names), "-np", str(len(group.names))),
            *_node_command(spec, group, groups),
        ]
        for group in groups
    ]


def _for_hydra(
    spec: LaunchSpec, kind: Kind, groups: Sequence[_Group], names: Sequence[str]
) -> tuple[list[str], list[list[str]]]:
    # The groups take the hosts of one list, in their order.
    hosts = ",".join(name for group in groups for name in group.names)
    head = ["-ppn", "1", "-hosts", hosts, "-genvlist", ",".join(names)]
    return head, [
        ["-n", str(len(group.names)), *_node_command(spec, group, groups)] for group in groups
    ]


def _node_command(spec: LaunchSpec, group: _Group, groups: Sequence[_Group]) -> list[str]:
    nnodes = spec.nnodes
    if spec.provenance.get("nnodes", "default") == "default":
        nnodes = str(sum(len(each.names) for each in groups))
    return make_node_command(
        spec,
        nnodes=nnodes,
        nproc_per_node=group.nproc_per_node,
        signals_to_handle=f"{spec.signals_to_handle},{STOP_SIGNAL.name}",
    )


def _endpoint(name: str) -> str:
    return f"[{name}]" if ":" in name else name


def _join(parts: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    """Put colons between the commands of several groups."""
    return [piece for part in parts for piece in ([":"], part)][1:]
