"""A long way between two network interfaces: python relay.py IF_A IF_B DELAY_MS

Frames that one receives leave by the other so many milliseconds later. A kernel can do that, too
(netem), but not every kernel has been built with it. Ends with its stdin.
"""

from __future__ import annotations

import heapq
import select
import socket
import struct
import sys
import time

# From linux/if_packet.h; the socket module has none of them.
_SOL_PACKET = 263
_ADD_MEMBERSHIP = 1
_PROMISCUOUS = 1
# Frames are larger than the wire allows, and have no checksums yet, as long as no wire sees them: a
# header before each says so, and must be handed on.
_VNET_HDR = 15
_ALL_PROTOCOLS = 3

_FRAME_BYTES = 1 << 17
_BUFFER_BYTES = 1 << 23


def open_interface(name: str) -> socket.socket:
    """Return a socket with all frames that come in by an interface."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL_PROTOCOLS))
    sock.setsockopt(_SOL_PACKET, _VNET_HDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
    sock.bind((name, 0))
    everybody = struct.pack("iHH8x", socket.if_nametoindex(name), _PROMISCUOUS, 0)
    sock.setsockopt(_SOL_PACKET, _ADD_MEMBERSHIP, everybody)
    return sock


def main() -> None:
    first, second, delay_ms = sys.argv[1:]
    ends = [open_interface(first), open_interface(second)]
    other = {ends[0]: ends[1], ends[1]: ends[0]}
    # (when it is due, its number, where it goes, what it is), the next one first
    waiting: list[tuple[float, int, socket.socket, bytes]] = []
    count = 0
    print("ready", flush=True)
    while True:
        timeout_s = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        ready = select.select([*ends, sys.stdin], [], [], timeout_s)[0]
        if sys.stdin in ready:
            return
        for end in ready:
            frame, (_, _, kind, *_) = end.recvfrom(_FRAME_BYTES)
            if kind == socket.PACKET_OUTGOING:
                continue  # our own
            count += 1
            due = time.monotonic() + float(delay_ms) / 1e3
            heapq.heappush(waiting, (due, count, other[end], frame))
        while waiting and waiting[0][0] <= time.monotonic():
            _, _, end, frame = heapq.heappop(waiting)
            try:
                end.send(frame)
            except OSError:
                pass  # the other end is down: lost, as frames are


if __name__ == "__main__":
    main()
