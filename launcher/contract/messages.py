"""What a supervisor and its fork server say to each other, and how a message travels.

`Configure`, `Start` and `Reap` go to the server, the others come back. A message is one packet of a
socket pair that keeps packets whole, with open descriptors beside it: JSON of the name of its class
and its fields. What is too long for a packet (a command line of a megabyte, say) travels in an
anonymous file whose descriptor is sent instead. Both ends are processes of one host, and of one
version of this file. Who says what, and when, is in start/warm.py and worker/forkserver.py.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping, Sequence

from launcher.named import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Well below the smallest default socket buffer (208 KiB).
_INLINE_BYTES = 32 << 10
# What the kernel lets travel beside one packet.
_MAX_DESCRIPTORS = 253
_FD_BYTES = 4


class Configure(NamedTuple):
    """The first message: what all workers will run, and the environment in which to import for it.

    `preload` names modules besides those that the program imports; `forced`: whatever it sets.
    Beside it travels the socket for the answers, `Reaped`: there they come among no other messages.
    """

    kind: str
    target: str
    preload: Sequence[str]
    forced: bool
    env: Mapping[str, str]
    unset: Sequence[str]


class Start(NamedTuple):
    """Fork one worker; beside it travel its stdin, stdout and stderr, and what it inherits."""

    local_rank: int
    kind: str
    target: str
    args: Sequence[str]
    env: Mapping[str, str]
    unset: Sequence[str]
    error_file: str | None
    title: str
    cpus: Sequence[int]  # the only ones that it may use; none: all of the server's
    # The fields of system/inheritance.py's Inheritance; none: what the server has.
    inheritance: Sequence[Any] | None = None


class Reap(NamedTuple):
    """Let the process id of an ended worker go."""

    pid: int


class Ready(NamedTuple):
    """The server has imported its modules, and may fork."""


class Unsafe(NamedTuple):
    """The server must not fork, and why. It ends now."""

    reason: str


class Started(NamedTuple):
    """A worker process exists."""

    local_rank: int
    pid: int


class Refused(NamedTuple):
    """The system allows no more processes; with the error's number."""

    local_rank: int
    errno: int


class Exited(NamedTuple):
    """A worker has ended, with these two fields of `os.waitid`."""

    pid: int
    code: int
    status: int


class Reaped(NamedTuple):
    """A process id has been let go; `peak_kib`: the most memory that it ever had in use."""

    pid: int
    peak_kib: int


Message = Configure | Start | Reap | Ready | Unsafe | Started | Refused | Exited | Reaped

_CLASSES: Mapping[str, type[Message]] = {
    kind.__name__: kind
    for kind in (Configure, Start, Reap, Ready, Unsafe, Started, Refused, Exited, Reaped)
}


def encode(message: Message) -> bytes:
    """Return a message as bytes; text that came from the system undecoded is kept as it is."""
    return json.dumps([type(message).__name__, message]).encode("utf-8", "surrogatepass")


def decode(data: bytes) -> Message:
    """Read what `encode` wrote; sequences come back as lists."""
    name, fields = json.loads(data.decode("utf-8", "surrogatepass"))
    return _CLASSES[name](*fields)


def send(sock: socket.socket, message: Message, descriptors: Sequence[int] = ()) -> None:
    """Send one message, and copies of open descriptors with it."""
    data = encode(message)
    if len(data) < _INLINE_BYTES:
        _send_packet(sock, b"J" + data, descriptors)
        return
    carrier = os.memfd_create("launcher-message")
    try:
        with open(carrier, "wb", closefd=False) as file:
            file.write(data)
        _send_packet(sock, b"F", [*descriptors, carrier])
    finally:
        os.close(carrier)


def _send_packet(sock: socket.socket, data: bytes, descriptors: Sequence[int]) -> None:
    packed = b"".join(fd.to_bytes(_FD_BYTES, "little") for fd in descriptors)
    sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, packed)] if packed else [])


def receive(sock: socket.socket, *, wait: bool = True) -> tuple[Message, list[int]] | None:
    """Return the next message with its descriptors (ours to close), None when the other has gone.

    Without `wait`, BlockingIOError when there is no message yet.
    """
    try:
        data, descriptors = receive_packet(sock, 0 if wait else socket.MSG_DONTWAIT)
    except ConnectionResetError:
        return None
    if not data:
        return None
    if data[:1] == b"J":
        return decode(data[1:]), descriptors
    with open(descriptors.pop(), "rb") as file:
        file.seek(0)
        return decode(file.read()), descriptors


def receive_packet(sock: socket.socket, flags: int = 0) -> tuple[bytes, list[int]]:
    """Return one packet, b"" when the other has gone, and its descriptors (ours to close)."""
    data, ancillary, _, _ = sock.recvmsg(
        2 * _INLINE_BYTES,
        socket.CMSG_SPACE(_MAX_DESCRIPTORS * _FD_BYTES),
        socket.MSG_CMSG_CLOEXEC | flags,
    )
    # Nothing else can come beside the data: both ends are ours.
    packed = b"".join(numbers for _, _, numbers in ancillary)
    return data, [
        int.from_bytes(packed[at : at + _FD_BYTES], "little")
        for at in range(0, len(packed), _FD_BYTES)
    ]
