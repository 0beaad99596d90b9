"""Nodes that have come with a node rank that another one has, who may be gone by now. Pure.

A host that was without power may come again before its silence has shown that it was lost. Whoever
has its rank is refused only when the one that had it before has been heard of again.
"""

from __future__ import annotations

from launcher.named import NamedTuple
from launcher.nodes.messages import Join
from launcher.nodes.roster import Roster
from launcher.nodes.rules import OWN, Route


class _Rival(NamedTuple):
    join: Join
    route: Route
    came_at: float


class Rivals:
    """Those of whom it is not known yet whether they can have their node rank, by key."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        self._rivals: dict[int, _Rival] = {}

    def __contains__(self, key: int) -> bool:
        return key in self._rivals

    def take_in(self, key: int, join: Join, route: Route, now: float) -> int | None:
        """Let a node wait until it is known; return the key of the one that has its rank.

        None where there is nobody, or that one is there for certain.
        """
        holder = self._roster.find_given_key(join.node_rank)
        if holder is None or holder == OWN or self._roster[holder].heard_at >= now:
            return None
        self._rivals[key] = _Rival(join, route, now)
        return holder

    def forget(self, key: int) -> None:
        """Take note that a node has gone again."""
        self._rivals.pop(key, None)

    def take_settled(self, *, is_over: bool) -> list[tuple[int, Join, Route]]:
        """Return, once, those of whom it is known by now; is_over: the run has ended."""
        settled = [key for key, rival in self._rivals.items() if is_over or self._is_settled(rival)]
        return [(key, *self._rivals.pop(key)[:2]) for key in settled]

    def _is_settled(self, rival: _Rival) -> bool:
        holder = self._roster.find_given(rival.join.node_rank)
        return holder is None or holder.heard_at > rival.came_at
