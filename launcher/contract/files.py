"""Every file name of a run. Nobody else builds one.

    <run dir>/logs/rank_00.out  rank_00.err        what each rank wrote, byte for byte (attempt 0)
    <run dir>/logs/rank_00.log                     both of these in the order of arrival
    <run dir>/logs/attempt_1/rank_00.out           the same after the first restart
    <run dir>/logs/times.txt                       when lines came; of node 1: times_1.txt
    <run dir>/logs/rank_01.1.out                   of the first replacement in this attempt
    <run dir>/errors/attempt_0/rank_00.json        the exception that a rank left
    <run dir>/errors/attempt_0/rank_00.json.torch  the one that torch's @record left
    <run dir>/errors/attempt_0/rank_00.json.beat   whose time is that of the rank's last heartbeat
    <run dir>/errors/attempt_0/rank_00.json.pace   its last figures, when it has closed its context
    <run dir>/resources.jsonl                      what the ranks used; of node 1: resources_1.jsonl
    <run dir>/errors/attempt_0/rank_00.json.joined whose time is when launcher.init() had joined
    <run dir>/errors/attempt_0/rank_00.json.stacks where the rank stood, when it was asked
    <run dir>/report.json                          the failure report, when the run failed
    <run dir>/plan.json  end.json  timeline.json   what is done, how it ended, what was when
    <run dir>/notify.log                           output of --on-failure and --on-end
    <run dir>/slurm_job                            the Slurm job and step whose run it is
    <run dir>/before_requeue_1                     all of the above as it was when Slurm requeued it

Of the three, node 1 has plan_1.json and so on: nodes may share the folder.

A worker knows only its error file, and makes the other five names from that one. Makes names,
touches nothing.
"""

from __future__ import annotations

import os.path

from launcher.named import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
else:
    import _signal as signal  # `signal` makes enumerations of it, which takes a rank 2 ms


class RunPaths(NamedTuple):
    """The file names of one run."""

    run_dir: str
    # Where the logs are: <run_dir>/logs, or a folder under --log-dir.
    logs: str
    # How many ranks the run has: decides how many digits a file name gets.
    world_size: int

    def _rank_name(self, rank: int, replacement: int) -> str:
        width = max(2, len(str(self.world_size - 1)))
        return f"rank_{rank:0{width}d}" + (f".{replacement}" if replacement else "")

    def log_dir(self, attempt: int) -> str:
        return self.logs if attempt == 0 else os.path.join(self.logs, f"attempt_{attempt}")

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

    def times(self, attempt: int, node_rank: int) -> str:
        """Return the file in which a node notes when its ranks wrote lines."""
        return os.path.join(
            self.log_dir(attempt), f"times_{node_rank}.txt" if node_rank else "times.txt"
        )

    def error_dir(self, attempt: int) -> str:
        return os.path.join(self.run_dir, "errors", f"attempt_{attempt}")

    def error_file(self, attempt: int, rank: int, replacement: int = 0) -> str:
        return os.path.join(self.error_dir(attempt), f"{self._rank_name(rank, replacement)}.json")

    @property
    def report(self) -> str:
        return os.path.join(self.run_dir, "report.json")

    def resources(self, node_rank: int) -> str:
        """Return the file for what the ranks of a node use; nodes may share the folder."""
        name = f"resources_{node_rank}.jsonl" if node_rank else "resources.jsonl"
        return os.path.join(self.run_dir, name)

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
    def slurm_job(self) -> str:
        return os.path.join(self.run_dir, "slurm_job")


def is_own(name: str) -> bool:
    """Tell whether something in a run's folder is of the launcher's; scripts may put things there.

    What says whose folder it is does not count.
    """
    stem, dot, ending = name.partition(".")
    of_node = stem.rstrip("0123456789").rstrip("_")
    return name in ("logs", "errors", "report.json", "notify.log") or (
        of_node in ("plan", "end", "timeline") and dot + ending == ".json"
    )


def before_requeue(folder: str, number: int) -> str:
    """Return where lies what a folder had before the job was requeued for this time."""
    return os.path.join(folder, f"before_requeue_{number}")


def torch_error_file(error_file: str) -> str:
    """Return where torch's @record leaves an exception.

    It is not in our own file, because the two are written at different moments.
    """
    return error_file + ".torch"


def heartbeat_file(error_file: str) -> str:
    """Return the file whose time a worker sets with each heartbeat."""
    return error_file + ".beat"


def pace_file(error_file: str) -> str:
    """Return where a worker leaves its steps when it will have no more heartbeats."""
    return error_file + ".pace"


def joined_file(error_file: str) -> str:
    """Return the file whose time a worker sets when launcher.init() has joined the ranks."""
    return error_file + ".joined"


def stack_file(error_file: str) -> str:
    """Return where a worker writes its stacks when it gets STACK_SIGNAL."""
    return error_file + ".stacks"


# A real-time signal that neither Python, nor NCCL, nor the profilers that we know of use.
STACK_SIGNAL = signal.SIGRTMAX - 3
