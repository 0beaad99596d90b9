"""The way from this node to its coordinator: one address after the other, until one answers.

Tells the state of this node (member.py) how it goes, in words for the user where it does not.
"""

from __future__ import annotations

from collections.abc import Callable

from launcher.errors import RendezvousError
from launcher.nodes.link import CONNECT_S, Link, connect
from launcher.nodes.member import Member
from launcher.nodes.messages import Message, Pong, Well
from launcher.nodes.probe import Probe
from launcher.nodes.search import IS_STRANGER
from launcher.nodes.wire import Credentials, Moved, Refusal
from launcher.system.loop import Loop
from launcher.system.network import resolve

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from launcher.nodes.endpoint import Address

# So long without an answer is silence. A firewall's kernel refuses six times, then once a second,
# whatever else it is asked; and TCP asks again after a second.
_SILENCE_S = 1.2

# Refusals that another attempt would meet again, and what to do.
_FINAL_REFUSALS = {
    "secret": "Give all nodes the same: LAUNCHER_SECRET or --secret-file",
    "version": "Install the same launcher on all nodes.",
}


class Way:
    """The connection to the coordinator, or what is done to get one."""

    def __init__(
        self,
        loop: Loop,
        credentials: Credentials,
        member: Member,
        show: Callable[[Address], str],
        on_meet: Callable[[str], None],
        on_taken: Callable[[], bool],
        act: Callable[[], None],
    ) -> None:
        """show: puts an address in words. act: carries out what the member asks for.

        on_meet: is told by which address of this node a coordinator was reached. on_taken: tells
        whether the run is served here, because another run has the address that was tried.
        """
        self._loop = loop
        self._credentials = credentials
        self._member = member
        self._show = show
        self._on_meet = on_meet
        self._on_taken = on_taken
        self._act = act
        self._link: Link | None = None
        self._untried: list[Address] = []
        # Of the address that is tried: in words, and until when.
        self._where = ""
        self._ends_at: float | None = None
        self._silent_at = 0.0
        # What has failed last, and whether nobody listened there.
        self._why = ""
        self._was_refused = False
        # Where this node has reached somebody; where the coordinator of its last attempt was.
        self._met: Address | None = None
        self._home: Address | None = None
        # Whether the coordinator has ended, whose connection was closed.
        self._probe: Probe | None = None
        # When the coordinator was last heard to be well.
        self.pong_at = 0.0

    @property
    def has_pending(self) -> bool:
        """Whether something that was said has not left this host yet."""
        return self._link is not None and self._link.has_pending

    def send(self, message: Message) -> None:
        """Say something to the coordinator, if there is a way to it."""
        if self._link is not None:
            self._link.send(message)

    def try_all(self, addresses: list[Address], why: str) -> None:
        """Turn to the first of these addresses that answers; why: what has failed so far."""
        self._untried, self._why = list(addresses), why
        if self._untried:
            self._try_next()
        else:
            self._member.miss(why or "the endpoint has no address", self._loop.clock())

    def turn_to(self, host: str, port: int) -> None:
        """Turn to a node whose address is known."""
        addresses, self._why = resolve(host, port, is_numeric=True)
        self._untried = addresses[1:]
        if addresses:
            self._try(addresses[0])
        else:
            self._member.miss(self._why, self._loop.clock())

    def turn_back(self) -> None:
        """Turn to where the coordinator of the last attempt was."""
        self.let_go()
        self._untried = []
        if self._home is not None:
            self._try(self._home)
        else:
            self._member.miss(self._why, self._loop.clock())

    def let_go(self) -> None:
        """Close the connection, and end what is under way to get one."""
        self._ends_at = None
        if self._probe is not None:
            self._probe.cancel()
            self._probe = None
        if self._link is not None:
            self._link.close()
            self._link = None

    def tick(self, now: float) -> None:
        """See how far a connection has come that is to lead to the coordinator."""
        if self._ends_at is None:
            return
        if self._link is not None and self._link.is_connected:
            self._note_obstacle(f"what is at {self._where} {IS_STRANGER}")
        elif now >= self._silent_at:
            self._note_silence()
        if now < self._ends_at:
            return
        self._ends_at = None
        if self._link is not None:
            self._link.close()
            self._link = None
        self._try_next()

    # --- inside ---------------------------------------------------------------------------------

    def _try_next(self) -> None:
        if not self._untried:
            was_refused, self._was_refused = self._was_refused, False
            self._member.miss(self._why, self._loop.clock(), is_refused=was_refused)
            return
        self._try(self._untried.pop(0))

    def _try(self, address: Address) -> None:
        where = self._where = self._show(address)

        def meet(link: Link) -> None:
            self._meet(link, address)

        def lose(link: Link, error: Exception) -> None:
            self._lose(link, address, error)

        try:
            link = connect(self._loop, address, self._credentials, meet, self._hear, lose)
        except OSError as error:
            self._was_refused = isinstance(error, ConnectionRefusedError)
            self._why = f"{where} cannot be reached: {reason_of(error)}"
            self._try_next()
            return
        self._link = link
        now = self._loop.clock()
        self._ends_at, self._silent_at = now + CONNECT_S, now + _SILENCE_S
        if not self._member.knows_obstacle:
            self._note_silence()

    def _note_silence(self) -> None:
        self._note_obstacle(f"{self._where} does not answer (the connection timed out)")

    def _note_obstacle(self, why: str) -> None:
        self._why = why
        self._member.note_obstacle(why)

    def _meet(self, link: Link, address: Address) -> None:
        """Begin to talk to a coordinator that has proved that it is one of this run."""
        self._ends_at = None
        self._met = address
        self._on_meet(link.ends[1])
        self._member.open(self._loop.clock())
        self._act()

    def _hear(self, link: Link, message: Message) -> None:
        if link is not self._link:
            return
        if isinstance(message, Pong):
            self.pong_at = self._loop.clock()
        if not isinstance(message, Well):
            self._home = self._met
        self._member.take(message, self._loop.clock())
        self._act()

    def _lose(self, link: Link, address: Address, error: Exception) -> None:
        """Take note that the connection to a coordinator, or to what was to be one, is closed."""
        if link is not self._link:
            return
        self._link = None
        self._ends_at = None
        if isinstance(error, Moved):
            self._untried = []
            self.turn_to(error.host, error.port)
        elif link.is_open:
            self._look_whether_it_lives(address, error)
        else:
            self._was_refused = isinstance(error, ConnectionRefusedError)
            self._why = _explain(self._show(address), error)
            kind = error.kind if isinstance(error, Refusal) else ""
            if kind in _FINAL_REFUSALS:
                text = f"{self._why[0].upper()}{self._why[1:]}."
                self._member.give_up(RendezvousError(text, hint=_FINAL_REFUSALS[kind]))
            elif not (kind == "run" and self._on_taken()):
                self._try_next()
        self._act()

    def _look_whether_it_lives(self, address: Address, error: Exception) -> None:
        def note(is_dead: bool) -> None:
            self._probe = None
            self._member.close(explain_end(error, is_dead), self._loop.clock(), is_dead=is_dead)
            self._act()

        self._probe = Probe(self._loop, address, note)


def explain_end(error: Exception, is_dead: bool) -> str:
    """Return in words what has become of a node whose connection is closed."""
    if is_dead:
        return "its launcher has ended (the connection was closed)"
    return f"the connection to it broke ({reason_of(error)})"


def reason_of(error: Exception) -> str:
    """Return what an error says, as the rest of a sentence."""
    text: Any = getattr(error, "strerror", None) or str(error)
    return f"{text[:1].lower()}{text[1:]}"


def _explain(where: str, error: Exception) -> str:
    if not isinstance(error, Refusal):
        return f"{where} cannot be reached: {reason_of(error)}"
    if error.kind == "secret":
        return f"the launcher at {where} has another secret"
    if error.kind == "version":
        return f"the launcher at {where} is of another version (protocol {error.detail})"
    return f"at {where} another run is served, with another --rdzv-id"
