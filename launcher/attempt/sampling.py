"""Looks every two seconds at what the workers of this node use, and keeps the figures.

They go into `resources.jsonl`, to `launcher.ctl`, and into the summary of `--stats`: of a run that
fails, in front of the report, as far as its ranks have come by then. How to look is loaded when the
first look is due: a short run does not pay for it.
"""

from __future__ import annotations

from collections.abc import Sequence

from launcher.attempt.worker import Worker
from launcher.output.console import Console
from launcher.output.files import LogFile
from launcher.plan.plan import LaunchPlan
from launcher.system.loop import Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from launcher.stats.figures import RankUse, Sample
    from launcher.stats.sampler import NodeSampler, Target

INTERVAL_S = 2.0

# With --stats a short run is looked at, too: the first look comes after this, each next one after
# twice the time, up to the interval.
_FIRST_S = 0.1

# Who asks gets the last look unless it is older.
_FRESH_S = 1.0

# How old a run is -> how often a line is written, for it may run for weeks: 1.4 kB for 8 ranks.
_WRITE_EVERY_S = ((600.0, INTERVAL_S), (6 * 3600.0, 10.0), (float("inf"), 60.0))


class Sampling:
    """What the workers of this node use, in all attempts of a launch."""

    def __init__(self, loop: Loop, console: Console, host: str, *, has_summary: bool) -> None:
        self._loop = loop
        self._console = console
        self._host = host
        self._has_summary = has_summary
        self._workers: Sequence[Worker] = ()
        self._plan: LaunchPlan | None = None
        self._sampler: NodeSampler | None = None
        self._sample: Sample | None = None
        self._file: LogFile | None = None
        self._opened_at = loop.clock()
        self._began_at = self._sampled_at = self._write_at = 0.0
        self._delay_s = INTERVAL_S
        self._ended: dict[Worker, RankUse] = {}

    def begin(self, workers: Sequence[Worker], plan: LaunchPlan) -> None:
        """Look at these workers from now on; the list changes when one is replaced."""
        self._workers, self._plan = workers, plan
        self._ended = {}
        self._sample = None
        self._began_at = self._loop.clock()
        self._delay_s = _FIRST_S if self._has_summary else INTERVAL_S
        self._loop.set_timer(self._look_again, self._delay_s)

    def end(self) -> None:
        """Look no more: the attempt is over."""
        self._loop.cancel_timer(self._look_again)

    def close(self) -> None:
        """Close the file: the launch is over."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def note_end(self, worker: Worker) -> None:
        """Take the last figures of a worker that has just ended, while the kernel has them."""
        if worker.pid and (self._sampler is not None or self._has_summary):
            self._ended[worker] = self._get_sampler().last_look(_target(worker))

    def latest(self) -> Sample | None:
        """Return a look that is no older than a second; None when there are no workers."""
        if self._plan is None or not any(worker.is_running for worker in self._workers):
            return None
        if self._sample is None or self._loop.clock() - self._sampled_at > _FRESH_S:
            self._look()
        return self._sample

    def show_summary(self) -> None:
        """Print what the ranks of the last attempt have used, if that is wanted, and only once."""
        if not self._has_summary:
            return
        self._has_summary = False
        used = {**self._ended, **self._look_at_running()}
        if not used:
            return
        from launcher.stats.render import render_summary

        workers = sorted(used, key=lambda worker: worker.plan.rank)
        uses = [
            used[worker]._replace(peak=max(used[worker].peak, (worker.peak_kib or 0) << 10))
            for worker in workers
        ]
        now = self._loop.clock()
        seconds = [(worker.ended_at or now) - self._began_at for worker in workers]
        self._console.print_err(f"{render_summary(uses, seconds, self._host)}\n")

    def _look_at_running(self) -> dict[Worker, RankUse]:
        running = {worker.plan.rank: worker for worker in self._workers if worker.is_running}
        if not running:
            return {}
        self._look()
        ranks = self._sample.ranks if self._sample else ()
        return {running[use.rank]: use for use in ranks}

    def _look_again(self) -> None:
        self._delay_s = min(INTERVAL_S, 2 * self._delay_s)
        self._loop.set_timer(self._look_again, self._delay_s)
        self._look()
        if self._sample is not None and self._sample.ranks:
            self._write(self._sample)

    def _look(self) -> None:
        assert self._plan is not None
        targets = [_target(worker) for worker in self._workers if worker.is_running]
        self._sample, news = self._get_sampler().look(targets, self._plan.attempt)
        self._sampled_at = self._loop.clock()
        for text in news:
            self._console.say(text)

    def _get_sampler(self) -> NodeSampler:
        if self._sampler is None:
            from launcher.stats.sampler import NodeSampler

            self._sampler = NodeSampler(self._host, self._loop.clock)
        return self._sampler

    def _write(self, sample: Sample) -> None:
        now = self._loop.clock()
        if now < self._write_at or self._plan is None or self._plan.paths is None:
            return
        age_s = now - self._opened_at
        every_s = next(every_s for limit_s, every_s in _WRITE_EVERY_S if age_s < limit_s)
        self._write_at = now + every_s - INTERVAL_S / 2  # no look comes exactly in time
        if self._file is None:
            path = self._plan.paths.resources(self._plan.assignment.places[0].node_rank)
            try:
                self._file = LogFile(path, self._console)
            except OSError as error:
                self._write_at = float("inf")
                self._console.say(f"cannot write {path}: {error.strerror}; the run goes on")
                return
        self._file.write(sample.to_json().encode() + b"\n")


def _target(worker: Worker) -> Target:
    from launcher.stats.sampler import Target

    return Target(worker.plan.rank, worker.pid, worker.plan.error_file)
