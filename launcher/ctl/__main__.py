"""`python -m launcher.ctl`: look at the runs of this machine, and act on them.

    ctl ps                     the runs: id, state, ranks, age, last output, memory, steps
    ctl top [RUN]              what every rank uses, live
    ctl logs [RUN]             what the ranks wrote, also of a run that has ended
    ctl attach [RUN]           what the first terminal shows
    ctl stacks [RUN]           where every rank is
    ctl stop [RUN]             stop a run as SIGTERM would
    ctl signal NAME [RUN]      send a signal to every rank

RUN may be left out when there is only one; it is the run's id, the beginning of it, or the
launcher's pid.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from launcher.ctl import messages
from launcher.ctl.service import make_name_prefix
from launcher.diagnosis.evidence import format_bytes
from launcher.errors import LauncherError, UsageError
from launcher.named import NamedTuple
from launcher.options.syntax import parse_console_ranks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from launcher.ctl.mirror import Mirror

# How long a run may take to answer. Ranks that are stuck need time to say where.
_ANSWER_S = 3.0
_STACKS_S = 20.0


class _Run(NamedTuple):
    """A run that goes on here; without its status when it does not answer."""

    socket: str  # the abstract name of its socket
    status: messages.RunStatus | None

    @property
    def id(self) -> str:
        return self.status.run_id if self.status else self.socket

    @property
    def pid(self) -> str:
        return str(self.status.pid) if self.status else ""


def main(argv: list[str] | None = None) -> int:
    """Run one command; return its exit code: 0, 1 for a run out of reach, 2 for a usage error."""
    options = _make_parser().parse_args(argv)
    try:
        text = _COMMANDS[options.command](options)
        print(text, end="\n" if text else "", flush=True)
    except LauncherError as error:
        print(f"launcher.ctl: error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # The reader, say `head`, has gone; Python would complain at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return 0


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m launcher.ctl", description="Look at runs of this machine and act on them."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("ps", help="list the runs")
    top = commands.add_parser("top", help="show what every rank uses, live on a terminal")
    logs = commands.add_parser("logs", help="show what the ranks wrote, in the order of time")
    logs.add_argument("--rank", default="", metavar="N,M", help="only of these ranks, as in 0,8-15")
    logs.add_argument("-f", "--follow", action="store_true", help="go on until the run has ended")
    logs.add_argument("--since", default="", metavar="5m", help="only of the last 30s, 5m, 2h, 1d")
    logs.add_argument("--grep", default="", metavar="TEXT", help="only lines that contain TEXT")
    logs.add_argument("--run-dir", default="runs", metavar="DIR", help="where ended runs are")
    attach = commands.add_parser("attach", help="show what the first terminal shows")
    stacks = commands.add_parser("stacks", help="show where every rank is")
    stop = commands.add_parser("stop", help="stop a run, as SIGTERM does")
    send = commands.add_parser("signal", help="send a signal to every rank")
    send.add_argument("name", help="SIGUSR1, USR1 or 10")
    for command in (top, logs, attach, stacks, stop, send):
        command.add_argument(
            "run", nargs="?", default="", help="id of the run, its beginning, or the launcher's pid"
        )
    return parser


def _ps(options: argparse.Namespace) -> str:
    return "\n".join(map(_render_run, _find_runs())) or "no runs on this machine"


def _render_run(run: _Run) -> str:
    status = run.status
    if status is None:
        return f"{run.socket}  does not answer (stopped, or very busy)"
    workers = status.workers
    running = sum(worker.state == "running" for worker in workers)
    outputs = [worker.last_output_s for worker in workers if worker.last_output_s is not None]
    last = f"last output {_show_age(min(outputs))} ago" if outputs else "no output yet"
    restarts = f", restart {status.attempt}" if status.attempt else ""
    nodes = f" on {status.num_nodes} nodes" if status.num_nodes > 1 else ""
    ranks = f"{running}/{len(workers)} ranks running{nodes}{restarts}"
    figures = []
    if status.memory is not None:
        figures.append(format_bytes(status.memory))
    if status.steps_per_s is not None:
        figures.append(f"{status.steps_per_s:.3g} steps/s")
    return "  ".join(
        (run.id, f"pid {run.pid}", ranks, _show_age(status.age_s), last, *figures, status.script)
    )


def _show_age(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _top(options: argparse.Namespace) -> str:
    from launcher.ctl import top
    from launcher.stats.render import render_top

    run = _choose(options.run)
    use = _ask_use(run)
    if not sys.stdout.isatty():
        return render_top(use.samples)
    top.show(run.id, lambda: _ask_use(run) if _is_going_on(run) else None, sys.stdout)
    return ""


def _ask_use(run: _Run) -> messages.Use:
    answer = _call(run.socket, messages.AskUse())
    if not isinstance(answer, messages.Use):
        raise LauncherError(f"{run.id} has no figures.")
    return answer


def _logs(options: argparse.Namespace) -> str:
    from launcher.ctl import logs
    from launcher.system.processes import allow_open_files

    try:
        ranks = parse_console_ranks(options.rank)
    except ValueError as problem:
        raise UsageError(f"--rank {options.rank}: {problem}.") from None
    since = logs.parse_since(options.since, time.time())
    choice = logs.Choice(ranks, since, os.fsencode(options.grep))
    allow_open_files()
    folder, run = _find_logs(options.run, options.run_dir)
    if run is not None and run.status is not None:
        hosts, all_ranks = run.status.hosts, {worker.rank for worker in run.status.workers}
    else:
        layout = logs.read_layout(folder)
        hosts, all_ranks = layout.hosts, set(range(layout.num_ranks))
    wanted = all_ranks if ranks is None else set(ranks)
    with _open_mirror(run, folder, wanted) as mirror:
        is_going_on = partial(_is_going_on, run) if run and options.follow else None
        shown = logs.show(folder, choice, sys.stdout.buffer, is_going_on, mirror)
    missing = wanted - shown.ranks - (mirror.ranks if mirror else set())
    far = logs.Far(hosts, folder, run.id if run and _is_going_on(run) else "")
    if mirror is not None and mirror.cut_ranks:
        _note(far.explain(mirror.cut_ranks, "has more of the output"))
    unsure = mirror.ranks - mirror.cut_ranks if mirror else set()
    if unsure and mirror is not None and (options.follow or not mirror.is_answered):
        _note(far.explain(unsure, "may have more of the output"))
    if shown.ranks and not shown.has_times:
        _note("it is not known when these lines came")
    if missing and ranks is not None:
        raise LauncherError(far.explain(missing, "has the output"))
    if missing and (hosts or run is None):
        _note(far.explain(missing, "has the output"))
    return ""


def _note(text: str) -> None:
    print(f"launcher.ctl: {text}", file=sys.stderr)


def _find_logs(wanted: str, run_dir: str) -> tuple[str, _Run | None]:
    """Return the folder with a run's log files, and the run if it goes on."""
    from launcher.ctl import logs

    runs = [] if os.sep in wanted else _matching(wanted, _find_runs())
    if len(runs) > 1:
        raise _several(runs)
    if not runs:
        return logs.find_folder(run_dir, wanted), None
    (run,) = runs
    if run.status is None or not run.status.logs:
        raise LauncherError(f"{run.id} does not answer, or keeps no log files.")
    return run.status.logs, run


@contextmanager
def _open_mirror(run: _Run | None, folder: str, wanted: set[int]) -> Iterator[Mirror | None]:
    """Have copies of those files that are on other hosts of a run that goes on; None for none."""
    from launcher.runs.logs import RunLogs

    here = RunLogs(folder)
    here.look()
    hosts = run.status.hosts if run and run.status else {}
    far = wanted - here.ranks
    num_hosts = sum(not far.isdisjoint(ranks) for ranks in hosts.values())
    if run is None or not num_hosts:
        yield None
        return
    from tempfile import TemporaryDirectory

    from launcher.ctl.mirror import Mirror

    with TemporaryDirectory(prefix="launcher-logs-") as copies:
        yield Mirror(copies, far, num_hosts, lambda question: _ask_logs(run, question))


def _ask_logs(run: _Run, question: messages.AskLogs) -> messages.Logs | None:
    try:
        answer = _call(run.socket, question)
    except LauncherError:
        return None
    return answer if isinstance(answer, messages.Logs) else None


def _is_going_on(run: _Run) -> bool:
    with open("/proc/net/unix") as table:
        return any(line.rstrip("\n").endswith(f"@{run.socket}") for line in table)


def _attach(options: argparse.Namespace) -> str:
    from launcher.ctl.attach import attach

    run = _choose(options.run)
    if not attach(run.socket, _ANSWER_S, sys.stdout.buffer, sys.stderr.buffer):
        raise _no_answer()
    return ""


def _stacks(options: argparse.Namespace) -> str:
    return _tell(_choose(options.run), messages.AskStacks(), _STACKS_S)


def _stop(options: argparse.Namespace) -> str:
    run = _choose(options.run)
    _tell(run, messages.Stop())
    return f"{run.id}: asked to stop"


def _signal(options: argparse.Namespace) -> str:
    name = options.name.upper()
    try:
        if name.isdigit():
            signum = signal.Signals(int(name))
        else:
            signum = signal.Signals[f"SIG{name.removeprefix('SIG')}"]
    except (KeyError, ValueError):
        raise UsageError(
            f"There is no signal {options.name}.", hint="Type for example: ctl signal SIGUSR1"
        ) from None
    run = _choose(options.run)
    _tell(run, messages.SendSignal(signum))
    return f"{run.id}: sent {signum.name} to every rank"


_COMMANDS = {
    "ps": _ps,
    "top": _top,
    "logs": _logs,
    "attach": _attach,
    "stacks": _stacks,
    "stop": _stop,
    "signal": _signal,
}


def _choose(wanted: str) -> _Run:
    """Return the run that is meant."""
    runs = _matching(wanted, _find_runs())
    if len(runs) == 1:
        return runs[0]
    if not runs:
        raise LauncherError(
            f"No run {wanted or 'is going on here'}.", hint="Type: python -m launcher.ctl ps"
        )
    raise _several(runs)


def _matching(wanted: str, runs: list[_Run]) -> list[_Run]:
    exact = [run for run in runs if wanted and wanted in (run.id, run.pid)]
    return exact or [run for run in runs if run.id.startswith(wanted)]


def _several(runs: list[_Run]) -> UsageError:
    ids = ", ".join(f"{run.id} (pid {run.pid or 'unknown'})" for run in runs)
    return UsageError(f"There are several runs: {ids}.", hint="Name one of them, by its id or pid.")


def _find_runs() -> list[_Run]:
    """Return every run that this user may see, with its status."""
    beginning = make_name_prefix(os.getuid())
    with open("/proc/net/unix") as table:
        names = dict.fromkeys(line.rstrip("\n").partition("@")[2] for line in table)
    return [_Run(name, _ask_status(name)) for name in names if name.startswith(beginning)]


def _ask_status(name: str) -> messages.RunStatus | None:
    try:
        answer = _call(name, messages.AskStatus())
    except LauncherError:
        return None
    return answer if isinstance(answer, messages.RunStatus) else None


def _tell(run: _Run, request: messages.Request, timeout_s: float = _ANSWER_S) -> str:
    """Ask a run to do something; return what it shows of it."""
    answer = _call(run.socket, request, timeout_s)
    if isinstance(answer, messages.Refused):
        raise LauncherError(answer.error)
    return answer.text if isinstance(answer, messages.Done) else ""


def _call(
    name: str, request: messages.Request, timeout_s: float = _ANSWER_S
) -> messages.Request | messages.Answer:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_s)
        try:
            connection.connect("\0" + name)
            connection.sendall(messages.encode(request))
            with connection.makefile("rb") as answer:
                return messages.decode(answer.read())
        except (OSError, ValueError):
            raise _no_answer() from None


def _no_answer() -> LauncherError:
    return LauncherError(
        "The run does not answer.", hint="It may have ended: python -m launcher.ctl ps"
    )


if __name__ == "__main__":
    sys.exit(main())
