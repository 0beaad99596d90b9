"""Which node has the rank that reads what is typed here. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from launcher.options.spec import LaunchSpec


def find_reader(spec: LaunchSpec, counts: Sequence[str], *, is_typed: bool, hint: str) -> int:
    """Return the place of the node whose rank reads our stdin; -1 for none.

    counts: how many workers each node has, as --nproc-per-node takes it; nothing where nobody
    knows which node is which. is_typed: our stdin is a terminal. UsageError, with this hint, for a
    rank that was asked for and is on no node, or on nobody knows which.
    """
    is_asked_for = spec.provenance.get("stdin_rank", "default") != "default"
    # What is read of a pipe or a file here cannot be given back: only where that is asked for.
    if not is_typed and not is_asked_for:
        return -1
    remaining = spec.stdin_rank
    for index, count in enumerate(counts):
        if remaining == 0 or (count.isdecimal() and remaining < int(count)):
            return index
        if not count.isdecimal():
            break
        remaining -= int(count)
    else:
        if counts:
            world_size = spec.stdin_rank - remaining
            raise spec.error("stdin_rank", f"must be below {world_size}, the world size")
    if not is_asked_for:
        return -1
    problem = "has no host: which rank is where is known when all have come"
    raise spec.error("stdin_rank", problem, hint)
