"""Notices that a run stands still: no output and no CPU time, or a rank's heartbeat has stopped.

Pure: what was measured and the time are arguments. Who measures is in attempt/watch.py; who stops
the attempt, in attempt/group.py.
"""

from __future__ import annotations

from launcher.named import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from launcher.diagnosis.stacks import RankStack

# Without --hang-timeout, one warning after this long.
WARN_AFTER_S = 300.0

# A worker that waits still uses a little CPU (timers, monitoring threads): less than this share of
# a CPU is no progress.
_IDLE_CPU_SHARE = 0.02
_IDLE_CPU_S = 0.05


class Progress(NamedTuple):
    """What the ranks of a node have done so far, all together."""

    output_bytes: int
    cpu_s: float
    # Age of the oldest heartbeat of any rank in seconds; None when the script uses none.
    oldest_heartbeat_s: float | None


class Hang(NamedTuple):
    """All ranks have stood still for too long."""

    # Where each running rank was.
    where: tuple[RankStack, ...]
    # For how long, in seconds.
    still_s: float
    # Of a rank that stands alone while the others wait for it; None when nobody stands out.
    odd_rank: int | None = None
    # Who is waited for, in Horovod's words; "" when it was we who found that nothing moves.
    waits_for: str = ""

    def summary(self) -> str:
        """Return what stands still, without the places: `nothing has moved for 30 s`."""
        if not self.waits_for:
            return f"nothing has moved for {self.still_s:.0f} s"
        return f"Horovod has waited for {self.still_s:.0f} s for {self.waits_for}"


class HangWatch:
    """Remembers since when nothing has moved."""

    def __init__(self, now: float, num_workers: int) -> None:
        self._num_workers = num_workers
        self._last: Progress | None = None
        self._still_since = self._began = now

    def restart(self, now: float) -> None:
        """Begin to count anew, for instance after the whole job was stopped and continued."""
        self._last = None
        self._still_since = self._began = now

    def still_for(self, progress: Progress, now: float) -> float:
        """Return for how many seconds the run has stood still."""
        if progress.oldest_heartbeat_s is not None:
            return min(progress.oldest_heartbeat_s, now - self._began)
        if self._last is None or self._has_moved(self._last, progress, now - self._still_since):
            self._last = progress
            self._still_since = now
        return now - self._still_since

    def _has_moved(self, before: Progress, now: Progress, seconds: float) -> bool:
        idle_cpu_s = _IDLE_CPU_S + _IDLE_CPU_SHARE * self._num_workers * seconds
        # It also moves when the sum falls: a process has ended.
        return now.output_bytes != before.output_bytes or abs(now.cpu_s - before.cpu_s) > idle_cpu_s


def look_interval_s(timeout_s: float) -> float:
    """Return how often to look: often enough to be in time, rarely enough to cost nothing."""
    return min(5.0, max(0.1, timeout_s / 10)) if timeout_s else 60.0
