"""Runs the script of an attached rank in this process, and ends it with the job's exit code.

What the engine has to do with it (MPI's abort) stands here, who reports a failure in end.py. Must
not know how the ranks have found each other: see join.py.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping

from launcher.attached.end import Failure, report_once
from launcher.attached.notes import PeerNotes, open_notes
from launcher.diagnosis.report import FailureReport, render
from launcher.exits import exit_code_of
from launcher.options.spec import LaunchSpec
from launcher.plan.program import program_kind
from launcher.ranks import Place
from launcher.runs.folder import make_run_folder, new_run_id
from launcher.starters.detect import restart_count
from launcher.starters.meeting import find_job_id
from launcher.system.files import write_whole


def run_in_place(spec: LaunchSpec, place: Place, args: list[str], port: int) -> int:
    """Run the script and return the exit code of this process. `port` is that of the job's store.

    An exception of the script is reported here, once for all ranks of this host. What it raises to
    end with 0, and KeyboardInterrupt, come through.
    """
    kind = program_kind(spec)
    if kind == "command":
        os.execvp(spec.script, [spec.script, *args])
    from launcher.worker import bootstrap, diagnose

    diagnose.arm(None)
    bootstrap.set_import_path(kind, spec.script)
    notes = None
    if os.environ.get("HOROVOD_ELASTIC") != "1":  # there, the others go on after a failure
        notes = open_notes(job_key(place, os.environ, port), place.rank, place.local_world_size)
    if "mpi4py.MPI" in sys.modules and place.local_world_size == place.world_size:
        from launcher.attached.last_word import end_connections_at_exit

        end_connections_at_exit()
    pid, began = os.getpid(), time.monotonic()
    try:
        bootstrap.run(kind, spec.script, args, None)
    except BaseException as error:
        code = exit_code_of(error)
        if os.getpid() != pid:  # a process that the script has forked: it is no rank
            raise
        if code == 0 or isinstance(error, KeyboardInterrupt):
            _end_well(notes, error)
            raise
        failure = Failure(
            place.rank,
            code,
            bootstrap.make_worker_error(error),
            restart_count(os.environ),
            time.monotonic() - began,
        )
        code = report_once(failure, notes, lambda report: _publish(report, spec))
        _call_hook_silently(error)
        _let_others_know(SystemExit(code))
        return code
    if os.getpid() == pid:
        _end_well(notes, None)
    return 0


def job_key(place: Place, environ: Mapping[str, str], port: int) -> str:
    """Return a name of this job that all its ranks of this host know, and nobody else has.

    Hosts are told apart because they may share TMPDIR, and one cannot see whether a process of
    another still runs.
    """
    # Not the names that the user may have exported: two jobs may be started with the same.
    own = {
        name: value
        for name, value in environ.items()
        if name not in ("LAUNCHER_RUN_ID", "TORCHELASTIC_RUN_ID")
    }
    return f"{place.starter}-{find_job_id(place, own)}-{port}-{os.uname().nodename}"


def _end_well(notes: PeerNotes | None, error: BaseException | None) -> None:
    if notes is not None:
        notes.end()
    if error is not None:
        _let_others_know(error)


def _let_others_know(error: BaseException) -> None:
    """End the others too, with an error: they may wait in a collective for ever."""
    if exit_code_of(error) != 0 and "mpi4py.MPI" in sys.modules:
        from mpi4py.run import set_abort_status

        set_abort_status(error)


def _publish(report: FailureReport, spec: LaunchSpec) -> None:
    """Print the report, in one piece as other ranks may print; write it where the user wants it."""
    _flush(sys.stdout)
    _flush(sys.stderr)
    try:
        os.write(2, render(report).encode("utf-8", "backslashreplace"))
    except OSError:
        pass  # stderr is closed: the exit code says it
    if spec.provenance.get("run_dir", "default") != "default":
        paths, _ = make_run_folder(spec.run_dir, None, new_run_id(spec.rdzv_id), 1)
        if paths is not None:
            write_whole(paths.report, report._replace(run_dir=paths.run_dir).to_json())


def _flush(stream: object) -> None:
    """Write what the script has printed: it comes before the report."""
    try:
        stream.flush()  # type: ignore[attr-defined]
    except Exception:  # it is closed, None, or something of the script's
        pass


def _call_hook_silently(error: BaseException) -> None:
    """Call sys.excepthook, as python would: the script's own may tell somebody else.

    What it prints is in the report.
    """
    from io import StringIO

    if isinstance(error, SystemExit):
        return
    stderr, sys.stderr = sys.stderr, StringIO()
    try:
        sys.excepthook(type(error), error, error.__traceback__)
    except Exception:
        pass
    finally:
        sys.stderr = stderr
