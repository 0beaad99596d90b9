"""The process that looks after one run, from the copy of its code to the record of its end.

Started detached by `submit`, with the lock of the run in its hands; standard library only, so that
it stays small. Prepares, waits for a slot, calls the launcher, and writes down what happened.
"""

from __future__ import annotations

import os
import signal
import sys
import time

from launcher.jobs import alive, engine, journal, metrics, state
from launcher.jobs.configuration import main_file, shape_of
from launcher.jobs.errors import EnvironmentException, StoreException
from launcher.jobs.slots import Slots
from launcher.jobs.store import RunFolder, Store, discard, read_json, write_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

_STOPPING = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
# A scheduler's warning that the end is near: the ranks get it.
_FORWARDED = {signal.SIGUSR1, signal.SIGUSR2}
_WATCHED = {*_STOPPING, *_FORWARDED, signal.SIGCHLD}

# What a shell reports for a command that was not found.
_NOT_FOUND = 127

# How long a full disk may keep the end from being written.
_FULL_DISK_S = 60.0

# How much of a log is looked at for the last words of a launcher without a report, and how it
# begins what it says.
_TAIL_BYTES = 4096
_SAYS = "launcher: "


class _Stopped(Exception):
    """Somebody asked for the end of the run."""


class _TimeOut(Exception):
    """The run has lasted for longer than it may."""


def main(path: str, *, is_lock_inherited: bool = True) -> None:
    """Look after the run in this folder until it has ended."""
    run = RunFolder(path)
    signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
    if not is_lock_inherited or alive.is_free(run):  # not every file system hands locks on
        alive.take_lock(run)
    alive.write_agent(run)
    discard(run.left)  # Slurm has begun the run anew
    agent = _Agent(run)
    try:
        end = agent.live()
    except _Stopped:
        end = {"status": "Canceled", "reason": agent.who_stopped()}
    except EnvironmentException as error:
        failure = state.make_error("EnvironmentFailed", str(error))
        end = {"status": "Failed", "reason": error.message, "error": failure}
    except Exception as error:
        import traceback  # nearly no run needs it, and it takes a megabyte

        traceback.print_exc()
        reason = f"{type(error).__name__}: {error}"
        failure = state.make_error("AgentFailed", reason)
        end = {"status": "Failed", "reason": reason, "error": failure}
    record = {**end, "ended": time.time(), **agent.facts()}
    if agent.may_begin_anew():
        write_json(run.left, record)
        os.unlink(run.agent)  # from here on, Slurm is asked for the state
    else:
        _write_end(run, record)


def _write_end(run: RunFolder, end: dict[str, Any]) -> None:
    """Write down the end; on a disk that is full, try for a while until somebody has made room."""
    deadline = time.monotonic() + _FULL_DISK_S
    while True:
        try:
            write_json(run.end, end, is_lasting=True)
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise
            sys.stderr.write(f"the end cannot be written, trying again: {error}\n")
            time.sleep(1.0)


class _Agent:
    """One run's agent."""

    def __init__(self, run: RunFolder) -> None:
        self._run = run
        self._asked: dict[str, Any] = read_json(run.asked) or {}
        self._store = Store(os.path.join(run.path, os.pardir, os.pardir))
        self._child = 0
        self._is_stopped = False
        self._signal = 0
        self._slots: Slots
        self._deadline: float | None = None

    def live(self) -> dict[str, Any]:
        """Bring the run from its folder to its end; return the record of that."""
        self._say("Preparing", "the code is copied")
        self._check_stop()
        self._copy_code()
        interpreter = self._prepare_environment()
        self._queue()
        if interpreter != self._asked["interpreter"]:
            from launcher.jobs import packages

            packages.copy_launcher()
        longest = self._asked["definition"].get("maxRunDurationSeconds")
        self._deadline = time.monotonic() + longest if longest else None
        call = engine.make_call(
            self._run,
            self._asked,
            interpreter,
            os.environ,
            source=self._read_script(),
            target=self._slots.settings,
            names=self._slots.names,
        )
        self._say("Running")
        try:
            code = self._execute(call.argv, call.environ, self._run.driver_log, call.notes)
        except _TimeOut:
            reason = f"it ran for longer than {longest} s (max_run_duration_seconds)"
            error = state.make_error("MaxRunDurationReached", reason)
            return {"status": "Failed", "reason": reason, "error": error}
        self._say("Finalizing")
        return self._judge(code)

    def may_begin_anew(self) -> bool:
        """Tell whether Slurm may have stopped the run to begin it anew: it does not say which."""
        is_slurm = bool(self._asked.get("is_slurm"))
        return is_slurm and self._signal != 0 and not os.path.exists(self._run.cancel)

    def who_stopped(self) -> str:
        """Return who asked for the end."""
        asked_by = (read_json(self._run.cancel) or {}).get("user")
        if asked_by:
            return f"canceled by {asked_by}"
        return f"the agent got {signal.Signals(self._signal).name}" if self._signal else "stopped"

    def facts(self) -> dict[str, Any]:
        """Return what is recorded with every end: metrics, files and their size."""
        num_bytes = num_files = 0
        for name in ("outputs", "logs"):
            for folder, _, files in os.walk(self._run.join(name)):
                num_files += len(files)
                for file in files:
                    try:
                        num_bytes += os.lstat(os.path.join(folder, file)).st_size
                    except OSError:
                        continue
        summary = metrics.summarize(metrics.read(self._run.metrics))
        found = {"metrics": summary, "files": num_files, "bytes": num_bytes}
        end = state.find_launcher_end(self._run)
        if end is not None:
            peaks = [rank.get("peak_bytes") or 0 for rank in end.get("ranks", ())]
            found.update(attempts=end.get("attempts"), peak_bytes=max(peaks, default=0) or None)
        return found

    def _say(self, status: str, reason: str = "") -> None:
        try:
            journal.append(self._run, "state", writer="agent", status=status, reason=reason)
        except StoreException as error:  # a full disk is not worth a run
            sys.stderr.write(f"{error}\n")

    def _copy_code(self) -> None:
        from launcher.jobs import snapshot

        if os.path.exists(self._run.code):
            return  # Slurm has started the job anew
        os.makedirs(self._run.code)
        if self._asked.get("snapshot"):
            snapshot.restore(self._store, self._asked["snapshot"], self._run.code)
        for name in ("outputs", "logs"):
            link = os.path.join(self._run.code, name)
            if not os.path.lexists(link):
                os.symlink(os.path.join(os.pardir, name), link)

    def _read_script(self) -> bytes:
        script = self._asked["definition"].get("script")
        if not script:
            return b""
        with open(main_file(os.path.join(self._run.code, script)), "rb") as file:
            return file.read()

    def _prepare_environment(self) -> str:
        """Return the interpreter of the run, built where it has to be."""
        from launcher.jobs.environment import needs_of

        definition = self._asked["definition"].get("environment") or {}
        needs = needs_of(definition, self._asked["interpreter"])
        if needs.interpreter:
            return needs.interpreter
        from launcher.jobs import packages

        self._say("Preparing", "the environment is built")
        built = packages.build(
            needs,
            self._asked["interpreter"],
            is_nearest=bool((definition.get("python") or {}).get("nearest")),
            run=self._run_builder,
            say=self._say_build,
            read_log=self._read_build_log,
        )
        write_json(
            self._run.join("environment.json"),
            {"interpreter": built.interpreter, "packages": built.packages, "notes": built.notes},
        )
        return built.interpreter

    def _run_builder(self, argv: Sequence[str]) -> int:
        return self._execute(argv, os.environ, self._run.build_log)

    def _say_build(self, text: str) -> None:
        with open(self._run.build_log, "a", encoding="utf-8") as file:
            file.write(f"launcher.jobs: {text}\n")

    def _read_build_log(self) -> str:
        try:
            with open(self._run.build_log, encoding="utf-8", errors="replace") as file:
                return file.read()
        except FileNotFoundError:
            return ""

    def _queue(self) -> None:
        slots = Slots(self._store, self._asked["definition"].get("target") or "local")
        shape = shape_of(self._asked["definition"])
        wanted = slots.num_wanted(shape.num_nodes, shape.num_processes)
        slots.wait(self._run, wanted, lambda reason: self._say("Queued", reason), self._pause)
        self._slots = slots  # held for as long as this process lives

    def _pause(self, seconds: float) -> None:
        self._wait_signal(seconds)
        self._check_stop()

    def _check_stop(self) -> None:
        if self._is_stopped or os.path.exists(self._run.cancel):
            raise _Stopped

    def _wait_signal(self, seconds: float) -> None:
        got = signal.sigtimedwait(_WATCHED, seconds)
        if got is None or got.si_signo == signal.SIGCHLD:
            return
        if got.si_signo in _STOPPING:
            self._is_stopped = True
            self._signal = got.si_signo
        if self._child:
            forwarded = got.si_signo in _FORWARDED
            os.kill(self._child, got.si_signo if forwarded else signal.SIGTERM)

    def _execute(
        self,
        argv: Sequence[str],
        environ: Mapping[str, str],
        log_path: str,
        notes: Sequence[str] = (),
    ) -> int:
        """Run a command to its end in the code's folder; return its exit code."""
        log = os.open(log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        for note in notes:
            os.write(log, f"launcher.jobs: {note}\n".encode())
        try:
            self._child = _start(argv, environ, self._run.code, log)
        finally:
            os.close(log)
        heartbeat = os.path.join(self._run.journal, "agent.jsonl")
        is_too_long = False
        while True:
            pid, status = os.waitpid(self._child, os.WNOHANG)
            if pid:
                break
            pause = alive.SIGN_OF_LIFE_S
            if self._deadline is not None:
                pause = min(pause, max(0.0, self._deadline - time.monotonic()))
            self._wait_signal(pause)
            if os.path.exists(heartbeat):
                os.utime(heartbeat)
            if self._deadline is not None and time.monotonic() >= self._deadline:
                is_too_long, self._deadline = True, None
                os.kill(self._child, signal.SIGTERM)
        self._child = 0
        if self._is_stopped or os.path.exists(self._run.cancel):
            raise _Stopped
        if is_too_long:
            raise _TimeOut
        return os.waitstatus_to_exitcode(status)

    def _judge(self, code: int) -> dict[str, Any]:
        """Return how the run ended: what its script said of itself, the report, the exit code."""
        added = journal.add_up(journal.read(self._run), self._asked)
        if added.verdict is not None and added.verdict["e"] == "fail":
            reason = str(added.verdict.get("details") or "the script called run.fail()")
            error = state.make_error(added.verdict.get("code") or "UserError", reason)
            return {"status": "Failed", "reason": reason, "exit_code": code, "error": error}
        if code == 0:
            return {"status": "Completed", "reason": "", "exit_code": 0}
        report = state.find_report(self._run)
        if report is not None:
            reason = state.describe_report(report)
        elif code < 0:
            reason = f"the launcher was killed by {signal.Signals(-code).name}; so were its ranks"
        else:
            # A launcher that could not begin has no end: it has only said why.
            end = state.find_launcher_end(self._run) or {}
            reason = end.get("reason") or self._last_words() or f"exit code {code}"
        error = state.make_error("UserError" if code > 0 else "Killed", reason, report=report)
        return {"status": "Failed", "reason": reason, "exit_code": code, "error": error}

    def _last_words(self) -> str:
        """Return what a launcher without a report said last: under mpirun, among a rank's lines."""
        names = sorted(os.listdir(self._run.ranks)) if os.path.isdir(self._run.ranks) else []
        for name in names:
            said = [
                line
                for line in _tail(os.path.join(self._run.ranks, name))
                if line.startswith(_SAYS)
            ]
            if said:
                return said[-1]
        lines = reversed(_tail(self._run.driver_log))
        return next((line for line in lines if any(map(str.isalnum, line))), "")


def _tail(path: str) -> list[str]:
    """Return the last lines of a log."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [line.strip() for line in text.split("\n")]


def _start(argv: Sequence[str], environ: Mapping[str, str], folder: str, log: int) -> int:
    """Start a command that is asked to end when we are killed; return its pid."""
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        from launcher.system.bare import die_with_parent

        os.setsid()
        if not die_with_parent(signal.SIGTERM, parent):
            os._exit(_NOT_FOUND)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.chdir(folder)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execvpe(argv[0], list(argv), dict(environ))
    except OSError as error:
        os.write(2, f"{argv[0]} cannot be started: {error.strerror}\n".encode())
    finally:
        os._exit(_NOT_FOUND)
