"""Which nodes an attempt has lost, and whether those that are left may go on without them. Pure.

Two parts of one run that both went on would write the same checkpoint. A node that has ended is in
no part; one that is only silent may be in another, which counts as we do.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import islice

from launcher.diagnosis.cause import is_secondary
from launcher.diagnosis.outcome import AttemptOutcome
from launcher.named import NamedTuple

# How many lost nodes a report names.
_MOST_NAMED = 5

_MISSING = "it did not come"


class Loss(NamedTuple):
    """A node that was lost in an attempt."""

    node_rank: int
    hostname: str
    why: str
    # When, by our clock.
    at: float
    # Whether it is certain that none of its ranks goes on: nobody listens at its port any more.
    is_dead: bool
    # Whether all of its ranks had succeeded before, or it has left as it was asked to.
    is_done: bool = False
    has_left: bool = False

    @property
    def is_failure(self) -> bool:
        return not (self.is_done or self.has_left)

    def __str__(self) -> str:
        where = f" ({self.hostname})" if self.hostname else ""
        return f"node {self.node_rank}{where} was lost: {self.why}"


class Losses:
    """The losses of an attempt that has begun with so many nodes."""

    def __init__(self, num_nodes: int, losses: Iterable[Loss] = ()) -> None:
        self.num_nodes = num_nodes
        self._losses = {loss.node_rank: loss for loss in losses}
        # Those that have come back, and those that are known to have ended, by node rank.
        self._found: set[int] = set()
        self._dead = {rank for rank, loss in self._losses.items() if loss.is_dead}

    def __len__(self) -> int:
        return len(self._losses) - len(self._found)

    def __str__(self) -> str:
        text = "; ".join(map(str, islice(self._losses.values(), _MOST_NAMED)))
        num_more = len(self._losses) - _MOST_NAMED
        return f"{text} and {num_more} more" if num_more > 0 else text

    def __contains__(self, node_rank: int) -> bool:
        return node_rank in self._losses

    @property
    def is_failure(self) -> bool:
        """Whether one of them was lost while its ranks ran."""
        return any(loss.is_failure for loss in self._losses.values())

    @property
    def has_missing(self) -> bool:
        """Whether some may live that have not been heard of since the coordinator was lost."""
        missing = (loss for loss in self._losses.values() if loss.why == _MISSING)
        return any(not loss.is_dead for loss in missing)

    @property
    def leavers(self) -> list[str]:
        """Who has left as it was asked to."""
        left = (loss for loss in self._losses.values() if loss.has_left)
        return [f"node {loss.node_rank} ({loss.hostname})" for loss in left]

    @property
    def dead(self) -> list[int]:
        """The node ranks of those that have ended."""
        return sorted(self._dead)

    def add(self, loss: Loss) -> None:
        """Take note of a loss."""
        self._losses.pop(loss.node_rank, None)
        self._losses[loss.node_rank] = loss
        self._found.discard(loss.node_rank)
        if loss.is_dead:
            self._dead.add(loss.node_rank)

    def bury(self, node_ranks: Iterable[int]) -> None:
        """Take note that nodes have ended, whether or not they are counted as lost yet."""
        self._dead.update(node_ranks)

    def find(self, node_rank: int) -> bool:
        """Take a node back that was lost, and has come again; False if it was not lost."""
        self._dead.discard(node_rank)
        if node_rank in self._found or node_rank not in self._losses:
            return False
        self._found.add(node_rank)
        return True

    def count_missing(self, here: Collection[int], now: float) -> None:
        """Count nodes as lost that are neither here nor lost: `here` are the ranks that are."""
        known = set(self._losses).union(here)
        for rank in range(self.num_nodes):
            if rank not in known and len(self) + len(here) < self.num_nodes:
                self.add(Loss(rank, "", _MISSING, now, is_dead=False))

    def leave_larger_part(self, num_here: int, *, is_coordinators: bool) -> bool:
        """Tell whether no other part of the run can go on, too: at a tie the coordinator's part."""
        living = self.num_nodes - len(self._dead)
        return 2 * num_here > living or (2 * num_here == living and is_coordinators)

    def blame(self, outcome: AttemptOutcome) -> AttemptOutcome:
        """Make a node's loss the failure, unless a rank had failed by itself before."""
        failures = [loss for loss in self._losses.values() if loss.is_failure]
        if not failures:
            return outcome
        lost_at = failures[0].at
        for worker in outcome.workers:
            if worker.failed_at and worker.failed_at <= lost_at and not is_secondary(worker):
                return outcome
        return outcome._replace(node_failure=str(Losses(self.num_nodes, failures)))
