"""Messages between the supervisor and its fork server: one JSON object per packet, with open
descriptors beside it.

A socket pair of type SOCK_SEQPACKET keeps packets whole. What is too long for a packet (a command
line of a megabyte, say) travels in an anonymous file whose descriptor is sent instead. Both ends
are our own processes of one host.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence
from typing import Any

# Well below the smallest default socket buffer (208 KiB).
_INLINE_BYTES = 32 << 10
_MAX_DESCRIPTORS = 8
_FD_BYTES = 4


def make_pair() -> tuple[socket.socket, socket.socket]:
    """Return the two connected ends."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(sock: socket.socket, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
    """Send one message, and copies of open descriptors with it."""
    data = b"J" + json.dumps(message).encode("utf-8", "surrogatepass")
    if len(data) <= _INLINE_BYTES:
        _send_packet(sock, data, descriptors)
        return
    carrier = os.memfd_create("launcher-message")
    try:
        with open(carrier, "wb", closefd=False) as file:
            file.write(data[1:])
        _send_packet(sock, b"F", [*descriptors, carrier])
    finally:
        os.close(carrier)


def _send_packet(sock: socket.socket, data: bytes, descriptors: Sequence[int]) -> None:
    if descriptors:
        packed = b"".join(fd.to_bytes(_FD_BYTES, "little") for fd in descriptors)
        sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, packed)])
    else:
        sock.sendmsg([data])


def receive(sock: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """Return the next message with its descriptors (ours to close), or None when the other end has
    gone.
    """
    try:
        data, ancillary, _, _ = sock.recvmsg(
            2 * _INLINE_BYTES,
            socket.CMSG_SPACE(_MAX_DESCRIPTORS * _FD_BYTES),
            socket.MSG_CMSG_CLOEXEC,
        )
    except ConnectionResetError:
        return None
    if not data:
        return None
    descriptors: list[int] = []
    for level, kind, packed in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            whole = len(packed) - len(packed) % _FD_BYTES
            descriptors.extend(
                int.from_bytes(packed[at : at + _FD_BYTES], "little")
                for at in range(0, whole, _FD_BYTES)
            )
    if data[:1] == b"F":
        with open(descriptors.pop(), "rb") as file:
            file.seek(0)
            text = file.read()
    else:
        text = data[1:]
    message: dict[str, Any] = json.loads(text.decode("utf-8", "surrogatepass"))
    return message, descriptors


# Appended to the fork server's arguments: room for the titles of its workers.
ROOM = " " * 400
