"""What a launch does for a program that uses Horovod: a store at which the ranks meet.

With hvd.elastic, also the world in which lost workers are replaced.

Other rooms know this file, use.py, which tells whether it is needed, and stalls.py, which reads
what Horovod's stall inspector says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from launcher.horovod.elastic import ElasticWorld
from launcher.horovod.store import HorovodStore
from launcher.system.loop import Loop

# How long ranks of elastic Horovod wait for each other, in seconds: the default of its own driver.
_ELASTIC_TIMEOUT_S = 600.0


class HorovodService:
    """Serves one launch; `close` ends the store of the attempt that is under way."""

    def __init__(self, loop: Loop, environ: Mapping[str, str], *, is_elastic: bool) -> None:
        """is_elastic: whether the program uses hvd.elastic."""
        self._loop = loop
        self._store: HorovodStore | None = None
        self.is_elastic = is_elastic
        value = environ.get("HOROVOD_ELASTIC_TIMEOUT", "")
        is_set = value.isdecimal() and int(value) > 0
        self._timeout_s = float(value) if is_set else _ELASTIC_TIMEOUT_S

    def open_store(self, host: str = "127.0.0.1") -> tuple[str, int]:
        """Open the store of the next attempt; returns its address, with a secret path, and port.

        host: the address of this host at which it listens.
        """
        self.close()
        self._store = HorovodStore(self._loop, host)
        return self._store.address, self._store.port

    def close(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None

    def make_world(self, num_workers: int, on_timeout: Callable[[], None]) -> ElasticWorld:
        """Return the elastic world of the attempt whose store is open."""
        assert self._store is not None
        return ElasticWorld(self._store, self._loop, num_workers, self._timeout_s, on_timeout)
