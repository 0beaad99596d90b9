"""Ends an attached rank's connections before MPI's own end, which waits for its peers.

Those may wait for it in turn.

A rank that ends is missed by torch's Gloo as soon as its connections are closed. But where MPI has
been initialised, as we do to agree on a port, the end of the process first waits in MPI_Finalize
for all ranks: one that ends early and those that still expect it in a collective wait for each
other. Measured with two ranks of DDP under Open MPI, one with a step less: under mpirun alone the
job fails at once, and so it does here. Without this file it said nothing for the 150 s that were
watched, and would have until Gloo's limit, which is 30 minutes; then the report named only a time
limit, and not the rank that had ended.

Only connections within this host are shut down, as all of the job's are; at the very end of the
process, when what the script itself does at exit has been done.
"""

from __future__ import annotations

import atexit
import os
import socket
import stat


def end_connections_at_exit() -> None:
    """Shut down the TCP connections within this host that are made from now on, at exit.

    That is after all that the script does at exit.

    Those of MPI exist already, where all ranks are on one host: there it passes messages through
    memory.
    """
    atexit.register(end_connections, os.getpid(), frozenset(open_sockets()))


def open_sockets() -> dict[int, int]:
    """Return the sockets of this process, each with a descriptor."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            status = os.fstat(int(name))
        except OSError:  # the one that reads this folder
            continue
        if stat.S_ISSOCK(status.st_mode):
            found[status.st_ino] = int(name)
    return found


def end_connections(pid: int, known: frozenset[int]) -> None:
    """Shut down the TCP connections within this host, but those in `known`.

    Nothing in another process than `pid`.
    """
    if os.getpid() != pid:  # a process that the script has forked: these are its parent's
        return
    for inode, fd in open_sockets().items():
        if inode in known:
            continue
        try:
            with socket.socket(fileno=os.dup(fd)) as connection:
                if _is_within_this_host(connection):
                    connection.shutdown(socket.SHUT_RDWR)
        except OSError:  # not connected any more
            continue


def _is_within_this_host(connection: socket.socket) -> bool:
    """Tell whether both ends of a TCP connection have one address.

    OSError for a socket that is not connected, as one that listens: without it, Gloo's thread would
    abort the process.
    """
    is_tcp = connection.type == socket.SOCK_STREAM and connection.family in (
        socket.AF_INET,
        socket.AF_INET6,
    )
    return is_tcp and bool(connection.getpeername()[0] == connection.getsockname()[0])
