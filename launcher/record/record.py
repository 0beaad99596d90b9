"""What happens in a run, kept as it happens: for programs that follow it, and for its end.

Everything is said once, by `note`. `--events` hands it on at once; `timeline.json` and `end.json`
are made of all of it when the run has ended. A file that cannot be written is left out: nothing
here may harm a run.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress

from launcher import __version__
from launcher.contract.files import joined_file
from launcher.exits import describe, shell_code, signal_name
from launcher.record.happening import Happening
from launcher.system.files import write_whole
from launcher.system.loop import Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from launcher.diagnosis.report import LaunchResult
    from launcher.nodes.restart import Verdict
    from launcher.options.spec import LaunchSpec
    from launcher.plan.node import NodeFacts
    from launcher.plan.plan import LaunchPlan, WorkerPlan
    from launcher.record.follower import Follower

# Of the events and of every file that is written here.
VERSION = 1

# A run that restarts for months must not fill the memory: then the oldest are forgotten.
_MOST_HAPPENINGS = 50_000

# An event is one line: of a longer message, report.json has the rest.
_LONGEST_MESSAGE = 1000


class Record:
    """What has happened in one run on this node."""

    def __init__(self, loop: Loop, events_fd: int | None = None) -> None:
        """events_fd: where each event is told of at once."""
        self._loop = loop
        self._follower: Follower | None = None
        if events_fd is not None:
            from launcher.record.follower import Follower

            self._follower = Follower(events_fd, loop)
        # The clock of the wall may be set while the run goes on: it is asked once.
        self._began_at = time.time() - loop.clock()
        self.started_at = self._began_at + loop.clock()
        self.happenings: list[Happening] = []
        self._plan: LaunchPlan | None = None
        self._spec: LaunchSpec | None = None
        self._facts: NodeFacts | None = None
        # World size, nodes, our number among them, and their hosts, as plan.json has them.
        self._layout: tuple[object, ...] = ()
        self._has_plan = False
        # Of the ranks in the last attempt, in bytes.
        self._peaks: dict[int, int] = {}

    def note(self, name: str, **fields: Any) -> None:
        """Take down what has happened now."""
        happening = Happening(self._began_at + self._loop.clock(), name, fields)
        if len(self.happenings) >= _MOST_HAPPENINGS:
            del self.happenings[1 : _MOST_HAPPENINGS // 2]
        self.happenings.append(happening)
        if self._follower is not None:
            self._follower.tell({"event": name, "time": round(happening.at, 6), **fields})

    def begin_attempt(self, plan: LaunchPlan, spec: LaunchSpec, facts: NodeFacts) -> None:
        """Take down that the ranks of a plan are going to be started."""
        assignment = plan.assignment
        if self._plan is None:
            self.note("run", version=VERSION, **_describe_run(plan, facts))
        self._plan, self._spec, self._facts = plan, spec, facts
        self._peaks.clear()
        num_nodes = assignment.num_nodes or 1
        layout = (assignment.world_size, num_nodes, self.node, assignment.hosts)
        self.note(
            "attempt",
            attempt=plan.attempt,
            world_size=assignment.world_size,
            nodes=num_nodes,
            node=assignment.places[0].node_rank,
            ranks=[place.rank for place in assignment.places],
        )
        if layout != self._layout:
            self._layout = layout
            # Once the ranks, or what imports for them, have been started: they need not wait.
            self._loop.set_timer(self._write_plan, 0.0)

    def _write_plan(self) -> None:
        assert self._plan is not None and self._spec is not None and self._facts is not None
        paths = self._plan.paths
        if paths is None:
            return
        from launcher.record.plan_file import make_plan_file
        from launcher.runs.folder import link_latest

        self._has_plan = True
        about = {
            "version": VERSION,
            **_describe_run(self._plan, self._facts),
            "name": os.path.basename(paths.run_dir),
            "log_dir": paths.logs,
            "launcher": __version__,
            "started": round(self.started_at, 6),
        }
        with suppress(OSError):
            os.unlink(paths.end(self.node))  # of what came before a job was requeued
        argv, environ = self._spec.to_argv(), self._facts.environ
        whole = make_plan_file(self._plan, argv, environ, about)
        write_whole(paths.plan(self.node), json.dumps(whole, indent=1))
        link_latest(paths)

    def note_start(self, worker: WorkerPlan, pid: int) -> None:
        """Take down that a rank has a process."""
        self.note("rank_started", attempt=self._attempt, rank=worker.rank, pid=pid)

    def note_output(self, rank: int) -> None:
        """Take down that a rank has written something for the first time."""
        self.note("first_output", attempt=self._attempt, rank=rank)

    def note_exit(self, worker: WorkerPlan, pid: int, returncode: int) -> None:
        """Take down how a rank has ended, and when it had joined the others, if it says so."""
        joined_at = _joined_at(worker.error_file)
        self.note(
            "rank_ended",
            attempt=self._attempt,
            rank=worker.rank,
            pid=pid,
            exit_code=shell_code(returncode),
            how=describe(returncode, guess=False),
            **({"joined": round(joined_at, 6)} if joined_at else {}),
        )

    def note_peak(self, rank: int, peak_kib: int | None) -> None:
        """Take down the most memory that a rank has had in use; None where nobody knows."""
        if peak_kib is not None:
            self._peaks[rank] = peak_kib << 10

    def note_verdict(self, verdict: Verdict) -> None:
        """Take down why an attempt has failed, if it has, and whether another one follows."""
        report = verdict.report
        if report is not None:
            self.note(
                "failure",
                attempt=report.attempt,
                rank=report.rank,
                hostname=report.hostname,
                exit_code=report.exit_code,
                what=report.what,
                error_type=report.error_type,
                error_message=report.error_message[:_LONGEST_MESSAGE],
                summary=report.summary(),
            )
        if verdict.action == "restart":
            self.note("restart", attempt=self._attempt + 1, delay_s=round(verdict.delay_s, 3))

    def end(self, result: LaunchResult, signum: int | None) -> None:
        """Take down the end of the run, and write its files.

        signum: the signal that has stopped it, if one has.
        """
        status, reason = _explain(result, signum)
        self.note(
            "end",
            status=status,
            exit_code=result.exit_code,
            reason=reason,
            attempts=result.attempts,
        )
        ended = self.happenings[-1]
        paths = self._plan.paths if self._plan else None
        if self._plan is None or paths is None:
            return
        if not self._has_plan:
            self._write_plan()
        from launcher.record.timeline import make_timeline, rank_times

        write_whole(paths.timeline(self.node), json.dumps(make_timeline(self.happenings)))
        ranks = rank_times(self.happenings, self._plan.attempt)
        for rank, entry in ranks.items():
            entry["peak_bytes"] = self._peaks.get(rank)
        whole = {
            "version": VERSION,
            **ended.fields,
            "started": round(self.started_at, 6),
            "ended": round(ended.at, 6),
            "duration_s": round(ended.at - self.started_at, 6),
            "node": self.node,
            "nodes": self._plan.assignment.num_nodes or 1,
            "report": paths.report if result.report and os.path.exists(paths.report) else None,
            "ranks": [ranks[rank] for rank in sorted(ranks)],
        }
        write_whole(paths.end(self.node), json.dumps(whole, indent=1))

    def close(self) -> None:
        """End what is under way; let the follower have what it has not read yet, for a moment."""
        self._loop.cancel_timer(self._write_plan)
        if self._follower is not None:
            self._follower.close()

    @property
    def node(self) -> int:
        """The number in the files' names: nodes may share the folder."""
        if self._plan is None or self._facts is None or self._facts.nodes is None:
            return 0
        return self._plan.assignment.places[0].node_rank

    @property
    def _attempt(self) -> int:
        return self._plan.attempt if self._plan else 0


def _explain(result: LaunchResult, signum: int | None) -> tuple[str, str]:
    """Return how a run has ended: `succeeded`, `failed` or `stopped`, and why."""
    if result.error is not None:
        return "failed", str(result.error)
    if result.report is not None:
        return "failed", result.report.summary()
    if signum is not None:
        return "stopped", f"the launcher was sent {signal_name(signum)}"
    if result.exit_code:
        return "failed", f"exit code {result.exit_code}"
    return "succeeded", "all ranks have ended well"


def _describe_run(plan: LaunchPlan, facts: NodeFacts) -> dict[str, Any]:
    return {
        "run_id": facts.run_id,
        "run_dir": plan.paths.run_dir if plan.paths else None,
        "hostname": facts.hostname,
        "pid": os.getpid(),
    }


def _joined_at(error_file: str | None) -> float:
    """Return when a rank's launcher.init() had brought it together with the others; 0: unknown."""
    if error_file is None:
        return 0.0
    try:
        return os.stat(joined_file(error_file)).st_mtime
    except OSError:
        return 0.0
