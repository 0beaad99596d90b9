"""What a node serves: the run, if it coordinates it; else a port at which it may be asked to.

Binds the state of the coordinator (rendezvous.py) to the connections of the nodes that have come.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

from launcher.nodes.endpoint import Endpoint
from launcher.nodes.link import Link, Listener
from launcher.nodes.member import Member
from launcher.nodes.messages import Deputy, Join, Message, Relocate, Well
from launcher.nodes.probe import Probe
from launcher.nodes.rules import OWN, Past, Route, Rules
from launcher.nodes.signpost import Signpost
from launcher.nodes.way import explain_end
from launcher.nodes.wire import Credentials
from launcher.system.loop import Loop
from launcher.system.network import resolve

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from launcher.nodes.rendezvous import Rendezvous

# A successor tells those who look at the endpoint where the run goes on: this often, and again so
# soon where nobody is there yet, before enough have come for a run of their own.
_RELOCATE_S = 1.0
_SEEK_ENDPOINT_S = 0.1

# A node whose coordinator is heard of so long after another node has said that it is lost.
_SURE_S = 1.0


class Serving:
    """The listener of this node, the nodes that are connected, and the run's state if it is here.

    The listener and that state need not be there.
    """

    def __init__(
        self,
        loop: Loop,
        credentials: Credentials,
        rules: Rules,
        member: Member,
        endpoint: Endpoint,
        claim_name: Callable[[], str],
        act: Callable[[], None],
        on_relocate: Callable[[Relocate], None],
    ) -> None:
        """claim_name: names the run, if it begins here; until then the name in `rules` is empty.

        act: carries out what the states ask for. on_relocate: is told where the run goes on, if it
        was begun here in vain.
        """
        self._loop = loop
        self._credentials = credentials
        self._rules = rules
        self._member = member
        self._endpoint = endpoint
        self._claim_name = claim_name
        self._act = act
        self._on_relocate = on_relocate
        self._signpost = Signpost(loop, credentials)
        self._listener: Listener | None = None
        # At the endpoint, where this node has given way to who coordinates already.
        self._left: Listener | None = None
        self._rendezvous: Rendezvous | None = None
        # The nodes that are connected, by key.
        self._links: dict[int, Link] = {}
        self._num_links = 0
        # Those that came before this node knew that it coordinates, with what they have said.
        self._early: list[tuple[Link, Message, float]] = []
        # Whether those have ended whose connections were closed, by key.
        self._probes: dict[int, Probe] = {}
        # And those that have not come to this node, which has taken over, by node rank.
        self._absent_probes: dict[int, Probe] = {}

    @property
    def coordinates(self) -> bool:
        """Whether the state of the run is here."""
        return self._rendezvous is not None

    @property
    def has_listeners(self) -> bool:
        """Whether nodes are to hear from this one how the run has ended."""
        return self._rendezvous is not None and self._rendezvous.has_listeners

    # --- to begin, and to end -------------------------------------------------------------------

    def serve(self, listening: socket.socket) -> None:
        """Coordinate a run that begins."""
        self._listener = self._make_listener(listening)
        self._rules = self._rules._replace(doubt=self._endpoint.doubt)
        self._coordinate(None)

    def serve_as_guest(self) -> bool:
        """Serve at another port of this host, and let the run that has the endpoint point there."""
        taken = self._endpoint.taken
        if taken is None:
            return False
        listening = self._endpoint.bind_beside(taken)
        port = int(listening.getsockname()[1])
        if not self._signpost.be_guest(taken, port, self._return_to_endpoint):
            listening.close()
            return False
        self.serve(listening)
        return True

    def listen_at(self, address: str) -> None:
        """Listen where the others reach this node, for the case that it is to take over."""
        if self._listener is not None:
            return
        listening = self._endpoint.bind_for_others(address)
        if listening is not None:
            self._listener = self._make_listener(listening)
            self._member.note_port(self._listener.port)

    def take_over(self, past: Past) -> None:
        """Coordinate a run that has lost its coordinator."""
        # Rank 0 will be somewhere else.
        self._rules = self._rules._replace(run_name=self._member.run_name, master_addr="")
        self._coordinate(past)
        self._look_for_absent()
        self._relocate()

    def close(self) -> None:
        """Close all connections and the listener, whoever still listens."""
        self._loop.cancel_timer(self._relocate)
        for probe in [*self._probes.values(), *self._absent_probes.values()]:
            probe.cancel()
        self._signpost.close()
        for listener in filter(None, (self._listener, self._left)):
            listener.close()

    # --- as the coordinator ---------------------------------------------------------------------

    def handle_own(self, message: Message) -> None:
        """Take a message of this node itself."""
        if self._rendezvous is not None:
            self._rendezvous.handle(OWN, message, self._loop.clock(), Route())

    @property
    def has_outbox(self) -> bool:
        """Whether something is to be sent."""
        return self._rendezvous is not None and bool(self._rendezvous.outbox)

    def send_outbox(self) -> None:
        """Send what the coordinator has to say, to this node's own member, too."""
        if self._rendezvous is None:
            return
        outbox, self._rendezvous.outbox = self._rendezvous.outbox, []
        now = self._loop.clock()
        for key, message in outbox:
            if key == OWN:
                self._member.take(message, now)
            elif key in self._links:
                self._links[key].send(message)

    def take_news(self) -> list[str]:
        """Return lines for the user, once."""
        if self._rendezvous is None:
            return []
        news, self._rendezvous.news = self._rendezvous.news, []
        return news

    def tick(self, now: float) -> None:
        """See whether anything is due."""
        if self._rendezvous is not None:
            self._look_for_absent()
            self._rendezvous.tick(now)

    def answer_early(self, pong_at: float) -> None:
        """Tell those who have lost the coordinator that it is well, if so.

        pong_at: when this node has last heard of it.
        """
        for link, message, came_at in list(self._early):
            if isinstance(message, Join) and pong_at > came_at + _SURE_S:
                link.send(Well())
                self._early = [item for item in self._early if item[0] is not link]

    # --- inside ---------------------------------------------------------------------------------

    def _make_listener(self, listening: socket.socket) -> Listener:
        def answer(greeting: dict[str, Any], link: Link) -> dict[str, object]:
            return self._signpost.answer(greeting, link, is_left=listener is self._left)

        listener = Listener(
            self._loop, listening, self._credentials, answer, self._hear, self._lose
        )
        return listener

    def _coordinate(self, past: Past | None) -> None:
        from launcher.nodes.rendezvous import Rendezvous  # most nodes have none

        now = self._loop.clock()
        if not self._rules.run_name:
            self._rules = self._rules._replace(run_name=self._claim_name())
        self._signpost.point_here()
        self._rendezvous = Rendezvous(self._rules, now, past)
        self._member.open(now, is_own=True)
        early, self._early = self._early, []
        for link, message, _ in early:
            self._hear(link, message)

    def _hear(self, link: Link, message: Message) -> None:
        now = self._loop.clock()
        if isinstance(message, Relocate):
            self._give_way(message)
            return
        if self._rendezvous is None:
            self._early.append((link, message, now))
            return
        if link.key == OWN:  # which no connection has
            self._num_links += 1
            link.key = self._num_links
            self._links[link.key] = link
        route = Route(*link.ends) if isinstance(message, Join) else None
        self._rendezvous.handle(link.key, message, now, route)
        self._act()

    def _lose(self, link: Link, error: Exception) -> None:
        self._early = [item for item in self._early if item[0] is not link]
        rendezvous = self._rendezvous
        if rendezvous is None or self._links.pop(link.key, None) is None:
            return

        def note(is_dead: bool) -> None:
            self._probes.pop(link.key, None)
            why = explain_end(error, is_dead)
            rendezvous.lose(link.key, why, self._loop.clock(), is_dead=is_dead)
            self._act()

        if not rendezvous.waits_for(link.key):
            note(is_dead=True)
            return
        probe = self._probe(*rendezvous.door(link.key), note)
        if probe is None:
            note(is_dead=False)
        else:
            self._probes[link.key] = probe

    def _look_for_absent(self) -> None:
        """Look whether those have ended, too, that do not come to the lost coordinator's place."""
        if self._rendezvous is None:
            return
        for absent in self._rendezvous.find_absent(self._loop.clock()):
            if absent.node_rank not in self._absent_probes:
                self._look_whether_it_lives(self._rendezvous, absent)

    def _look_whether_it_lives(self, rendezvous: Rendezvous, absent: Deputy) -> None:
        def note(is_dead: bool) -> None:
            del self._absent_probes[absent.node_rank]
            if is_dead:
                rendezvous.bury(absent, "its launcher has ended", self._loop.clock())
                self._act()

        probe = self._probe(absent.host, absent.port, note)
        if probe is not None:
            self._absent_probes[absent.node_rank] = probe

    def _probe(self, host: str, port: int, on_done: Callable[[bool], None]) -> Probe | None:
        """Begin to find out whether nobody listens there any more; None where that is no address.

        on_done: see `Probe`.
        """
        addresses, _ = resolve(host, port, is_numeric=True)
        return Probe(self._loop, addresses[0], on_done) if addresses else None

    def _return_to_endpoint(self) -> None:
        """Have the endpoint for this run, too, now that the other one has ended."""
        if self._listener is None or self._rendezvous is None:
            return
        listening = self._endpoint.bind_again()
        if listening is not None:
            self._listener.listen_also(listening)

    def _relocate(self) -> None:
        """Tell whoever looks for the run at the endpoint, for a place in it, where it goes on."""
        if self._rendezvous is None or self._listener is None or self._rendezvous.is_over:
            return
        self._loop.set_timer(self._relocate, _RELOCATE_S)
        if self._endpoint.known_addresses:
            here = Relocate(self._member.address, self._listener.port)
            where = self._endpoint.known_addresses[0]
            self._signpost.tell_endpoint(where, here, self._relocate_soon)

    def _relocate_soon(self) -> None:
        self._loop.set_timer(self._relocate, _SEEK_ENDPOINT_S)

    def _give_way(self, there: Relocate) -> None:
        """Leave the coordination to the node that has it: this one has only just begun."""
        if self._rendezvous is None and self._left is not None:
            self._signpost.point_to(there)
        if self._rendezvous is None or self._rendezvous.generation >= 0:
            return
        self._signpost.point_to(there)
        # Those that this node may have to follow it are not to be shown away.
        self._left, self._listener = self._listener, None
        self._rendezvous = None
        for link in self._links.values():
            link.close()
        self._links.clear()
        self._on_relocate(there)
