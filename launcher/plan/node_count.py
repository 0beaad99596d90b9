"""How many nodes a run has, where flags, a starter and WORLD_SIZE may each say it.

They must agree. WORLD_SIZE is the number of nodes in one service and that of all workers in
another: which of them it can be follows from the number of workers on a node. Pure.
"""

from __future__ import annotations

from collections.abc import Callable

from launcher.errors import EnvironmentMismatch
from launcher.named import NamedTuple
from launcher.options.option import PROG
from launcher.options.spec import LaunchSpec
from launcher.starters.placement import Placement
from launcher.starters.service_nodes import INDEX

_LOOPBACK = ("", "localhost", "127.0.0.1", "::1")

_UNSET = "unset NODE_RANK RANK WORLD_SIZE MASTER_ADDR"


class NodeCount(NamedTuple):
    """The smallest and the largest number of nodes of a run."""

    least: int
    most: int
    # The flag or variable that decided.
    source: str
    # What had to be decided, in a line for the user; "" where there was no choice.
    note: str = ""


def count_nodes(
    spec: LaunchSpec, placement: Placement, count_workers: Callable[[], int]
) -> NodeCount | None:
    """Return how many nodes there are; None where nothing speaks of several.

    count_workers: returns the number of workers of this node. Raises EnvironmentMismatch for what
    does not go together, and for a number that could mean two things.
    """
    if spec.provenance.get("nnodes", "default") != "default":
        _compare_with_flag(spec, placement)
        count = NodeCount(spec.min_nodes, _limit(spec, placement), spec.find_source("nnodes"))
    elif placement.num_nodes is not None:
        source = placement.sources["num_nodes"]
        count = NodeCount(placement.num_nodes, placement.num_nodes, source)
    elif placement.world_size:
        return _read_world_size(spec, placement, count_workers())
    else:
        _refuse_unknown_count(spec, placement)
        return None
    if placement.world_size and count.least == count.most:
        _compare_world_size(spec, placement, count, count_workers())
    return count


def _limit(spec: LaunchSpec, placement: Placement) -> int:
    """Return the largest number of nodes: more than a starter has started will not come."""
    if placement.num_nodes is None or spec.rdzv_endpoint:
        return spec.max_nodes
    return min(spec.max_nodes, placement.num_nodes)


def _compare_with_flag(spec: LaunchSpec, placement: Placement) -> None:
    """Refuse a --nnodes that does not go with the starter's numbers; MIN:MAX may have spares."""
    number, rank = placement.num_nodes, placement.node_rank
    is_fixed = spec.min_nodes == spec.max_nodes
    if number is not None and (number < spec.min_nodes or (is_fixed and number > spec.max_nodes)):
        raise EnvironmentMismatch(
            f"{_show_count(spec)} does not go with {_show(placement, 'num_nodes', number)}.",
            hint=(
                f"Type: {_command(spec, number)}, or for a run of its own on each node:"
                f" {PROG} --standalone {_show_workers(spec)} {spec.script}"
            ),
        )
    if rank is not None and is_fixed and rank >= spec.max_nodes:
        raise EnvironmentMismatch(
            f"{_show_count(spec)} does not go with {_show(placement, 'node_rank', rank)}: nodes are"
            f" 0 to {spec.max_nodes - 1}.",
            hint=f"Type: {_command(spec, rank + 1)}",
        )


def _read_world_size(spec: LaunchSpec, placement: Placement, num_workers: int) -> NodeCount | None:
    """Take WORLD_SIZE for what it can be: the number of nodes, or that of all their workers."""
    world_size = placement.world_size
    if placement.node_rank is None:
        if world_size in (1, num_workers):
            return None  # as for the ranks of one node
        raise EnvironmentMismatch(
            f"WORLD_SIZE={world_size} and MASTER_ADDR={placement.master_addr} say that there are"
            " several nodes, but not which of them this is.",
            hint=f"Set NODE_RANK on each node; or if they are left over: {_UNSET}",
        )
    if num_workers == 1 or world_size % num_workers:
        note = f"WORLD_SIZE={world_size} is taken as the number of nodes"
        return NodeCount(world_size, world_size, "WORLD_SIZE", note)
    by_workers = world_size // num_workers
    plural = "s" if by_workers > 1 else ""
    raise EnvironmentMismatch(
        f"WORLD_SIZE={world_size} and --nproc-per-node {spec.nproc_per_node} can mean {world_size}"
        f" nodes with {num_workers} workers each, or {world_size} workers on {by_workers}"
        f" node{plural}.",
        hint=f"Type: {_command(spec, world_size)}, or: {_command(spec, by_workers)}",
    )


def _compare_world_size(
    spec: LaunchSpec, placement: Placement, count: NodeCount, num_workers: int
) -> None:
    world_size, all_workers = placement.world_size, count.most * num_workers
    if world_size in (count.most, all_workers):
        return
    raise EnvironmentMismatch(
        f"WORLD_SIZE={world_size} is neither the number of nodes, {count.most} by {count.source},"
        f" nor that of their workers, {all_workers} with {_show_workers(spec)}.",
        hint=f"Type: {_command(spec, world_size)}, or if it is left over: unset WORLD_SIZE",
    )


def _refuse_unknown_count(spec: LaunchSpec, placement: Placement) -> None:
    """Raise EnvironmentMismatch for one node of several of which nobody has said how many.

    Pods of an indexed Job may as well be runs of their own, and so may a leftover RANK=0.
    """
    rank, source = placement.node_rank, placement.sources.get("node_rank", "")
    is_first = rank == 0 and (source != "NODE_RANK" or placement.master_addr in _LOOPBACK)
    if rank is None or is_first or source == INDEX:
        return
    raise EnvironmentMismatch(
        f"{source}={rank} says that this is one of several nodes, but not of how many.",
        hint=f"Type: {_command(spec, max(2, rank + 1))}, or if it is left over: {_UNSET}",
    )


def _show_count(spec: LaunchSpec) -> str:
    source = spec.find_source("nnodes")
    return f"{source}{' ' if source.startswith('-') else '='}{spec.nnodes}"


def _show(placement: Placement, field: str, number: int) -> str:
    what = f"the {number} nodes" if field == "num_nodes" else f"number {number} for this node"
    return f"{what} that {placement.starter} gives ({placement.sources[field]})"


def _show_workers(spec: LaunchSpec) -> str:
    return f"--nproc-per-node {spec.nproc_per_node}"


def _command(spec: LaunchSpec, num_nodes: int) -> str:
    return f"{PROG} --nnodes {num_nodes} {_show_workers(spec)} {spec.script}"
