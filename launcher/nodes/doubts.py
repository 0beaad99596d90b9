"""Whether a node can believe what it hears, or has been stopped itself while others went on. Pure.

A supervisor that gets no time, as after SIGSTOP, reads old news first when it goes on: connections
that were closed meanwhile say nothing of who lives.
"""

from __future__ import annotations

# Who was stopped has heard by then of all that are still there.
DOUBT_S = 3.0


class Doubts:
    """When this node was heard to be awake, and until when it does not trust what it hears."""

    def __init__(self, node_timeout_s: float, now: float) -> None:
        """node_timeout_s: after which the others count a silent node as lost."""
        self._longest_pause_s = node_timeout_s / 2
        self._awake_at = self._until = now

    def look_at_clock(self, now: float) -> None:
        """See whether this node has been stopped since the last look."""
        if now - self._awake_at > self._longest_pause_s:
            self._until = now + DOUBT_S
        self._awake_at = now

    def last(self, now: float) -> bool:
        """Tell whether what is heard now may be old news."""
        return now < self._until
