"""The command: arguments to a spec, the spec to a launch, errors to one paragraph and an exit code.

The only file that prints for the launcher itself and decides its exit code. It must not know how a
launch is carried out; the supervisor is imported only when there is something to launch, so that
help and errors come at once.
"""

from __future__ import annotations

import os
import sys
import time

from launcher.errors import LauncherError, UsageError
from launcher.options.option import PROG

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TextIO

    from launcher.options.option import Given
    from launcher.options.spec import LaunchSpec
    from launcher.ranks import Place

# What shells report for a command that Ctrl-C ended: 128 + SIGINT.
_INTERRUPTED = 130

# How long the other ranks wait for rank 0 to say what is wrong with all of them.
_SPEAKING_S = 1.0

_SHORT_HELP = f"""\
usage: {PROG} [options] SCRIPT [arguments of the script]

For example, two workers:   {PROG} --nproc-per-node 2 train.py --lr 0.1
All options:                {PROG} --help
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command with these arguments, or the process's own; return its exit code."""
    try:
        code_or_rank = _run(sys.argv[1:] if argv is None else argv)
    except LauncherError as error:
        if not _hand_back(error):
            _complain(f"launcher: error: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return _INTERRUPTED
    if isinstance(code_or_rank, int):
        return code_or_rank
    return code_or_rank()  # outside of the handlers above: what the script raises is its own


def _run(argv: list[str]) -> int | Callable[[], int]:
    """Return the exit code; or, where this process is to be a rank itself, what runs the script."""
    if not argv:
        _complain(_SHORT_HELP)
        return 2
    from launcher.options.arguments import read_arguments
    from launcher.options.spec import LaunchSpec

    given, command = read_arguments(LaunchSpec, argv)
    if _print_only(given):
        return 0
    if not command:
        typed = " ".join([PROG, *argv, "train.py"])
        raise UsageError("No script was given.", hint=f"Type for example: {typed}")
    spec = LaunchSpec.from_sources(
        given, os.environ, script=command[0], script_args=tuple(command[1:])
    )
    return _launch(spec)


def _print_only(given: dict[str, Given]) -> bool:
    """Answer --help, --version and --print-completion; return whether one of them was given."""
    from launcher import __version__
    from launcher.options.arguments import list_options, make_completion, make_parser
    from launcher.options.spec import LaunchSpec

    if "help" in given:
        _print(make_parser(LaunchSpec).format_help())
    elif "version" in given:
        _print(f"launcher {__version__}\n")
    elif "print_completion" in given:
        flag, text = given["print_completion"]
        shell = str(list_options(LaunchSpec)["print_completion"].parse(text, flag))
        _print(make_completion(make_parser(LaunchSpec), shell) + "\n")
    else:
        return False
    return True


def _launch(spec: LaunchSpec) -> int | Callable[[], int]:
    from launcher.plan.program import check_command, check_python
    from launcher.starters.detect import detect_engine

    check_command(spec)
    place = detect_engine(os.environ)
    if place.starter != "none":
        from launcher.attached import join as attach

        is_rank = _is_rank(spec, place)
        if is_rank and spec.dry_run:
            _print(attach.dry_run(spec, place, os.environ) + "\n")
            return 0
        attach.end_with_engine(is_rank)
        if is_rank:
            return attach.become_rank(spec, place)
    check_python(spec, os.environ)
    if spec.dry_run:
        from launcher.supervisor import dry_run

        _print(dry_run(spec) + "\n")
        return 0
    return _supervise(spec)


def _supervise(spec: LaunchSpec) -> int:
    from launcher.plan.program import starts_warm

    _heed_sigterm()
    server = None
    if starts_warm(spec):
        from launcher.start.server import ServerProcess

        server = ServerProcess()
    try:
        from launcher.supervisor import launch  # meanwhile, the server's interpreter starts

        return launch(spec, server).exit_code
    finally:
        if server is not None:
            server.close()


def _heed_sigterm() -> None:
    """Take SIGTERM back from a starter that ignores it, before any process of ours inherits that.

    Ranks are stopped with it, and the launcher itself when its caller dies. Other signals stay
    ignored: a shell means that by `&`, for SIGINT and SIGQUIT, and nohup for SIGHUP.
    """
    import signal

    if signal.getsignal(signal.SIGTERM) is signal.SIG_IGN:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _is_rank(spec: LaunchSpec, place: Place) -> bool:
    """Tell whether this process is to be a rank itself.

    An error that all ranks of an engine find alike is raised on rank 0; the others end with its
    exit code only, and a moment later: many an engine kills all ranks when one ends, and rank 0
    must have spoken by then.
    """
    from launcher.attached import join as attach

    try:
        is_rank = attach.should_attach(spec, place)
        if is_rank:
            attach.check_horovod(spec, place, os.environ)
    except LauncherError as error:
        if place.rank == 0:
            raise
        time.sleep(_SPEAKING_S)
        raise SystemExit(error.exit_code) from None
    return is_rank


def _hand_back(error: LauncherError) -> bool:
    """Leave the error to `launcher.launch()` if that started us; return whether that was done.

    It raises the error again.
    """
    path = os.environ.get("LAUNCHER_RESULT_FILE")
    if not path:
        return False
    from launcher.diagnosis.report import LaunchResult
    from launcher.system.files import write_whole

    return write_whole(path, LaunchResult(error.exit_code, error=error).to_json())


def _print(text: str) -> None:
    """Write to stdout; LauncherError when that fails, unless the reader, say `head`, is gone."""
    try:
        _write(sys.stdout, text)
    except OSError as error:
        # Python would try once more at exit and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if not isinstance(error, BrokenPipeError):
            raise LauncherError(f"The output cannot be written: {error.strerror}.") from None


def _complain(text: str) -> None:
    try:
        _write(sys.stderr, text)
    except OSError:
        pass  # nobody is left to tell; the exit code says it


def _write(stream: TextIO | None, text: str) -> None:
    """Write text that may hold names in any encoding; what the stream cannot show is escaped."""
    if stream is not None:
        encoding = stream.encoding or "utf-8"
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
