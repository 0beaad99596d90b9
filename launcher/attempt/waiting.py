"""The waiting rooms before an attempt: until the other nodes have come, then the pause after a
failure, and the fork server's imports.

No worker exists meanwhile. A signal that asks to stop ends the wait; a fork server that cannot be
used is replaced by the other start method, with a line that says why.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence

from launcher.attempt.node import NodeServices
from launcher.attempt.stop import FORWARDED_SIGNALS
from launcher.attempt.worker import WorkerStatus
from launcher.events import (
    ChildrenChanged,
    Event,
    ForkServerLost,
    ForkServerUnsafe,
    PeersStop,
    Signalled,
    TaskLost,
    TaskSignalled,
)
from launcher.exits import describe
from launcher.plan.plan import LaunchPlan
from launcher.start.spawn import SpawnStarter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from launcher.start.starter import Starter


class Lobby:
    """Where a launch is while it has no part in an attempt: hears of signals and of children."""

    def __init__(self, starter: Starter, node: NodeServices, stop_signals: Sequence[int]) -> None:
        self._starter = starter
        self._node = node
        self._stop_signals = stop_signals
        # Why the fork server may not be used.
        self._unsafe_reason = ""

    def turn(self) -> bool:
        """Let the loop go on once; return whether nobody has asked to stop."""
        self._node.loop.turn(self._handle)
        return self._node.stop_request.signum is None

    def _handle(self, event: Event) -> None:
        if isinstance(event, ChildrenChanged):
            self._node.look_after_children(self._starter, self._handle, set())
        elif isinstance(event, ForkServerUnsafe):
            self._unsafe_reason = event.reason
        elif isinstance(event, ForkServerLost):
            # It ends by itself when it has said why it is not to be used: both may come at once.
            died = f"the fork server died while it imported modules, {describe(event.returncode)}"
            self._unsafe_reason = self._unsafe_reason or died
        elif isinstance(event, Signalled):
            self._on_signal(event.signum)
        elif isinstance(event, PeersStop) and event.signum:
            self._node.stop_request.note_elsewhere(event.signum, event.reason)
        elif isinstance(event, TaskSignalled) and event.signum in self._stop_signals:
            self._note(event.signum)
        elif isinstance(event, TaskLost) and self._node.crew and self._node.crew.have_all_gone:
            self._note(signal.SIGTERM)

    def _on_signal(self, signum: int) -> None:
        if signum == signal.SIGTSTP:
            self._node.kernel.stop_ourselves()
        elif signum not in FORWARDED_SIGNALS:  # those are for workers, of which there are none
            self._note(signum)

    def _note(self, signum: int) -> None:
        if self._node.stop_request.note(signum) and self._node.peers:
            self._node.peers.report_signal(signum)


class WaitingRoom(Lobby):
    """Waits for what the attempt of a plan needs."""

    def __init__(self, plan: LaunchPlan, starter: Starter, node: NodeServices) -> None:
        super().__init__(starter, node, plan.stop_signals)
        self.plan = plan
        self._is_pausing = False

    def wait(self, pause_s: float) -> Starter:
        """Return what starts the workers, once `pause_s` seconds are over and it is ready.

        At once when a signal asks to stop.
        """
        loop, stop_request = self._node.loop, self._node.stop_request
        self._is_pausing = pause_s > 0
        if self._is_pausing:
            loop.set_timer(self._end_pause, pause_s)
        while stop_request.signum is None and (self._is_pausing or not self._starter.is_ready):
            self.turn()
            if self._unsafe_reason:
                self._step_aside()
        loop.cancel_timer(self._end_pause)
        return self._starter

    def status(self) -> list[WorkerStatus]:
        """Return the state of each worker."""
        return [WorkerStatus(worker.rank, 0, "starting", None) for worker in self.plan.workers]

    def stacks(self) -> str:
        """Return where each running worker is: none runs."""
        return ""

    def signal_all(self, signum: int) -> None:
        """Send a signal to every running worker: none runs."""

    def _end_pause(self) -> None:
        self._is_pausing = False

    def _step_aside(self) -> None:
        """Go on without the fork server, and say why."""
        self._starter.close()
        self._node.console.say(
            "starting each rank with its own interpreter (--start spawn): " + self._unsafe_reason
        )
        self._starter = SpawnStarter()
        self._unsafe_reason = ""
