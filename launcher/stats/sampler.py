"""Looks at the ranks of a node: their process trees, their heartbeats, and the node around them.

What is looked at is chosen by its price. Each look reads two small files for each process. Which
processes a rank has is asked at every fifth look; the memory that processes share, for one of them
now and then, because the kernel then looks at every page.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from launcher.contract import pace
from launcher.contract.files import heartbeat_file, pace_file
from launcher.named import NamedTuple
from launcher.stats.figures import GpuUse, NodeUse, RankUse, Sample
from launcher.stats.fullness import Fullness
from launcher.system import usage
from launcher.system.machine import usable_cpus, visible_gpus
from launcher.system.processes import descendants

TYPE_CHECKING = False
if TYPE_CHECKING:
    from launcher.stats.gpu import Gpus

# Data workers come and go with the epochs: a tree is looked up once in so many looks.
_TREE_EVERY = 5

# Dear questions may take this share of a CPU, each of its kind; and one that holds us up for so
# long is not asked again.
_DEAR_SHARE = 0.002
_TOO_DEAR_S = 0.03

# The rate of steps is that of so many looks.
_RATE_LOOKS = 6

# So many of the compared steps wait for the moment of a rank that is behind.
_MOST_MARKS = 32


class Target(NamedTuple):
    """A rank that runs."""

    rank: int
    pid: int
    error_file: str | None


class NodeSampler:
    """Looks at the ranks of this node, and remembers what must be compared with the next look."""

    def __init__(
        self,
        host: str,
        clock: Callable[[], float] = time.monotonic,
        gauge: usage.MemoryGauge | None = None,
        gpus: Gpus | None = None,
    ) -> None:
        """`gauge` and `gpus` are this machine's unless they are given."""
        self._host = host
        self._clock = clock
        self._gauge = gauge or usage.MemoryGauge()
        self._gpus = gpus or _find_gpus()
        self._gpu_look: tuple[tuple[GpuUse, ...], dict[int, int]] = ((), {})
        self._gpus_due_at = self._pss_due_at = 0.0
        self._accounts: dict[int, _Account] = {}
        self._race = _Race()
        self._fullness = Fullness()
        self._num_looks = 0
        self._num_cpus = usable_cpus()
        self._busy_s, self._looked_at = usage.busy_cpu_seconds(), clock()

    def look(self, targets: Sequence[Target], attempt: int) -> tuple[Sample, list[str]]:
        """Return what these ranks and the node use, and what the user is to know of it."""
        now = self._clock()
        self._accounts = {target.pid: self._account(target, now) for target in targets}
        self._num_looks += 1
        gpus, gpu_bytes = self._look_at_gpus(now)
        accounts = self._accounts.values()
        for number, account in enumerate(accounts):
            if (self._num_looks + number) % _TREE_EVERY == 0 or not account.tree:
                account.tree = [account.pid, *descendants(account.pid)]
            account.look(now)
        self._look_at_shared(now)
        self._race.compare({account.pid: account.marks for account in accounts})
        ranks = tuple(
            account.use(gpu_bytes, self._race.mean_late_s(account.pid)) for account in accounts
        )
        memory, is_cgroup = self._gauge.read()
        shm = usage.shared_memory()
        node = NodeUse(
            self._host,
            self._busy_cpus(now),
            self._num_cpus,
            memory.used,
            memory.size,
            shm.used,
            shm.size,
            gpus,
        )
        news = self._fullness.check(memory, shm, ranks, is_cgroup=is_cgroup)
        return Sample(time.time(), attempt, node, ranks), news

    def last_look(self, target: Target) -> RankUse:
        """Return what a rank has used that has just ended, and whose process id is not free yet."""
        now = self._clock()
        account = self._account(target, now)
        account.tree = [target.pid]
        account.look(now)
        self._race.compare({pid: each.marks for pid, each in self._accounts.items()})
        return account.use({}, self._race.mean_late_s(target.pid))

    def _account(self, target: Target, now: float) -> _Account:
        account = self._accounts.get(target.pid)
        if account is None or account.rank != target.rank:
            return _Account(target, now)
        return account

    def _busy_cpus(self, now: float) -> float:
        busy_s = usage.busy_cpu_seconds()
        cpus = (busy_s - self._busy_s) / max(now - self._looked_at, 0.01)
        self._busy_s, self._looked_at = busy_s, now
        return round(cpus, 2)

    def _look_at_shared(self, now: float) -> None:
        """Ask for the shared memory of one process: that which was asked longest ago."""
        if now < self._pss_due_at:
            return
        pairs = [
            (account, pid)
            for account in self._accounts.values()
            for pid in account.tree
            if pid not in account.too_dear
        ]
        if not pairs:
            return
        account, pid = min(pairs, key=lambda pair: pair[0].pss_asked_at.get(pair[1], 0.0))
        began = time.perf_counter()
        found = usage.proportional_bytes(pid)
        took_s = time.perf_counter() - began
        self._pss_due_at = now + took_s / _DEAR_SHARE
        account.pss_asked_at[pid] = now
        account.pss[pid] = found
        if took_s > _TOO_DEAR_S:
            account.too_dear.add(pid)
            account.pss[pid] = None  # it would never be renewed

    def _look_at_gpus(self, now: float) -> tuple[tuple[GpuUse, ...], dict[int, int]]:
        if self._gpus is not None and now >= self._gpus_due_at:
            began = time.perf_counter()
            self._gpu_look = self._gpus.look()
            self._gpus_due_at = now + (time.perf_counter() - began) / _DEAR_SHARE
        return self._gpu_look


def _find_gpus() -> Gpus | None:
    if not visible_gpus({}):
        return None
    from launcher.stats.gpu import open_gpus

    return open_gpus()


class _Account:
    """What is known of one rank's processes."""

    def __init__(self, target: Target, now: float) -> None:
        self.rank, self.pid = target.rank, target.pid
        self._error_file = target.error_file
        self.tree: list[int] = []
        # Process -> the memory that is its part, and when asked; which ones cost too much.
        self.pss: dict[int, int | None] = {}
        self.too_dear: set[int] = set()
        self.pss_asked_at: dict[int, float] = {}
        self.marks: dict[int, float] = {}
        self._pace: pace.Pace | None = None
        self._steps: deque[tuple[float, int]] = deque(maxlen=_RATE_LOOKS)
        # Process -> bytes read and written; those that have ended stay.
        self._io: dict[int, tuple[int, int]] = {}
        self._cpu_s = self._cpus = 0.0
        self._rss = self._peak = self._threads = 0
        self._looked_at = now

    def look(self, now: float) -> None:
        uses = {pid: use for pid in self.tree if (use := usage.process_use(pid)) is not None}
        self.tree = list(uses)
        cpu_s = sum(use.cpu_s for use in uses.values())
        # A process that ends hands its time to its parent, a moment later.
        passed_s = now - self._looked_at
        if passed_s > 0:
            self._cpus = max(0.0, cpu_s - self._cpu_s) / passed_s
        self._cpu_s, self._looked_at = max(cpu_s, self._cpu_s), now
        self._rss = sum(use.rss for use in uses.values())
        self._peak = max(self._peak, self._rss)
        self._threads = sum(use.threads for use in uses.values())
        for pid, use in uses.items():
            if use.read or use.written:
                self._io[pid] = (use.read, use.written)
        self._look_at_pace(now)

    def use(self, gpu_bytes: dict[int, int], late_s: float | None) -> RankUse:
        """Return the figures."""
        on_gpus = [gpu_bytes[pid] for pid in self.tree if pid in gpu_bytes]
        return RankUse(
            rank=self.rank,
            pid=self.pid,
            cpu_s=round(self._cpu_s, 2),
            cpus=round(self._cpus, 3),
            rss=self._rss,
            pss=self._shared(),
            peak=self._peak,
            threads=self._threads,
            processes=len(self.tree),
            read=sum(read for read, _ in self._io.values()),
            written=sum(written for _, written in self._io.values()),
            gpu=sum(on_gpus) if on_gpus else None,
            steps=self._pace.steps if self._pace else None,
            steps_per_s=self._rate(),
            waited_s=self._pace.waited_s if self._pace else None,
            late_s=late_s,
        )

    def _shared(self) -> int | None:
        known = [self.pss.get(pid) for pid in self.tree]
        figures = [figure for figure in known if figure is not None]
        return sum(figures) if figures and len(figures) == len(known) else None

    def _look_at_pace(self, now: float) -> None:
        found = _read_pace(self._error_file)
        if found is not None:
            self._pace, self.marks = found, found.marks
        if self._pace is not None:
            self._steps.append((now, self._pace.steps))

    def _rate(self) -> float | None:
        if len(self._steps) < 2:
            return None
        (began, first), (ended, last) = self._steps[0], self._steps[-1]
        return round((last - first) / max(ended - began, 0.01), 3)


class _Race:
    """Compares when the ranks came to the same steps; their moments are those of one clock."""

    def __init__(self) -> None:
        self._waiting: dict[int, dict[int, float]] = {}
        self._newest = 0
        # Process -> how often it was compared, and by how much it was late, all together.
        self._sums: dict[int, tuple[int, float]] = {}

    def compare(self, marks: dict[int, dict[int, float]]) -> None:
        """Take the marks of all ranks, by process."""
        runners = {pid for pid, own in marks.items() if own}
        if len(runners) < 2:
            return
        for pid in runners:
            for step, moment in marks[pid].items():
                if step > self._newest:
                    self._waiting.setdefault(step, {})[pid] = moment
        complete = [step for step, moments in self._waiting.items() if len(moments) == len(runners)]
        for step in complete:
            self._count(self._waiting.pop(step))
            self._newest = max(self._newest, step)
        for step in sorted(self._waiting):
            if step < self._newest or len(self._waiting) > _MOST_MARKS:
                del self._waiting[step]

    def mean_late_s(self, pid: int) -> float | None:
        """Return by how much a rank has come later than the first, on average."""
        count, late_s = self._sums.get(pid, (0, 0.0))
        return round(late_s / count, 4) if count else None

    def _count(self, moments: dict[int, float]) -> None:
        first = min(moments.values())
        for pid, moment in moments.items():
            count, late_s = self._sums.get(pid, (0, 0.0))
            self._sums[pid] = (count + 1, late_s + moment - first)


def _read_pace(error_file: str | None) -> pace.Pace | None:
    """Return how far a rank is; None when it has no heartbeats, or is writing just now."""
    if error_file is None:
        return None
    for path in _pace_files(error_file):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            return pace.decode(os.read(fd, 4096))
        except OSError:
            return None
        finally:
            os.close(fd)
    return None


def _pace_files(error_file: str) -> Iterable[str]:
    return pace_file(error_file), heartbeat_file(error_file)
