"""The world of elastic Horovod in one attempt: who is waited for, how long, who gets which rank.

Horovod's own driver would give up the whole machine with the first worker that is lost on it. Who
may go on is decided in roster.py; here the store holds requests and answers them, and the time to
meet is limited. What becomes of lost workers is their owner's business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from launcher.horovod.roster import Roster
from launcher.horovod.store import HorovodStore
from launcher.system.loop import Loop


class ElasticWorld:
    """The meetings of one attempt's workers, by local rank; `end` forgets them."""

    def __init__(
        self,
        store: HorovodStore,
        loop: Loop,
        num_workers: int,
        timeout_s: float,
        on_timeout: Callable[[], None],
    ) -> None:
        """`on_timeout` is called when workers have waited for others for `timeout_s`."""
        self._store = store
        self._loop = loop
        self._on_timeout = on_timeout
        self._is_timed = False
        self.timeout_s = timeout_s
        self.roster = Roster(num_workers)
        self._expect(range(num_workers))

    def ask(self, local_rank: int) -> None:
        """Note that a worker waits for its rank among those that are left, or is a newcomer."""
        self.roster.ask(local_rank)
        self.limit_time()

    def limit_time(self) -> None:
        """Let the time to meet run from now on, unless it is running already."""
        if not self._is_timed:
            self._is_timed = True
            self._loop.set_timer(self._run_out_of_time, self.timeout_s)

    def admit(self) -> bool:
        """Let all go on if they have met, and tell whether they do."""
        if not self.roster.admit():
            return False
        self.end()
        self._store.admit(dict(enumerate(self.roster.ranks)))
        return True

    def invite(self) -> list[int]:
        """Return the local ranks to be started anew; their requests are held from now on."""
        newcomers = self.roster.invite()
        self._expect(newcomers)
        return newcomers

    def end(self) -> None:
        """Forget the time limit."""
        self._is_timed = False
        self._loop.cancel_timer(self._run_out_of_time)

    def _expect(self, newcomers: Iterable[int]) -> None:
        self._store.expect({local_rank: self.roster.ranks[local_rank] for local_rank in newcomers})

    def _run_out_of_time(self) -> None:
        self._is_timed = False
        self._on_timeout()
