"""Points those who ask at one address to the one at which their run is served.

Two runs may have one endpoint: the coordinator that has it points the nodes of the other to another
port of the same host. And a run may go on elsewhere than where newcomers look for it.
"""

from __future__ import annotations

from collections.abc import Callable

from launcher.nodes.link import Link, connect
from launcher.nodes.messages import Message, Relocate
from launcher.nodes.wire import Credentials
from launcher.system.loop import Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from launcher.nodes.endpoint import Address


class Signpost:
    """Which runs are served where, as far as this node tells it or has it told."""

    def __init__(self, loop: Loop, credentials: Credentials) -> None:
        self._loop = loop
        self._credentials = credentials
        # Runs that are served at other ports of this host: tag -> their link and port.
        self._guests: dict[str, tuple[Link, int]] = {}
        # Where our own run goes on, if not here.
        self._moved: tuple[str, int] | None = None
        # To the coordinator of another run, at whose endpoint ours is a guest; and to who serves
        # at our endpoint although the run goes on here.
        self._to_host: Link | None = None
        self._to_endpoint: Link | None = None

    def answer(self, greeting: dict[str, Any], link: Link, *, is_left: bool) -> dict[str, object]:
        """Answer what somebody has said who may be of this run or another.

        is_left: whether it was said where this node has given way to another one.
        """
        tag = greeting.get("run")
        if tag == self._credentials.tag:
            return {"moved": list(self._moved)} if self._moved and is_left else {}
        if isinstance(greeting.get("guest"), int) and isinstance(tag, str):
            other_end, our_end = link.ends
            if other_end != our_end:  # only a process of this host has its end of this host
                return {"refused": "guest"}
            link.is_guest = True
            self._guests[tag] = (link, greeting["guest"])
            return {"welcome": 1}
        guest = self._guests.get(str(tag))
        if guest is not None and not guest[0].is_closed:
            return {"moved": [link.ends[1], guest[1]]}
        return {"refused": "run"}

    def point_to(self, there: Relocate) -> None:
        """Point the nodes of our own run to where it goes on."""
        self._moved = (there.host, there.port)

    def point_here(self) -> None:
        """Point the nodes of our own run nowhere else any more."""
        self._moved = None

    def be_guest(self, host: Address, port: int, on_end: Callable[[], None]) -> bool:
        """Have another run's coordinator point to a port of this host; False where it cannot.

        on_end: is called when that run has ended.
        """

        def lose(link: Link, error: Exception) -> None:
            self._to_host = None
            on_end()

        try:
            self._to_host = connect(
                self._loop, host, self._credentials, _nothing, _ignore, lose, guest_port=port
            )
        except OSError:
            return False
        return True

    def tell_endpoint(self, endpoint: Address, here: Relocate, on_end: Callable[[], None]) -> None:
        """Tell whoever serves at our endpoint, for want of a coordinator, where the run goes on.

        on_end: is called when nobody is there, or the connection has ended.
        """
        if self._to_endpoint is not None:
            self._to_endpoint.close()
            self._to_endpoint = None

        def tell(link: Link) -> None:
            link.send(here)

        def forget(link: Link, error: Exception) -> None:
            if self._to_endpoint is link:
                self._to_endpoint = None
                on_end()

        try:
            self._to_endpoint = connect(
                self._loop, endpoint, self._credentials, tell, _ignore, forget
            )
        except OSError:
            on_end()

    def close(self) -> None:
        """Have nobody pointed anywhere any more."""
        for link in (self._to_endpoint, self._to_host):
            if link is not None:
                link.close()


def _nothing(link: Link) -> None:
    pass


def _ignore(link: Link, message: Message) -> None:
    pass
