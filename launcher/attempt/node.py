"""What all attempts on this node share."""

from __future__ import annotations

from collections.abc import Callable

from launcher.attempt.sampling import Sampling
from launcher.attempt.stop import Kernel, StopRequest
from launcher.diagnosis.evidence import Evidence
from launcher.events import Event
from launcher.named import NamedTuple
from launcher.output.console import Console
from launcher.record.record import Record
from launcher.system.keeper import Keeper
from launcher.system.loop import Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from launcher.attached.crew import Crew
    from launcher.nodes.remote import RemoteCoordinator
    from launcher.plan.node import NodeFacts
    from launcher.start.starter import Starter


# Set where the words of several launchers come to one screen: then node 0 says what concerns all.
# `1` in the others, as far as that is known before the nodes have met.
QUIET_VARIABLE = "LAUNCHER_QUIET"


class NodeServices(NamedTuple):
    """What lives as long as the launch, and outside of every attempt."""

    loop: Loop
    console: Console
    keeper: Keeper
    evidence: Evidence
    # The signal that asks to stop, in whichever attempt or pause it comes.
    stop_request: StopRequest
    kernel: Kernel
    record: Record
    # What an engine has started here, and a console for each; without one, ours is for all.
    crew: Crew | None = None
    consoles: tuple[Console, ...] = ()
    # The other nodes of the run, which are to know at once what concerns them; None without any.
    peers: RemoteCoordinator | None = None
    # Looks now and then at what the workers use.
    sampling: Sampling | None = None

    def known_pids(self, starter: Starter) -> set[int]:
        """Return our own children that are no orphans; workers come on top."""
        return {self.keeper.pid, starter.pid}

    def look_after_children(
        self, starter: Starter, handle: Callable[[Event], None], workers: set[int]
    ) -> None:
        """Hear of exits, keep the keeper, let orphans go: some child has changed its state."""
        for event in starter.collect_exits():
            handle(event)
        self.keeper.revive()
        self.kernel.reap_orphans(self.known_pids(starter) | workers)


def shares_screen(facts: NodeFacts) -> bool:
    """Tell whether what the launchers of all nodes say is read in one place."""
    return QUIET_VARIABLE in facts.environ or bool(facts.nodes and facts.nodes.gathers_output)
