"""Where workers stand in the run: each one's place, a node's assignment, ranks in words.

No environment, no clock, no sockets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from launcher.named import NamedTuple


class Place(NamedTuple):
    """The place of one worker in the run: as a plan gives it, or as the worker itself finds it."""

    # Who made it a worker: launcher, torchrun, contract (RANK, by whomever), openmpi, mvapich,
    # horovod, mpich or slurm; none for a process alone.
    starter: str
    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    local_world_size: int = 1
    node_rank: int = 0
    # None where nobody has counted the nodes; then node_rank may be a guess, too.
    num_nodes: int | None = None
    # Field -> the variable that gave it, or how it was found; empty in a plan.
    sources: Mapping[str, str] = {}


class Assignment(NamedTuple):
    """What the coordinator tells a node about one attempt."""

    attempt: int
    # The places of this node's workers, in the order of local rank.
    places: tuple[Place, ...]
    # Address of torch's process group store. The port is fresh for every attempt.
    master_addr: str
    master_port: int
    # Address (with a secret path) and port of Horovod's store; empty and 0 without Horovod.
    horovod_addr: str = ""
    horovod_port: int = 0
    # Whether workers that Horovod's elastic mode has lost are replaced while the others go on.
    is_elastic: bool = False
    # Of the run folder, where several nodes have agreed on one; else "".
    run_name: str = ""
    # The network interface on which this node reaches the others; "" where nobody knows.
    interface: str = ""
    # The length of the longest hostname in the run; 0 where there is one node.
    hostname_width: int = 0
    # Host and number of ranks of each node, in the order of rank, where that is known.
    hosts: tuple[tuple[str, int], ...] = ()

    @property
    def num_nodes(self) -> int | None:
        return self.places[0].num_nodes

    @property
    def local_world_size(self) -> int:
        return len(self.places)

    @property
    def world_size(self) -> int:
        return self.places[0].world_size


def make_places(node_rank: int, local_world_sizes: Sequence[int]) -> tuple[Place, ...]:
    """Return the places of one node's workers, in the order of local rank.

    local_world_sizes: workers on each node, in the order of node rank; they may differ.
    """
    first_rank = sum(local_world_sizes[:node_rank])
    return tuple(
        Place(
            "launcher",
            rank=first_rank + local_rank,
            local_rank=local_rank,
            node_rank=node_rank,
            world_size=sum(local_world_sizes),
            local_world_size=local_world_sizes[node_rank],
            num_nodes=len(local_world_sizes),
        )
        for local_rank in range(local_world_sizes[node_rank])
    )


def format_ranks(ranks: list[int]) -> str:
    """Write ranks as a person would: `rank 3`, `ranks 0-2, 5`."""
    return ("rank " if len(set(ranks)) == 1 else "ranks ") + format_ranges(ranks)


def format_short_ranges(numbers: Iterable[int]) -> str:
    """Return `0-2,5` for the numbers 0, 1, 2 and 5, as an option takes them."""
    return format_ranges(numbers).replace(" ", "")


def format_ranges(numbers: Iterable[int]) -> str:
    """Return `0-2, 5` for the numbers 0, 1, 2 and 5."""
    ordered = sorted(set(numbers))
    pieces: list[str] = []
    start = 0
    for i in range(1, len(ordered) + 1):
        if i == len(ordered) or ordered[i] != ordered[i - 1] + 1:
            first, last = ordered[start], ordered[i - 1]
            pieces.append(str(first) if first == last else f"{first}-{last}")
            start = i
    return ", ".join(pieces)
