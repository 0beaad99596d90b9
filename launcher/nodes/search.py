"""How a node looks for its coordinator: when it tries again, until when, what stands in its way.

Pure: the clock is an argument. What a look is, is done elsewhere (way.py).
"""

from __future__ import annotations

from launcher.errors import RendezvousError

# Pauses between two attempts to reach the endpoint: the first, and the longest. Nodes that are
# started at once are a few milliseconds apart.
_FIRST_PAUSE_S = 0.005
_LONGEST_PAUSE_S = 1.0

# Said of a port that another program serves.
IS_STRANGER = "does not answer as a launcher does"

# Said of a coordinator that was found, and lost before the first attempt.
HAS_GONE = "the coordinator has gone again"


class Search:
    """The looks for a coordinator so far, and the next one."""

    def __init__(self, timeout_s: float, now: float) -> None:
        self._timeout_s = timeout_s
        self._ends_at = now + timeout_s
        self._pause_s = _FIRST_PAUSE_S
        # When the next look is due; None while one is under way, and when somebody was reached.
        self.next_at: float | None = None
        # What stands in the way, as the last look has shown.
        self.why = ""

    def note_obstacle(self, why: str) -> None:
        """Take note of what stands in the way for now, in case that nothing comes of it in time."""
        self.why = why

    def miss(self, why: str, now: float) -> None:
        """Take note that nobody was reached, and why; the next look is after a pause."""
        self.why = why
        self.next_at = now + self._pause_s
        self._pause_s = min(_LONGEST_PAUSE_S, self._pause_s * 2)

    def pause(self) -> None:
        """Look no more for now: somebody was reached."""
        self.next_at = None

    def has_failed(self, now: float) -> bool:
        """Tell whether the time is over in which a coordinator was to be found."""
        return now >= self._ends_at

    def begin_look(self, now: float) -> bool:
        """Tell whether it is time for the next look, once."""
        is_time = self.next_at is not None and now >= self.next_at
        if is_time:
            self.next_at = None
        return is_time

    @property
    def limit(self) -> str:
        """How long the nodes wait for each other, in words."""
        return f"at most {self._timeout_s:g} s (--rdzv-conf join_timeout=SECONDS)"

    def explain_delay(self) -> str:
        """Return for what this node waits, for the user."""
        return f"no coordinator is found yet: {self.why}; waiting {self.limit}"

    def make_error(self) -> RendezvousError:
        """Return why there is no run for this node."""
        text = f"In {self._timeout_s:g} s no coordinator was found: {self.why}."
        return RendezvousError(text, hint=_hint_for(self.why))


def _hint_for(why: str) -> str:
    if HAS_GONE in why:
        return "See what the launcher has said on that node, and start all of them again."
    if IS_STRANGER in why:
        return (
            "Choose another port, the same on all nodes: --control-port PORT, or --rdzv-endpoint"
            " HOST:PORT"
        )
    if "another run" in why:
        return "Type the same --rdzv-id on all nodes, or choose another endpoint."
    if "refused" in why:
        return (
            "Is the launcher running on that node, with the same endpoint and port? Type there:"
            " ss -ltn"
        )
    if "timed out" in why or "no route" in why.lower():
        return "A firewall may drop the connection: let nodes reach this port, or choose another."
    return (
        "Name the first node by an address that all nodes know: --rdzv-endpoint ADDRESS:PORT, or"
        " --master-addr ADDRESS"
    )
