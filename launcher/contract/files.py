"""Every file name of a run. Nobody else builds one.

    <run dir>/logs/rank_00.out  rank_00.err        what each rank wrote, byte for byte (attempt 0)
    <run dir>/logs/rank_00.log                     both of these in the order of arrival
    <run dir>/logs/attempt_1/rank_00.out           the same after the first restart
    <run dir>/logs/rank_01.1.out                   of the first replacement in this attempt
    <run dir>/errors/attempt_0/rank_00.json        the exception that a rank left
    <run dir>/errors/attempt_0/rank_00.json.torch  the one that torch's @record left
    <run dir>/errors/attempt_0/rank_00.json.beat   whose time is that of the rank's last heartbeat
    <run dir>/errors/attempt_0/rank_00.json.joined whose time is when launcher.init() had joined
    <run dir>/errors/attempt_0/rank_00.json.stacks where the rank stood, when it was asked
    <run dir>/report.json                          the failure report, when the run failed
    <run dir>/plan.json  end.json  timeline.json   what is done, how it ended, what was when
    <run dir>/notify.log                           output of --on-failure and --on-end
    <run dir>/slurm_job                            the Slurm job and step whose run it is
    <run dir>/logs/requeue_1/rank_00.out           what is above, after the job was requeued: in
    <run dir>/errors/requeue_1/attempt_0           folders of its own
    <run dir>/report.before_requeue_1.json         the report of what came before

Of the three, node 1 has plan_1.json and so on: nodes may share the folder.

A worker knows only its error file, and makes the other four names from that one. Makes names,
touches nothing.
"""

from __future__ import annotations

import os.path
import signal
from typing import NamedTuple


class RunPaths(NamedTuple):
    """The file names of one run."""

    run_dir: str
    # Where the logs are: <run_dir>/logs, or a folder under --log-dir.
    logs: str
    # How many ranks the run has: decides how many digits a file name gets.
    world_size: int
    # How often Slurm has started the run's job again.
    requeues: int = 0

    def _rank_name(self, rank: int, replacement: int) -> str:
        width = max(2, len(str(self.world_size - 1)))
        return f"rank_{rank:0{width}d}" + (f".{replacement}" if replacement else "")

    @property
    def _requeue(self) -> list[str]:
        return [f"requeue_{self.requeues}"] if self.requeues else []

    def log_dir(self, attempt: int) -> str:
        return os.path.join(self.logs, *self._requeue, *([f"attempt_{attempt}"] if attempt else []))

    def log(self, attempt: int, rank: int, stream: str, replacement: int = 0) -> str:
        """Return the log file of a rank; `stream` is `out` or `err`, or `log` for both.

        Replacements of lost workers count from 1.
        """
        return os.path.join(self.log_dir(attempt), f"{self._rank_name(rank, replacement)}.{stream}")

    def filtered_log(self, attempt: int, stream: str) -> str:
        """Return the file for the lines that a --duplicate-...-filters option selects.

        Its name is torchrun's.
        """
        return os.path.join(self.log_dir(attempt), f"filtered_std{stream}.log")

    def error_dir(self, attempt: int) -> str:
        return os.path.join(self.run_dir, "errors", *self._requeue, f"attempt_{attempt}")

    def error_file(self, attempt: int, rank: int, replacement: int = 0) -> str:
        return os.path.join(self.error_dir(attempt), f"{self._rank_name(rank, replacement)}.json")

    @property
    def report(self) -> str:
        return os.path.join(self.run_dir, "report.json")

    @property
    def notify_log(self) -> str:
        return os.path.join(self.run_dir, "notify.log")

    def plan(self, node: int) -> str:
        return self._of_node("plan", node)

    def end(self, node: int) -> str:
        return self._of_node("end", node)

    def timeline(self, node: int) -> str:
        return self._of_node("timeline", node)

    def _of_node(self, name: str, node: int) -> str:
        return os.path.join(self.run_dir, f"{name}_{node}.json" if node else f"{name}.json")

    @property
    def old_report(self) -> str:
        """The report of what came before the last requeue."""
        return os.path.join(self.run_dir, f"report.before_requeue_{self.requeues}.json")

    @property
    def slurm_job(self) -> str:
        return os.path.join(self.run_dir, "slurm_job")


def torch_error_file(error_file: str) -> str:
    """Return where torch's @record leaves an exception.

    It is not in our own file, because the two are written at different moments.
    """
    return error_file + ".torch"


def heartbeat_file(error_file: str) -> str:
    """Return the file whose time a worker sets with each heartbeat."""
    return error_file + ".beat"


def joined_file(error_file: str) -> str:
    """Return the file whose time a worker sets when launcher.init() has joined the ranks."""
    return error_file + ".joined"


def stack_file(error_file: str) -> str:
    """Return where a worker writes its stacks when it gets STACK_SIGNAL."""
    return error_file + ".stacks"


# A real-time signal that neither Python, nor NCCL, nor the profilers that we know of use.
STACK_SIGNAL = signal.SIGRTMAX - 3
