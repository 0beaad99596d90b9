"""Who is in the world of elastic Horovod, who has been lost, and when the ranks meet anew. Pure.

Workers meet in rounds. A round begins when all workers wait at the door, which is where
`hvd.init()` asks for its rank: those that have lost a peer come back to it with the state that they
committed, newcomers arrive there for the first time. A newcomer has no state, so rank 0, which
gives its state to all, must have been in the round before.
"""

from __future__ import annotations


class Roster:
    """The workers of a node, by local rank, each in the round, at the door, or gone."""

    def __init__(self, num_workers: int) -> None:
        # Rank of each local rank. Local ranks stay with their devices; ranks are exchanged when
        # rank 0 is lost.
        self.ranks = list(range(num_workers))
        # Those that have met the others: they hold the state.
        self._members: set[int] = set()
        self._newcomers = set(range(num_workers))
        self._waiting: set[int] = set()
        self._gone: set[int] = set()

    @property
    def has_state(self) -> bool:
        """Whether a worker is left that holds the state of the training."""
        return bool(self._members)

    @property
    def members(self) -> list[int]:
        """The ranks that hold the state, in order."""
        return sorted(self.ranks[local_rank] for local_rank in self._members)

    @property
    def missing(self) -> list[int]:
        """The ranks that run, but have not come to the door, in order."""
        return sorted(
            self.ranks[local_rank]
            for local_rank in (self._members | self._newcomers) - self._waiting
        )

    def ask(self, local_rank: int) -> None:
        """Note that a worker waits at the door."""
        if local_rank not in self._gone:
            self._waiting.add(local_rank)

    def leave(self, local_rank: int) -> None:
        """Note that a worker has ended, well or not."""
        for group in (self._members, self._newcomers, self._waiting):
            group.discard(local_rank)
        self._gone.add(local_rank)

    def invite(self) -> list[int]:
        """Return the local ranks to start anew; none before all with the state are at the door.

        Until then nobody knows who is left: a worker that fails because it has lost a peer, or ends
        well, may come later.
        """
        if not self._gone or not self._members or not self._members <= self._waiting:
            return []
        newcomers = sorted(self._gone)
        self._newcomers |= self._gone
        self._gone.clear()
        heir = min(self._members, key=lambda local_rank: self.ranks[local_rank])
        for local_rank in newcomers:
            if self.ranks[local_rank] == 0:
                self.ranks[local_rank], self.ranks[heir] = self.ranks[heir], 0
        return newcomers

    def admit(self) -> bool:
        """Begin a new round if all workers wait at the door, and tell whether it has begun."""
        if self._gone or not self._waiting or self._waiting != self._members | self._newcomers:
            return False
        self._members, self._newcomers, self._waiting = self._waiting, set(), set()
        return True
