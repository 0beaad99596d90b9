"""A queue on one machine without a daemon: slots are locks of the kernel's, tickets are files.

A slot is free again the moment its holder dies, however it dies. Runs are served in the order of
their tickets; a ticket counts while the agent that drew it lives. Only agents come here.
"""

from __future__ import annotations

import fcntl
import os
import time

from launcher.jobs.alive import is_held
from launcher.jobs.store import RunFolder, Store, read_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# How often a waiting agent looks whether it is its turn.
_LOOK_S = 0.25


class Slots:
    """The slots of one target; `limit` of them, or as many as anybody wants.

    Where the target names `devices` or `hosts`, each of them is a slot.
    """

    def __init__(self, store: Store, target: str) -> None:
        settings = read_json(store.join("compute", target + ".json")) or {}
        self.settings: dict[str, Any] = settings
        self._names: list[str] = settings.get("devices") or settings.get("hosts") or []
        self.limit: int | None = len(self._names) or settings.get("max_nodes")
        self._is_by_rank = bool(settings.get("devices"))
        self._store = store
        self._folder = store.join("compute", target)
        self._held: list[int] = []
        # The devices or hosts that are ours.
        self.names: list[str] = []

    def wait(
        self,
        run: RunFolder,
        wanted: int,
        say: Callable[[str], None],
        pause: Callable[[float], None],
    ) -> None:
        """Wait until `wanted` slots are ours; they stay so until this process ends.

        say: is told why it waits, whenever that changes. pause: sleeps, and raises to give up.
        """
        if self.limit is None:
            return
        os.makedirs(os.path.join(self._folder, "queue"), exist_ok=True)
        ticket = os.path.join(self._folder, "queue", f"{time.time_ns():020d}-{run.run_id}")
        open(ticket, "x").close()
        said = ""
        try:
            while True:
                before = self._before(os.path.basename(ticket))
                if not before and self._take(run, wanted):
                    return
                busy = self._busy()
                reason = f"{len(busy)} of {self.limit} slots are busy"
                if busy:
                    reason += f" with {', '.join(sorted(set(busy)))}"
                if before:
                    reason += f"; {before} before this one"
                if reason != said:
                    said = reason
                    say(reason)
                pause(_LOOK_S)
        finally:
            os.unlink(ticket)

    def num_wanted(self, num_nodes: int, num_processes: int) -> int:
        """Return how many slots a run takes: one for each node, or for each rank its device."""
        return num_processes if self._is_by_rank else num_nodes

    def _before(self, mine: str) -> int:
        """Return how many runs that still wait drew their ticket before ours."""
        count = 0
        for name in os.listdir(os.path.join(self._folder, "queue")):
            if name < mine:
                if is_held(self._store.run(name.partition("-")[2]).lock):
                    count += 1
                else:  # its agent was killed
                    try:
                        os.unlink(os.path.join(self._folder, "queue", name))
                    except OSError:
                        pass
        return count

    def _take(self, run: RunFolder, wanted: int) -> bool:
        """Take as many free slots as are wanted, or none."""
        taken: list[int] = []
        names: list[str] = []
        for number, path in enumerate(self._paths()):
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(fd)
                continue
            os.ftruncate(fd, 0)
            os.write(fd, run.run_id.encode())
            taken.append(fd)
            names += self._names[number : number + 1]
            if len(taken) == wanted:
                self._held, self.names = taken, names
                return True
        for fd in taken:
            os.close(fd)
        return False

    def _busy(self) -> list[str]:
        """Return the runs that hold a slot, one entry for each slot."""
        return [run for run in self.holders().values() if run]

    def holders(self) -> dict[str, str | None]:
        """Return which run holds each slot, by the slot's device, host or number; None: free."""
        found: dict[str, str | None] = {}
        for number, path in enumerate(self._paths()):
            name = self._names[number] if self._names else str(number)
            found[name] = None
            if os.path.exists(path) and is_held(path):
                with open(path, errors="replace") as file:
                    found[name] = file.read() or "another run"
        return found

    def _paths(self) -> list[str]:
        return [os.path.join(self._folder, f"slot_{k}.lock") for k in range(self.limit or 0)]

    def num_busy(self) -> int:
        """Return how many slots are held now."""
        return len(self._busy())
