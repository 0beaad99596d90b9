"""The endpoint of a run: what its names mean, and whether it is here.

Whoever has the endpoint's address serves there: it is bound first and asked later.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable

from launcher.nodes.link import listen
from launcher.plan.nodes import NodeGroup
from launcher.system.loop import Loop
from launcher.system.network import Lookup, is_loopback, resolve

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Address = tuple[Any, ...]


class Endpoint:
    """The addresses at which the nodes of a run look for each other, as this node knows them."""

    def __init__(
        self, group: NodeGroup, loop: Loop, on_wait: Callable[[str], None], act: Callable[[], None]
    ) -> None:
        """on_wait: is told for what a look-up waits. act: goes on after one."""
        self._group = group
        self._loop = loop
        self._on_wait = on_wait
        self._act = act
        self._hosts: list[str] = []
        self._lookup: Lookup | None = None
        # The name that was typed for an address.
        self._typed: dict[Address, str] = {}
        # As the last look has found them, and as the last one has that has found any.
        self.addresses: list[Address] = []
        self.known_addresses: list[Address] = []
        # What has failed last in the look, or "".
        self.why = ""
        # An address of this host at which somebody serves already.
        self.taken: Address | None = None
        # Why others may not find what is served here, or "".
        self.doubt = ""

    def look_up(self, on_done: Callable[[], None]) -> None:
        """Look up the endpoint's host; it may have several addresses, and names."""
        self.addresses = []
        self.why = ""
        self._typed = {}
        self._hosts = [host.strip() for host in self._group.host.split(",") if host.strip()]
        self._look_up_next(on_done)

    def _look_up_next(self, on_done: Callable[[], None]) -> None:
        if not self._hosts:
            self.known_addresses = list(self.addresses) or self.known_addresses
            on_done()
            return
        host = self._hosts.pop(0)
        addresses, _ = resolve(host, self._group.port, is_numeric=True)
        if addresses:
            self.addresses += addresses
            self._look_up_next(on_done)
            return
        self._on_wait(f"no name server says what {host} is")

        def note(found: list[Address], why: str) -> None:
            self._lookup = None
            self.addresses += found
            self._typed.update(dict.fromkeys(found, host))
            if not found:
                self.why = f"the name {host} is not known here ({why})"
            self._look_up_next(on_done)
            self._act()

        self._lookup = Lookup(self._loop, host, self._group.port, note)

    def cancel(self) -> None:
        """Look up nothing more; nobody is told."""
        if self._lookup is not None:
            self._lookup.cancel()
            self._lookup = None

    def show(self, address: Address) -> str:
        """Return an address in words, with the name that was typed for it."""
        if address in self._typed:
            return f"{self._typed[address]}:{address[1]} ({address[0]})"
        host = f"[{address[0]}]" if len(address) == 4 else str(address[0])
        return f"{host}:{address[1]}"

    # --- where it is here -----------------------------------------------------------------------

    def bind(self) -> socket.socket | None:
        """Return a socket that listens at the endpoint; None if that is not here, or not free."""
        self.taken = None
        if self._group.is_host is False:
            return None
        for address in self.addresses:
            try:
                listening = listen(self._widen(address))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    self.taken = address  # it is ours, and somebody serves there
                elif error.errno == errno.EACCES:
                    self.why = f"this user may not serve at port {address[1]}"
                continue
            self._note_loopback(address)
            return listening
        if self._group.is_host and self.taken is None:
            return self._bind_anywhere()
        return None

    def _bind_anywhere(self) -> socket.socket | None:
        """Serve at all addresses: the others know this node by one that it does not have."""
        for anywhere in ("::", "0.0.0.0"):
            address = (anywhere, self._group.port, *((0, 0) if ":" in anywhere else ()))
            try:
                return listen(address)
            except OSError as error:
                self.why = f"port {self._group.port} cannot be served: {error.strerror}"
        return None

    def bind_beside(self, taken: Address) -> socket.socket:
        """Return a socket that listens at another port of this host."""
        address = self._widen(taken)
        return listen((address[0], 0, *address[2:]))

    def bind_for_others(self, address: str) -> socket.socket | None:
        """Return a socket that listens at a free port, at which the others may reach this node.

        address: of this node, by which it has reached the coordinator. None where nothing can be
        served there.
        """
        anywhere = [("::", 0, 0, 0), ("0.0.0.0", 0)] if self._group.local_addr else []
        addresses, _ = resolve(address, 0, is_numeric=True)
        for candidate in [*anywhere, *map(self._widen, addresses)]:
            try:
                return listen(candidate)
            except OSError:
                continue
        return None

    def bind_again(self) -> socket.socket | None:
        """Return a socket that listens where somebody else did; None if that is still so."""
        if self.taken is None:
            return None
        try:
            return listen(self._widen(self.taken))
        except OSError:
            return None

    def _note_loopback(self, address: Address) -> None:
        """Keep a doubt for the case that nobody comes: this may not be where the others look."""
        if is_loopback(str(address[0])):
            host = self._typed.get(address, "")
            name = f"{host} means {address[0]} here" if host else str(address[0])
            self.doubt = (
                f"{name}: a loopback address, by which a node meets itself. Name one of them by an"
                " address that all reach: --rdzv-endpoint ADDRESS:PORT, or --master-addr ADDRESS"
            )

    def _widen(self, address: Address) -> Address:
        """Return the address to bind: all of this host where its name means loopback here only."""
        is_named = address[0] not in self._group.host and self._group.host != "localhost"
        if is_named and is_loopback(str(address[0])):
            return ("::" if len(address) == 4 else "0.0.0.0", *address[1:])
        return address
