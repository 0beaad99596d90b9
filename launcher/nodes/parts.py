"""What the nodes have agreed on, in the values of a supervisor: its part, the verdict, a stop."""

from __future__ import annotations

from launcher.diagnosis.report import FailureReport
from launcher.events import PeersStop
from launcher.nodes.messages import Assigned, Decided, Stop
from launcher.nodes.restart import Verdict
from launcher.plan.nodes import Node
from launcher.ranks import Assignment, Place
from launcher.system.network import find_interface


def make_assignment(assigned: Assigned, node: Node) -> Assignment:
    """Return the ranks of a node in an attempt, and where its workers find rank 0."""
    store = assigned.horovod
    return Assignment(
        attempt=assigned.generation,
        places=_make_places(assigned, node),
        master_addr=assigned.master_addr,
        master_port=assigned.master_port,
        horovod_addr=f"{assigned.master_addr}:{store}" if store else "",
        horovod_port=int(store.partition("/")[0]) if store else 0,
        run_name=assigned.run_name,
        interface=find_interface(assigned.address),
        hostname_width=assigned.hostname_width,
        # An engine's ranks need not be in a row.
        hosts=() if node.places else _read_hosts(assigned.hosts),
    )


def _read_hosts(text: str) -> tuple[tuple[str, int], ...]:
    """Return host and number of ranks of each node; nothing for a text of another form."""
    pairs = [item.rpartition(" ") for item in text.split(",")]
    if not all(host and count.isdecimal() for host, _, count in pairs):
        return ()
    return tuple((host, int(count)) for host, _, count in pairs)


def _make_places(assigned: Assigned, node: Node) -> tuple[Place, ...]:
    if node.places:
        return tuple(
            place._replace(node_rank=assigned.node_rank, num_nodes=assigned.num_nodes)
            for place in node.places
        )
    return tuple(
        Place(
            "launcher",
            rank=assigned.first_rank + local_rank,
            local_rank=local_rank,
            world_size=assigned.world_size,
            local_world_size=node.num_workers,
            node_rank=assigned.node_rank,
            num_nodes=assigned.num_nodes,
        )
        for local_rank in range(node.num_workers)
    )


def make_verdict(decided: Decided) -> Verdict:
    """Return what follows an attempt."""
    report = FailureReport.from_json(decided.report) if decided.report else None
    return Verdict(
        decided.action,
        decided.reason,
        decided.delay_s,
        report,
        exit_code=decided.exit_code,
        reporter="" if decided.is_reporter else decided.reporter,
    )


def make_event(stop: Stop) -> PeersStop:
    """Return why the attempt is to end here, too."""
    return PeersStop(stop.reason, stop.signum, stop.is_hang, stop.is_forced)
