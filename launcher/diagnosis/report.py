"""The failure report: who failed first, how, and what it said. Pure: outcome in, text out.

Who failed first is found in cause.py. The values in which a failed run is handed on are here as
well: WorkerFailed for those who called `launcher.launch()`, LaunchResult for the way to them.
"""

from __future__ import annotations

import json

from launcher.diagnosis import stacks
from launcher.diagnosis.cause import (
    early_end,
    in_order_of_blame,
    is_bare_exit,
    is_secondary,
    words_of,
)
from launcher.diagnosis.hints import hint_for
from launcher.errors import LauncherError, SpawnError, UsageError
from launcher.exits import describe, shell_code
from launcher.named import NamedTuple
from launcher.ranks import format_ranks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from launcher.diagnosis.hang import Hang
    from launcher.diagnosis.outcome import AttemptOutcome, WorkerOutcome

# Of report.json.
REPORT_VERSION = 1

# What `timeout` returns, too.
_HANG_EXIT_CODE = 124


class OtherFailure(NamedTuple):
    """Other workers that failed, all in the same way."""

    ranks: tuple[int, ...]
    what: str
    # True when it is the same failure as the first one, on other ranks.
    is_same: bool


class FailureReport(NamedTuple):
    """Why a run failed. Written as report.json, printed by `render`, carried by WorkerFailed."""

    # The worker that failed first; -1 when the failure is the node's, or a hang's.
    rank: int
    pid: int
    hostname: str
    # How it ended, in words; `exit_code` is what the launcher returns.
    what: str
    exit_code: int
    # Of the exception, empty when there was none.
    error_type: str = ""
    error_message: str = ""
    traceback: str = ""
    last_lines: tuple[str, ...] = ()
    log_path: str = ""
    others: tuple[OtherFailure, ...] = ()
    attempt: int = 0
    duration_s: float = 0.0
    run_dir: str | None = None
    # What the kernel knows about the death, and what the error usually means.
    evidence: str = ""
    hint: str = ""
    # Where the ranks were, when they stood still.
    stacks: str = ""
    # One line for each attempt before this one, and why there was no other after it.
    history: tuple[str, ...] = ()
    verdict: str = ""

    def summary(self) -> str:
        """Return the report in one line."""
        subject = f"rank {self.rank}" if self.rank >= 0 else "the run"
        error = f": {self.error_type}: {_first_line(self.error_message)}" if self.error_type else ""
        return f"{subject} failed, {self.what}{error}"

    def attempt_summary(self) -> str:
        """Return the report in one line that also says which attempt failed, and after how long."""
        return f"attempt {self.attempt} ({self.duration_s:.1f} s): {self.summary()}"

    def to_dict(self) -> dict[str, Any]:
        """Return the object that report.json holds."""
        data = {"version": REPORT_VERSION, **self._asdict()}
        data["others"] = [other._asdict() for other in self.others]
        return data

    def to_json(self) -> str:
        """Return the text of report.json."""
        return json.dumps(self.to_dict(), indent=1)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> FailureReport:
        """Return the report that `to_json` wrote, from the parsed object."""
        fields = {name: value for name, value in data.items() if name in cls._fields}
        others = tuple(
            OtherFailure(tuple(other["ranks"]), other["what"], other["is_same"])
            for other in data.get("others", ())
        )
        fields.update(
            others=others,
            last_lines=tuple(data.get("last_lines", ())),
            history=tuple(data.get("history", ())),
        )
        return cls(**fields)


def make_report(outcome: AttemptOutcome, *, hostname: str, run_dir: str | None) -> FailureReport:
    """Choose the first cause of a failed attempt and put the report together."""
    if outcome.hang:
        return _hang_report(outcome, outcome.hang, hostname, run_dir)
    failures = in_order_of_blame(outcome)
    if outcome.node_failure or not failures:
        return _node_report(outcome, hostname, run_dir)
    first, *rest = failures
    error = first.error
    exception = error if error is not None and error.type != "SystemExit" else None
    # What sys.exit was given, when it was a text: a number is the exit code, named already.
    last_words = first.start_failure if is_bare_exit(first) or error is None else error.message
    return FailureReport(
        rank=first.rank,
        pid=first.pid,
        hostname=first.hostname or hostname,
        what=_how(first),
        exit_code=_exit_code(first),
        error_type=exception.type if exception else "",
        error_message=exception.message if exception else last_words,
        traceback=exception.traceback if exception else "",
        last_lines=first.last_lines,
        log_path=first.log_path,
        others=_group_others(first, rest),
        attempt=outcome.attempt,
        duration_s=round(outcome.duration_s, 3),
        run_dir=run_dir,
        evidence=first.evidence,
        hint=hint_for(
            "\n".join(words_of(first)),
            lost_data_worker=error is not None and error.lost_data_worker,
        )
        or early_end(outcome, first),
    )


def _hang_report(
    outcome: AttemptOutcome, hang: Hang, hostname: str, run_dir: str | None
) -> FailureReport:
    odd = hang.odd_rank
    worker = next((worker for worker in outcome.workers if worker.rank == odd), None)
    return FailureReport(
        rank=worker.rank if worker else -1,
        pid=worker.pid if worker else 0,
        hostname=(worker.hostname if worker else "") or hostname,
        what=f"{hang.summary()}: {stacks.summary(hang.where)}",
        exit_code=_HANG_EXIT_CODE,
        log_path=worker.log_path if worker else "",
        attempt=outcome.attempt,
        duration_s=round(outcome.duration_s, 3),
        run_dir=run_dir,
        stacks=stacks.render(hang.where),
    )


def _node_report(outcome: AttemptOutcome, hostname: str, run_dir: str | None) -> FailureReport:
    return FailureReport(
        rank=-1,
        pid=0,
        hostname=hostname,
        what=outcome.node_failure or "workers did not end",
        exit_code=1,
        attempt=outcome.attempt,
        duration_s=round(outcome.duration_s, 3),
        run_dir=run_dir,
    )


def _exit_code(worker: WorkerOutcome) -> int:
    # With an exception on its way out when we stopped it: the code that it would have had.
    is_ours = worker.asked_to_stop_at is not None and worker.error is not None
    if worker.returncode is None or (is_ours and worker.returncode < 0):
        return worker.error.exit_code if worker.error is not None else 1
    return shell_code(worker.returncode)


def _how(worker: WorkerOutcome) -> str:
    if worker.start_failure:
        return worker.start_failure
    if worker.returncode is None or (
        worker.asked_to_stop_at is not None and worker.error is not None
    ):
        return describe(_exit_code(worker))
    return describe(worker.returncode, guess=not worker.evidence)


def _headline(worker: WorkerOutcome) -> str:
    if worker.error is not None and worker.error.type != "SystemExit":
        return f"{worker.error.type}: {_first_line(worker.error.message)}"
    return _how(worker)


def _group_others(first: WorkerOutcome, rest: list[WorkerOutcome]) -> tuple[OtherFailure, ...]:
    groups: dict[str, list[WorkerOutcome]] = {}
    for worker in rest:
        # Those that say only that a peer has gone differ in addresses and port numbers: one line is
        # enough for all.
        groups.setdefault("" if is_secondary(worker) else _headline(worker), []).append(worker)
    return tuple(
        OtherFailure(
            ranks=tuple(sorted(worker.rank for worker in workers)),
            what=what or f"{_headline(workers[0])} (because a peer had gone)",
            is_same=what == _headline(first),
        )
        for what, workers in groups.items()
    )


def _first_line(text: str) -> str:
    line = text.strip().partition("\n")[0]
    return line if len(line) <= 300 else line[:297] + "..."


def render(report: FailureReport, *, colour: bool = False) -> str:
    """Return the report as it is printed: headline, traceback or last lines, where to read on."""
    bold, red, plain = ("\x1b[1m", "\x1b[31m", "\x1b[0m") if colour else ("", "", "")
    where = f"pid {report.pid} on {report.hostname}" if report.pid else f"on {report.hostname}"
    who = f"rank {report.rank} ({where}): " if report.rank >= 0 else ""
    lines = [f"{bold}{red}FAILED{plain}{bold}: {who}{report.what}{plain}"]
    same = [rank for other in report.others if other.is_same for rank in other.ranks]
    if same:
        lines.append(f"  the same on {format_ranks(same)}")
    if report.evidence:
        lines.append(f"  {report.evidence}")
    if report.stacks:
        lines.extend("  " + line for line in report.stacks.split("\n"))
    if report.traceback:
        lines.extend("  " + line for line in _shorten(report.traceback.rstrip("\n").split("\n")))
    elif report.error_message and report.error_message != report.what:
        lines.extend("  " + line for line in _shorten(report.error_message.split("\n")))
    elif report.last_lines:
        lines.append("  last lines:")
        lines.extend("  | " + line for line in _shorten(list(report.last_lines)))
    lines.extend(
        f"  also failed, later: {format_ranks(list(other.ranks))}: {other.what}"
        for other in report.others
        if not other.is_same
    )
    if report.hint:
        lines.append(f"  hint: {report.hint}")
    lines.extend(f"  before: {line}" for line in report.history[-5:])
    if report.verdict:
        lines.append(f"  {report.verdict}")
    if report.log_path:
        lines.append(f"  log: {report.log_path}")
    return "\n".join(lines) + "\n"


def _shorten(lines: list[str], most: int = 60, longest: int = 2000) -> list[str]:
    lines = [
        line if len(line) <= longest else f"{line[:longest]} ... ({len(line) - longest} more)"
        for line in lines
    ]
    if len(lines) <= most:
        return lines
    half = most // 2
    return [*lines[:half], f"... {len(lines) - 2 * half} lines left out ...", *lines[-half:]]


class WorkerFailed(LauncherError):
    """At least one worker failed; `report` says which one was first, how, and what it said."""

    def __init__(self, report: FailureReport) -> None:
        super().__init__(report.summary())
        self.report = report
        self.exit_code = report.exit_code


class LaunchResult(NamedTuple):
    """How a launch ended.

    As JSON, in the file that LAUNCHER_RESULT_FILE names, it goes to the `launcher.launch()` that
    asked for the launch.
    """

    exit_code: int
    run_dir: str | None = None
    attempts: int = 0
    report: FailureReport | None = None
    # What was found wrong before anything was started.
    error: LauncherError | None = None

    def to_json(self) -> str:
        """Return the text of the file."""
        data = self._asdict()
        if self.report is not None:
            data["report"] = self.report.to_dict()
        if self.error is not None:
            data["error"] = {"message": self.error.message, "hint": self.error.hint}
        return json.dumps(data)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> LaunchResult:
        """Return the result that `to_json` wrote, from the parsed object."""
        report, error = data["report"], data["error"]
        return cls(
            exit_code=data["exit_code"],
            run_dir=data["run_dir"],
            attempts=data["attempts"],
            report=FailureReport.from_json(report) if report else None,
            error=_same_error(data["exit_code"], **error) if error else None,
        )


def _same_error(exit_code: int, message: str, hint: str) -> LauncherError:
    """Make an error again, of the class that its exit code tells."""
    if exit_code == UsageError.exit_code:
        return UsageError(message, hint=hint)
    if exit_code == LauncherError.exit_code:
        return LauncherError(message, hint=hint)
    return SpawnError(message, exit_code=exit_code, hint=hint)
