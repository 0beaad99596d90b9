"""What this node could serve for the workers of an attempt, in case that rank 0 is here.

A port for torch's store, which rank 0 opens itself, and the store of Horovod.
"""

from __future__ import annotations

from launcher.system.network import KeptPort

TYPE_CHECKING = False
if TYPE_CHECKING:
    from launcher.horovod.service import HorovodService

# It is not known yet by which address the others come.
_ANY = "0.0.0.0"


class Stores:
    """The port that is kept free for torch's store, and Horovod's store."""

    def __init__(self, master_port: int, horovod: HorovodService | None) -> None:
        """master_port: that the user has chosen; 0 for a free one, another for each attempt."""
        self._master_port = master_port
        self._horovod = horovod
        self._kept_port = KeptPort(_ANY)
        self.renew()

    @property
    def master_port(self) -> int:
        """The port at which rank 0 could serve torch's store."""
        return self._kept_port.number or self._master_port

    def renew(self) -> None:
        """Keep a port for the next attempt that the last one did not have."""
        if not self._master_port:
            self._kept_port.renew()

    def open_for_horovod(self) -> str:
        """Open a store for Horovod; return its port and secret path, "" without Horovod."""
        if self._horovod is None:
            return ""
        address, _ = self._horovod.open_store(_ANY)
        return address.partition(":")[2]

    def close(self) -> None:
        """Let go of both: rank 0 is somewhere else, or there is none any more."""
        self._kept_port.close()
        if self._horovod is not None:
            self._horovod.close()
