"""Addresses and ports of this host."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

from launcher.errors import RendezvousError
from launcher.system.loop import Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Of <linux/rtnetlink.h> and <linux/if_addr.h>.
_RTM_NEWADDR, _RTM_GETADDR = 20, 22
_NLM_F_REQUEST_DUMP = 0x301
_IFA_ADDRESS, _IFA_LOCAL = 1, 2


def reserve_port(address: str) -> socket.socket:
    """Bind a free port without listening, so that nobody takes it before rank 0 does.

    The kernel gives a bound port to nobody who asks for any free one, but it does let rank 0 bind
    it by number, as long as both sides set SO_REUSEADDR and we do not listen.
    """
    reserved = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind((address, 0))
    return reserved


class KeptPort:
    """A free port for rank 0, kept from everybody else while an attempt lasts."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._reserved: socket.socket | None = None

    @property
    def number(self) -> int:
        """The port that is kept; 0 when none is."""
        return 0 if self._reserved is None else int(self._reserved.getsockname()[1])

    def renew(self) -> int:
        """Keep another port than before, and return it."""
        before, self._reserved = self._reserved, reserve_port(self._address)
        if before is not None:
            before.close()  # only now: the new one is another
        return self.number

    def close(self) -> None:
        """Keep none any more."""
        if self._reserved is not None:
            self._reserved.close()
            self._reserved = None


def is_loopback(address: str) -> bool:
    """Tell whether an address is one by which a host meets itself."""
    return address.startswith(("127.", "::1"))


def own_address() -> str:
    """Return the address from which this host reaches others; its name where none stands out.

    No name server is asked.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # a documentation address: nothing is sent
        except OSError:  # no default route, as on many a cluster's inner network
            return os.uname().nodename
        return str(probe.getsockname()[0])


def is_own(name: str) -> bool:
    """Tell whether a name or an address is certainly this machine's. No name server is asked."""
    nodename = os.uname().nodename
    if name in ("localhost", nodename, nodename.partition(".")[0]):
        return True
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, name)
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.bind((name, 0))  # the kernel allows that for its own addresses only
        except OSError:
            continue
        return True
    return False


def read_full_name() -> str:
    """Return this host's name with its domain, where /etc/hosts has it; else its name alone.

    No name server is asked.
    """
    name = os.uname().nodename
    try:
        with open("/etc/hosts", errors="replace") as file:
            lines = [line.partition("#")[0].split()[1:] for line in file]
    except OSError:
        return name
    names = next((names for names in lines if name in names), [])
    return next((other for other in names if other.startswith(f"{name}.")), name)


def check_name(name: str) -> None:
    """Raise RendezvousError where this node does not know the name; torch would ask for minutes."""
    try:
        socket.getaddrinfo(name, None)
    except OSError as error:
        raise RendezvousError(
            f"All are to meet at {name}, the first node of this job step, but this node"
            f" ({os.uname().nodename}) does not know that name: {error.strerror or error}.",
            hint="Name another address of it, the same for all tasks: MASTER_ADDR=ADDRESS srun ...",
        ) from None


class Lookup:
    """Asks for the addresses of a name, which can take minutes, without holding up the loop."""

    def __init__(
        self,
        loop: Loop,
        host: str,
        port: int,
        on_done: Callable[[list[tuple[Any, ...]], str], None],
    ) -> None:
        """on_done: called with socket addresses, or none and the reason in words."""
        import threading

        self._loop = loop
        self._on_done = on_done
        self._result: tuple[list[tuple[Any, ...]], str] = ([], "")
        self._done, done = os.pipe()
        loop.watch(self._done, self._finish)
        threading.Thread(target=self._ask, args=(host, port, done), daemon=True).start()

    def _ask(self, host: str, port: int, done: int) -> None:
        self._result = resolve(host, port)
        os.close(done)

    def _finish(self) -> None:
        self.cancel()
        self._on_done(*self._result)

    def cancel(self) -> None:
        """Do not wait for it any longer."""
        if self._done >= 0:
            self._loop.unwatch(self._done)
            os.close(self._done)
            self._done = -1


def resolve(host: str, port: int, *, is_numeric: bool = False) -> tuple[list[tuple[Any, ...]], str]:
    """Return the socket addresses of a host, or none and the reason in words."""
    flags = socket.AI_NUMERICHOST if is_numeric else 0
    try:
        # Of a str, Python makes IDNA, for which it loads a codec first.
        name = host.encode("ascii") if host.isascii() else host
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=flags)
    except (OSError, UnicodeError) as error:
        return [], getattr(error, "strerror", None) or str(error)
    return list(dict.fromkeys(entry[4] for entry in found)), ""


def is_numeric(address: str) -> bool:
    """Tell whether an address is none of the names that somebody else would have to explain."""
    return bool(resolve(address, 0, is_numeric=True)[0])


def find_interface(address: str) -> str:
    """Return the name of this host's network interface that has an address; "" if there is none."""
    import struct

    try:
        wanted = socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as kernel:
            kernel.settimeout(1.0)
            header = struct.pack("=IHHII", 24, _RTM_GETADDR, _NLM_F_REQUEST_DUMP, 1, 0)
            kernel.sendto(header + bytes(8), (0, 0))
            while True:
                index, is_last = _find_index(kernel.recv(1 << 16), wanted)
                if index:
                    return socket.if_indextoname(index)
                if is_last:
                    return ""
    except (OSError, struct.error):
        return ""


def _find_index(answer: bytes, wanted: bytes) -> tuple[int, bool]:
    """Return the number of the interface with an address, or 0; and whether nothing follows."""
    import struct

    while len(answer) >= 16:
        length, kind = struct.unpack_from("=IH", answer)
        if kind != _RTM_NEWADDR:
            return 0, True
        message, answer = answer[16:length], answer[(length + 3) & ~3 :]
        index = struct.unpack_from("=I", message, 4)[0]
        attributes = message[8:]
        while len(attributes) >= 4:
            size, name = struct.unpack_from("=HH", attributes)
            if name in (_IFA_ADDRESS, _IFA_LOCAL) and attributes[4:size] == wanted:
                return int(index), False
            attributes = attributes[(size + 3) & ~3 :]
    return 0, False
