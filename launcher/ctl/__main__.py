"""`python -m launcher.ctl`: look at the runs of this machine, and act on them.

    ctl ps                     the runs: id, state, ranks, age, last output
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
from typing import NamedTuple

from launcher.ctl import messages
from launcher.ctl.service import make_name_prefix
from launcher.errors import LauncherError, UsageError

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
    except LauncherError as error:
        print(f"launcher.ctl: error: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        return 0
    print(text)
    return 0


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m launcher.ctl", description="Look at runs of this machine and act on them."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("ps", help="list the runs")
    stacks = commands.add_parser("stacks", help="show where every rank is")
    stop = commands.add_parser("stop", help="stop a run, as SIGTERM does")
    send = commands.add_parser("signal", help="send a signal to every rank")
    send.add_argument("name", help="SIGUSR1, USR1 or 10")
    for command in (stacks, stop, send):
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
    return "  ".join(
        (run.id, f"pid {run.pid}", ranks, _show_age(status.age_s), last, status.script)
    )


def _show_age(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


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


_COMMANDS = {"ps": _ps, "stacks": _stacks, "stop": _stop, "signal": _signal}


def _choose(wanted: str) -> _Run:
    """Return the run that is meant."""
    every = _find_runs()
    runs = [run for run in every if wanted and wanted in (run.id, run.pid)]
    runs = runs or [run for run in every if run.id.startswith(wanted)]
    if len(runs) == 1:
        return runs[0]
    if not runs:
        raise LauncherError(
            f"No run {wanted or 'is going on here'}.", hint="Type: python -m launcher.ctl ps"
        )
    ids = ", ".join(f"{run.id} (pid {run.pid or 'unknown'})" for run in runs)
    raise UsageError(f"There are several runs: {ids}.", hint="Name one of them, by its id or pid.")


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
            raise LauncherError(
                "The run does not answer.", hint="It may have ended: python -m launcher.ctl ps"
            ) from None


if __name__ == "__main__":
    sys.exit(main())
