"""Compare this launcher with torchrun on several nodes: start, failures, lost and new nodes.

    python benchmarks/nodes.py [--repeat 5] [--only NAME ...]

The nodes are hosts made of namespaces (tests/lab), which needs root. The launchers take turns; each
figure is a median. What one cannot do is found in the run that does not count, and not tried again.
One table is printed and written to benchmarks/results/.
"""

from __future__ import annotations

import math
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import machine
import measure
from cluster import FIRST, HOSTS, OWN_STORE, STATIC, Cluster, Reduced
from launchers import OURS, TORCHRUN, environment, shown, version
from turns import take_turns

if TYPE_CHECKING:
    from tests.lab.lab import Lab

ROOT = Path(__file__).resolve().parents[1]

# What starts a command on several hosts.
MPIRUN, OURS_BY_MPIRUN = "mpirun", "launcher --engine mpi"

# What takes longer is no answer: nobody waits so long for nodes to end, or to go on.
END_S = 30.0
GO_ON_S = 60.0


# (a run that has not begun) -> the seconds that were measured.
Measured = Callable[[Cluster], float]


class Row(NamedTuple):
    """One line of the table: what is measured, of whom, and when it counts as never."""

    title: str
    names: tuple[str, ...]
    one: Measured
    limit_s: float = GO_ON_S


class Bench:
    """The hosts, and how often each figure is measured."""

    def __init__(self, lab: Lab, repeat: int) -> None:
        self.lab = lab
        self.repeat = repeat
        self._port = 29400

    def take(self, row: Row) -> dict[str, list[float]]:
        """Measure a row; infinite is what did not come about."""
        never: set[str] = set()
        counts = dict.fromkeys(row.names, 0)

        def one(name: str) -> float:
            counts[name] += 1
            if name in never:
                return math.inf
            with self._cluster(name) as cluster:
                try:
                    return row.one(cluster)
                except measure.Failed as error:
                    print(f"  {name}: {error}", flush=True)
                    if counts[name] == 1:
                        never.add(name)
                    return math.inf

        return take_turns(row.names, self.repeat, one)

    @contextmanager
    def _cluster(self, name: str) -> Iterator[Cluster]:
        self._port += 10  # no run finds what another has left
        with tempfile.TemporaryDirectory() as folder, measure._fifo() as (fifo, lines):
            self.lab.set_cwd(Path(folder))
            try:
                yield Cluster(self.lab, name, self._port, fifo, lines)
            finally:
                self.lab.renew()


def began() -> int:
    return time.monotonic_ns()


def seconds_to(reduced: Mapping[int, Reduced], since_ns: int) -> float:
    """Return when the last rank had reduced, in seconds after a moment."""
    return (max(rank.at_ns for rank in reduced.values()) - since_ns) / 1e9


def start_up(cluster: Cluster) -> float:
    """Return the seconds from the commands on 2 nodes to the first all-reduce of all 4 ranks."""
    since = began()
    cluster.start(HOSTS[:2], "2", workers=2, way="once")
    return seconds_to(cluster.wait_reduced(4, since, GO_ON_S), since)


def worker_dies(cluster: Cluster) -> float:
    """Return the seconds until the launchers of 2 nodes have ended after a rank was killed."""
    cluster.start(HOSTS[:2], "2", workers=2)
    ranks = cluster.wait_reduced(4, 0, GO_ON_S)
    since = time.monotonic()
    cluster.kill_rank(ranks[3])
    cluster.wait_ended(HOSTS[:2], (), END_S)
    return time.monotonic() - since


def launcher_dies(cluster: Cluster) -> float:
    """Return the seconds until the other launchers have ended, and all ranks of the lost one."""
    cluster.start(HOSTS[:2], "2", workers=2)
    cluster.wait_reduced(4, 0, GO_ON_S)
    orphans = set(cluster.lab["h2"].processes()) - {cluster.agents["h2"].pid}
    since = time.monotonic()
    cluster.agents["h2"].send(signal.SIGKILL)
    cluster.wait_ended(("h1",), orphans, END_S)
    return time.monotonic() - since


def falls_silent(lost: str, how: str) -> Measured:
    """Return what times the end of the other nodes when one has no power, or no cable."""

    def measured(cluster: Cluster) -> float:
        cluster.start(HOSTS, "3")
        cluster.wait_reduced(3, 0, GO_ON_S)
        since = time.monotonic()
        getattr(cluster.lab[lost], how)()
        cluster.wait_ended([host for host in HOSTS if host != lost], (), END_S)
        return time.monotonic() - since

    return measured


def restarts(cluster: Cluster) -> float:
    """Return the seconds from a rank's death to the next attempt's first all-reduce on 2 nodes."""
    cluster.start(HOSTS[:2], "2", restarts=3)
    ranks = cluster.wait_reduced(2, 0, GO_ON_S)
    since = began()
    cluster.kill_rank(ranks[1])
    return seconds_to(cluster.wait_reduced(2, since, GO_ON_S), since)


def goes_on_without(lost: str, how: str) -> Measured:
    """Return what times the first all-reduce of the others after an elastic run has lost a node."""

    def measured(cluster: Cluster) -> float:
        cluster.start(HOSTS, "2:3", restarts=3)
        cluster.wait_reduced(3, 0, GO_ON_S)
        since = began()
        getattr(cluster.lab[lost], how)()
        return seconds_to(cluster.wait_reduced(2, since, GO_ON_S), since)

    return measured


def takes_newcomer(cluster: Cluster) -> float:
    """Return the seconds from the command on a third node to the first all-reduce with it."""
    cluster.start(HOSTS[:2], "2:3", restarts=3)
    cluster.wait_reduced(2, 0, GO_ON_S)
    since = began()
    cluster.start(HOSTS[2:], "2:3", restarts=3)
    return seconds_to(cluster.wait_reduced(3, since, GO_ON_S), since)


def takes_back(cluster: Cluster) -> float:
    """Return the same for a node whose launcher was killed and is started again."""
    cluster.start(HOSTS, "2:3", restarts=3)
    cluster.wait_reduced(3, 0, GO_ON_S)
    lost_at = began()
    cluster.agents["h3"].send(signal.SIGKILL)
    cluster.wait_reduced(2, lost_at, GO_ON_S)
    since = began()
    cluster.start(HOSTS[2:], "2:3", restarts=3)
    return seconds_to(cluster.wait_reduced(3, since, GO_ON_S), since)


def spare_steps_in(cluster: Cluster) -> float:
    """Return the seconds from a node's death to the first all-reduce with one that waited."""
    cluster.start(HOSTS[:2], "1:2", restarts=3)
    cluster.wait_reduced(2, 0, GO_ON_S)
    cluster.start(HOSTS[2:], "1:2", restarts=3)
    # torchrun's spare says nothing: both are given the time that torchrun needs to start.
    time.sleep(5)
    since = began()
    cluster.lab["h2"].kill()
    return seconds_to(cluster.wait_reduced(2, since, GO_ON_S), since)


def starts_on_hosts(cluster: Cluster) -> float:
    """Return the seconds that a script that prints takes on 3 hosts, the command as a whole."""
    ssh_options = f"-F {cluster.lab.start_sshd()}"
    hosts = ",".join(f"{host}:1" for host in HOSTS)
    settings = {
        "LAUNCHER_SSH": f"ssh {ssh_options}",
        "OMPI_MCA_plm_rsh_args": ssh_options,
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    }
    argv = {
        MPIRUN: ["mpirun", "-H", hosts, "-np", str(len(HOSTS)), sys.executable],
        OURS: [sys.executable, "-m", "launcher", "--hosts", hosts],
        OURS_BY_MPIRUN: [sys.executable, "-m", "launcher", "--engine", "mpi", "--hosts", hosts],
    }[cluster.name]
    done = cluster.lab[FIRST].run(
        *argv, measure.workload("hello"), env={**environment(), **settings}
    )
    if done.code != 0 or done.out.count("hello") != len(HOSTS):
        raise measure.Failed(f"exit code {done.code}: {done.err[-500:]}")
    return done.seconds


def comes_together(num_nodes: int) -> Measured:
    """Return what times the rendezvous of so many connections on loopback: see rendezvous.py."""

    def measured(cluster: Cluster) -> float:
        import rendezvous

        return rendezvous.measure(num_nodes)

    return measured


ELASTIC = (OURS, TORCHRUN, OWN_STORE)

ROWS: dict[str, Row] = {
    "start": Row("2 nodes x 2 ranks: to the first all-reduce", (OURS, TORCHRUN), start_up),
    "worker": Row(
        "a rank of 2 nodes is killed: until all nodes have ended",
        (OURS, TORCHRUN, STATIC),
        worker_dies,
        END_S,
    ),
    "launcher": Row(
        "a launcher is killed: until the other node and all ranks have ended",
        (OURS, TORCHRUN, STATIC),
        launcher_dies,
        END_S,
    ),
    "power": Row(
        "a node of 3 without power: until the others have ended",
        (OURS, TORCHRUN),
        falls_silent("h2", "power_off"),
        END_S,
    ),
    "power_first": Row(
        "the first node of 3 without power: until the others have ended",
        (OURS, TORCHRUN),
        falls_silent("h1", "power_off"),
        END_S,
    ),
    "cable": Row(
        "the cable of a node of 3 is out: until the others have ended",
        (OURS, TORCHRUN),
        falls_silent("h2", "unplug"),
        END_S,
    ),
    "restart": Row("restart on 2 nodes after a collective: to the next one", ELASTIC, restarts),
    "lost": Row(
        "elastic 2:3, a node is killed: to the next all-reduce",
        ELASTIC,
        goes_on_without("h3", "kill"),
    ),
    "lost_silent": Row(
        "elastic 2:3, a node without power: to the next all-reduce",
        ELASTIC,
        goes_on_without("h3", "power_off"),
    ),
    "lost_first": Row(
        "elastic 2:3, the first node without power: to the next all-reduce",
        ELASTIC,
        goes_on_without("h1", "power_off"),
    ),
    "newcomer": Row(
        "elastic 2:3, a third node comes: to an all-reduce with it", ELASTIC, takes_newcomer
    ),
    "rejoin": Row(
        "elastic 2:3, a lost node comes again: to an all-reduce with it", ELASTIC, takes_back
    ),
    "spare": Row(
        "a node too many steps in for a killed one: to its all-reduce", ELASTIC, spare_steps_in
    ),
    "hosts": Row(
        "3 hosts, print script: the whole command", (MPIRUN, OURS, OURS_BY_MPIRUN), starts_on_hosts
    ),
    "rendezvous_1000": Row("1,000 nodes on loopback: to all ranks", (OURS,), comes_together(1000)),
    "rendezvous_10000": Row(
        "10,000 nodes on loopback: to all ranks", (OURS,), comes_together(10_000)
    ),
}


def show(values: list[float] | None, limit_s: float) -> str:
    """Return one cell: the median, the range, and of how many, where it was not all."""
    if values is None:
        return ""
    good = [value for value in values if value < math.inf]
    if not good:
        return f"not in {limit_s:g} s"
    share = "" if len(good) == len(values) else f", {len(good)} of {len(values)}"
    return f"{statistics.median(good):.3g} s ({min(good):.3g}-{max(good):.3g}{share})"


def render_rows(rows: list[tuple[Row, dict[str, list[float]]]]) -> str:
    """Return the table: a column for each launcher that any of these rows is about."""
    names = list(dict.fromkeys(name for row, _ in rows for name in row.names))
    cells = [
        [row.title, *(show(samples.get(name), row.limit_s) for name in names)]
        for row, samples in rows
    ]
    return machine.table(["", *names], cells)


def render_page(bench: Bench, rows: list[tuple[Row, dict[str, list[float]]]]) -> str:
    """Return the whole results file."""
    versions = [version(sys.executable, name) for name in (OURS, TORCHRUN)]
    cluster = Cluster(bench.lab, OURS, 29400, "FIFO", iter(()))
    commands = []
    for name in (OURS, TORCHRUN, STATIC):
        cluster.name = name
        commands.append(shown(cluster.command("h2", "2" if name == STATIC else "2:3", 1, 3, "on")))
    parts = [
        "# Several nodes under this launcher and torchrun",
        "\n".join(machine.describe()),
        (
            f"Medians of {bench.repeat} with ranges, in turns, on hosts made of namespaces. Written"
            " by `benchmarks/nodes.py`. Both keep their defaults, ours a node timeout of 6 s; an"
            " elastic run waits 1 s for more nodes at its start. The ranks add up numbers over Gloo"
            " 20 times a second. `own store`: TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1."
        ),
        "\n".join(f"- {line}" for line in versions),
        render_rows(rows),
        "On each host, its number in place of N:",
        "\n".join(f"    {command}" for command in commands),
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    options = machine.make_parser(__doc__, ROWS).parse_args()
    sys.path.insert(0, str(ROOT))
    os.chdir(ROOT)  # where rendezvous.py finds itself
    from tests.lab.lab import Lab, find_obstacle

    if obstacle := find_obstacle():
        sys.exit(f"nodes.py: {obstacle}")
    rows: list[tuple[Row, dict[str, list[float]]]] = []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Lab(Path(folder)), options.repeat)
        try:
            for name in options.only:
                print(f"measuring {name} ...", flush=True)
                rows.append((ROWS[name], bench.take(ROWS[name])))
                # What is known is not lost when a later row is stopped.
                print(render_rows(rows[-1:]), flush=True)
            page = render_page(bench, rows)
        finally:
            bench.lab.close()
    print("\n" + page, end="")
    machine.write(machine.results_path(options.results, "-nodes"), page)


if __name__ == "__main__":
    main()
