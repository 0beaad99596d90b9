"""Who coordinates a run, as one of its nodes knows it, and who follows when that one is lost. Pure.

All nodes have the same list of deputies; whoever of them is reached first and lives takes over.
"""

from __future__ import annotations

from collections.abc import Iterable

from launcher.nodes.losses import Loss
from launcher.nodes.messages import Assigned, Deputy
from launcher.nodes.rules import RESUME_S, Past


class Succession:
    """The coordinator of an attempt, its deputies, and which nodes were lost with it."""

    def __init__(self) -> None:
        self._deputies: tuple[Deputy, ...] = ()
        # Who coordinates: node rank and host; and the deputy that this node has turned to, as long
        # as it has not said that it coordinates.
        self._coordinator = (0, "")
        self._candidate: Deputy | None = None
        # Who coordinated before in this attempt, or should have, by node rank.
        self._losses: dict[int, Loss] = {}
        # When the coordinator was, who had said that it is.
        self._lost_at = 0.0
        # The node ranks of those that are known to have ended.
        self._dead: set[int] = set()
        # Why the last coordinator was lost.
        self.why = ""

    def begin(self, assigned: Assigned) -> None:
        """Begin anew with an attempt."""
        self._deputies = assigned.deputies
        self._coordinator = assigned.coordinator_rank, assigned.coordinator_host
        self._losses, self._dead = {}, set()

    def note_deputies(self, deputies: tuple[Deputy, ...]) -> None:
        """Take note of who could be asked for a place."""
        self._deputies = deputies

    @property
    def has_deputies(self) -> bool:
        """Whether there is another one to turn to."""
        return bool(self._deputies)

    @property
    def dead(self) -> list[int]:
        """The node ranks of those that are known to have ended, in order."""
        return sorted(self._dead)

    def choose_next(self) -> Deputy:
        """Return the next deputy to turn to."""
        self._candidate, self._deputies = self._deputies[0], self._deputies[1:]
        return self._candidate

    def turn_back(self) -> None:
        """Turn to the coordinator again, and to no deputy."""
        self._candidate = None

    def confirm(self) -> None:
        """Take note that whom this node has turned to coordinates."""
        if self._candidate is not None:
            self._coordinator = self._candidate.node_rank, self._candidate.hostname
            self._candidate = None

    def bury(self, node_ranks: Iterable[int]) -> None:
        """Take note that nodes have ended."""
        self._dead.update(node_ranks)

    def lose(self, why: str, now: float, *, is_dead: bool, has_left: bool) -> None:
        """Take note that whom this node has turned to is lost."""
        lost = self._coordinator
        if self._candidate is not None:  # it was reached, and has not said that it coordinates
            lost = self._candidate.node_rank, self._candidate.hostname
            is_dead = is_dead and self._knows_end
        else:
            self._lost_at = now
        self._add(Loss(*lost, why, now, is_dead, has_left=has_left))
        self.why = why

    def note_refusal(self, now: float) -> None:
        """Take note that nobody listens where a deputy did."""
        if self._candidate is not None and self._knows_end:
            who = self._candidate.node_rank, self._candidate.hostname
            self._add(Loss(*who, "its launcher has ended", now, is_dead=True))

    @property
    def _knows_end(self) -> bool:
        """Whether this node was there when the last coordinator ended.

        Else the others may have gone on without this node since, and ended all well.
        """
        return self._coordinator[0] in self._dead

    def _add(self, loss: Loss) -> None:
        self._losses[loss.node_rank] = loss
        if loss.is_dead:
            self._dead.add(loss.node_rank)

    def make_past(self, part: Assigned, num_failures: int) -> Past:
        """Return what is known of the run, by whoever takes it over; part: its own in it."""
        numbers = part.generation, part.num_nodes, num_failures
        losses, dead = tuple(self._losses.values()), frozenset(self._dead)
        past = Past(*numbers, losses, dead, part.address)
        if not self._knows_end:
            return past
        known = {part.node_rank, *self._losses, *self._dead}
        absent = (each for each in part.deputies if each.port and each.node_rank not in known)
        return past._replace(absent=tuple(absent), absent_until=self._lost_at + RESUME_S)
