"""Who is to hear how the run has ended: no node goes before all know it, within bounds. Pure."""

from __future__ import annotations

from launcher.nodes.messages import Decided, Farewell, Message
from launcher.nodes.roster import Roster


class Audience:
    """Who on the roster has heard how the run has ended, and who has not.

    What is to be sent then is returned, with the keys of those to whom.
    """

    def __init__(self, roster: Roster) -> None:
        # How it has ended; None while it goes on.
        self.end: Decided | None = None
        self._roster = roster
        self._unheard: set[int] = set()
        # Those whose connection broke before they had heard it, by the name of the member.
        self._absent: dict[str, int] = {}
        # Those that have brought it along: a lost coordinator had told them.
        self._knowing: set[int] = set()
        # Whether somebody may come yet who has lost the same coordinator.
        self._lingers = False

    @property
    def is_waiting(self) -> bool:
        """Whether somebody has not heard it, or may come to hear it."""
        return self._lingers or bool(self._unheard)

    def lacks(self, key: int) -> bool:
        """Tell whether a node has been told and has not said yet that it has heard it."""
        return key in self._unheard

    def note_knowing(self, key: int) -> None:
        """Take note that a node knows it before it is told here."""
        self._knowing.add(key)

    def gather(self, end: Decided, *, lingers: bool) -> list[tuple[int, Message]]:
        """Tell it to all that do not know it; the first node of the attempt shows the report.

        lingers: whether others may come who do not know it.
        """
        is_shown = end.is_reporter and bool(self._knowing)
        self.end = end._replace(is_reporter=False)
        self._lingers = lingers
        told: list[tuple[int, Message]] = []
        for key, node in self._roster.active:
            if key not in self._knowing:
                shows = not is_shown
                told.append((key, end._replace(generation=node.generation, is_reporter=shows)))
                is_shown = True
        told += [(key, self.end) for key in self._roster.spares if key not in self._knowing]
        self._unheard = set(self._roster.keys) - self._knowing
        return told if self._unheard else [*told, *self._farewells()]

    def come_late(self, key: int, member: str) -> None:
        """Take note that a node has come to hear it, be it again."""
        self._unheard.discard(self._absent.pop(member, key))
        self._unheard.add(key)

    def be_absent(self, key: int, member: str) -> None:
        """Take note that a node is out of reach that will come again."""
        self._absent[member] = key

    def note_heard(self, key: int) -> list[tuple[int, Message]]:
        """Take note that a node has heard it, or has ended; after the last one all may go."""
        if key not in self._unheard:
            return []
        self._unheard.discard(key)
        return [] if self._unheard else self._farewells()

    def give_up(self) -> list[tuple[int, Message]]:
        """Wait for nobody any more."""
        self._lingers = False
        if not self._unheard:
            return []
        self._unheard.clear()
        return self._farewells()

    def _farewells(self) -> list[tuple[int, Message]]:
        return [(key, Farewell()) for key in self._roster.keys]
