"""Whether a launcher whose connection is closed has ended: nobody listens at its port any more."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterable

from launcher.events import Event
from launcher.nodes.link import family_of
from launcher.system.loop import Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# How long it may take to find out.
_PROBE_S = 1.0


class Probe:
    """Finds out whether somebody still listens at an address.

    The kernel of a host refuses for a process that has ended. One that is about to end may have
    lost its connections while it still listens: the kernel accepts for it, and resets that a moment
    later. A launcher that lives hangs up when we do. Neither a connection that breaks while it
    lives, nor a host that does not answer, proves anything.
    """

    def __init__(
        self, loop: Loop, address: tuple[Any, ...], on_done: Callable[[bool], None]
    ) -> None:
        """on_done: is told, once, whether nobody listens there for certain."""
        self._loop = loop
        self._address = address
        self._on_done = on_done
        self._code = errno.ETIMEDOUT
        self._loop.set_timer(self._end, _PROBE_S)
        self._connect()

    def cancel(self) -> None:
        """Stop looking; nobody is told."""
        self._loop.cancel_timer(self._end)
        self._hang_up()

    def _connect(self) -> None:
        self._socket = socket.socket(family_of(self._address), socket.SOCK_STREAM)
        self._socket.setblocking(False)
        code = self._socket.connect_ex(self._address)
        if code in (0, errno.EINPROGRESS):
            self._loop.watch(self._socket.fileno(), self._see_connection, for_writing=True)
        else:
            self._code = code
            self._loop.set_timer(self._end, 0.0)

    def _see_connection(self) -> Iterable[Event]:
        if self._socket.fileno() < 0:
            return ()  # cancelled by somebody who was ready in the same turn
        self._code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if self._code == errno.ECONNRESET:
            self._look_again()
            return ()
        if self._code:
            self._end()
            return ()
        self._loop.unwatch(self._socket.fileno())
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it has been reset already, which is read in a moment
        self._loop.watch(self._socket.fileno(), self._see_end)
        return ()

    def _see_end(self) -> Iterable[Event]:
        if self._socket.fileno() < 0:
            return ()
        try:
            self._socket.recv(1)
        except BlockingIOError:
            return ()
        except OSError:
            self._look_again()
            return ()
        self._end()
        return ()

    def _look_again(self) -> None:
        """Look whether what had listened there, and was about to end, has ended now."""
        self._hang_up()
        self._connect()

    def _hang_up(self) -> None:
        self._loop.unwatch(self._socket.fileno())
        self._socket.close()

    def _end(self) -> None:
        self.cancel()
        self._on_done(self._code == errno.ECONNREFUSED)
