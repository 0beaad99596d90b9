"""The command: arguments to a spec, the spec to a launch, errors to one paragraph and an exit code.

The only file that prints for the launcher itself and decides its exit code. It must not know how a
launch is carried out; the supervisor is imported only when there is something to launch, so that
help and errors come at once.
"""

from __future__ import annotations

import gc
import os
import sys
from contextlib import contextmanager

from launcher.attached import proxy
from launcher.errors import LauncherError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TextIO

    from launcher.attached.crew import Crew
    from launcher.diagnosis.report import LaunchResult
    from launcher.options.option import Given
    from launcher.options.spec import LaunchSpec
    from launcher.ranks import Place
    from launcher.start.server import ServerProcess

# So many objects of what is imported on the way up stay for ever: to look through them for garbage
# takes a tenth of the start.
_LASTING_OBJECTS = 50_000

# What shells report for a command that Ctrl-C ended: 128 + SIGINT.
_INTERRUPTED = 130

_SHORT_HELP = """\
usage: python -m launcher [options] SCRIPT [arguments of the script]

For example, two workers:   python -m launcher --nproc-per-node 2 train.py --lr 0.1
All options:                python -m launcher --help
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command with these arguments, or the process's own; return its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    if proxy.may_be_rank(os.environ) and not proxy.is_alone_here(os.environ):
        return _meet(arguments)
    return _run_safely(lambda: _run(arguments))


def _meet(arguments: list[str]) -> int:
    """Be one of the ranks that an engine has started on this host, or their supervisor."""
    try:
        met = proxy.meet(os.environ, len(arguments))
    except proxy.GoOn as answer:
        alone = answer
        return _run_safely(lambda: _run(arguments, alone))
    return met if isinstance(met, int) else _lead(met, arguments)


def _lead(founder: proxy.Founder, arguments: list[str]) -> int:
    """Be the supervisor of the ranks that an engine has started on this host."""
    # Nearly always wanted; whether it is comes out when all else has been loaded.
    with _early_server(is_wanted=not os.environ.get("PYTHON_EXEC")) as server:
        from launcher.attached.crew import Crew
        from launcher.starters.detect import detect_engine

        try:
            expected = detect_engine(os.environ).local_world_size
        except LauncherError:
            expected = 1  # it is raised again where it can be said
        crew = Crew(founder.take_listener(), expected)
        code = _run_safely(lambda: _run_for(crew, arguments, server))
    crew.dismiss(code)
    return code


def _run_safely(action: Callable[[], int | Callable[[], int]]) -> int:
    thresholds = gc.get_threshold()
    gc.set_threshold(_LASTING_OBJECTS, *thresholds[1:])
    try:
        code_or_rank = action()
    except LauncherError as error:
        if not _hand_back(error):
            _complain(f"launcher: error: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return _INTERRUPTED
    if isinstance(code_or_rank, int):
        return code_or_rank
    gc.set_threshold(*thresholds)
    return code_or_rank()  # outside of the handlers above: what the script raises is its own


def _run(argv: list[str], alone: proxy.GoOn | None = None) -> int | Callable[[], int]:
    """Return the exit code; or, where this process is to be a rank, what sees to that.

    alone: why it is to be one itself, where it has met the others of this host.
    """
    spec = _read(argv)
    if isinstance(spec, int):
        return spec
    if spec.goes_over_ssh:
        return _go_over_ssh(spec)
    if spec.engine == "slurm":
        return _hand_to_slurm(spec)
    if spec.engine == "mpi":
        return _hand_to_mpirun(spec)
    from launcher.plan.program import check_python
    from launcher.starters.detect import detect, detect_engine

    place = detect_engine(os.environ)
    if place.starter != "none":
        from launcher.attached import engine, in_place

        if engine.is_rank(spec, place):
            if alone is None and proxy.may_be_rank(os.environ):
                return lambda: _meet(argv)
            return _become_rank(
                spec, place, alone or proxy.GoOn()
            )  # also `mpirun -np 1 ... --backend mpi`
        in_place.end_with_engine(is_rank=False)
        in_place.take_all_cpus(os.environ)
    elif os.environ.get("LOCAL_RANK"):
        from launcher.attached import engine

        if engine.is_rank_of_service(spec, os.environ):
            return _become_rank(spec, detect(os.environ), proxy.GoOn())
    if spec.start == "in-place":
        raise spec.error("start", "is for processes that mpirun or srun has started as ranks")
    check_python(spec, os.environ)
    return _supervise(spec)


def _run_for(crew: Crew, argv: list[str], server: ServerProcess | None) -> int:
    """Run what the processes of an engine were called with, once for all that are on this host."""
    spec = _read(argv)
    if isinstance(spec, int):
        return spec
    if spec.engine == "slurm":
        return _hand_to_slurm(spec)
    from launcher.attached import engine, host
    from launcher.plan.program import check_python, starts_warm
    from launcher.starters.detect import detect_engine

    place = detect_engine(os.environ)
    if not engine.is_rank(spec, place):
        crew.send_away("")
        return 0
    check_python(spec, os.environ)
    from launcher import supervisor  # meanwhile, the others come

    try:
        spec, together = host.assemble(crew, spec, place, _ignore if spec.quiet else _say)
    except host.Apart as apart:
        engine.check_horovod(spec, place, os.environ)
        crew.send_away(str(apart), host.find_free_port(), host.find_common_port(crew, place))
        return 0
    if spec.dry_run:
        _print(supervisor.dry_run(spec, together) + "\n")
        return 0
    if server is not None and not starts_warm(spec, place.local_world_size):
        server.close()  # a child that nobody knows would be taken for what a rank has left behind
        server = None
    return _end(crew, supervisor.launch(spec, server, together))


def _hand_to_slurm(spec: LaunchSpec) -> int:
    from launcher.engines import slurm

    if spec.dry_run:
        _print(slurm.dry_run(spec, os.environ) + "\n")
        return 0
    return slurm.start(spec, os.environ, _say, _print)


def _hand_to_mpirun(spec: LaunchSpec) -> int:
    from launcher.engines import mpi

    if spec.dry_run:
        _print(mpi.dry_run(spec, os.environ) + "\n")
        return 0
    _heed_sigterm()
    return mpi.launch(spec, os.environ, _say)


def _end(crew: Crew, result: LaunchResult) -> int:
    """Let the processes of the engine end as their ranks have; return the exit code."""
    crew.dismiss(result.exit_code, result.report.rank if result.report else None)
    return result.exit_code


def _become_rank(spec: LaunchSpec, place: Place, alone: proxy.GoOn) -> int | Callable[[], int]:
    from launcher.attached import in_place

    if spec.dry_run:
        _print(in_place.dry_run(spec, place, os.environ) + "\n")
        return 0
    if place.local_rank == 0 and alone.reason and not spec.quiet:
        _say(f"each rank runs in the process that its engine has started: {alone.reason}")
    in_place.end_with_engine(is_rank=True)
    return in_place.become_rank(spec, place, alone.port)


def _read(argv: list[str]) -> LaunchSpec | int:
    """Return what is asked for; the exit code where that was only to be told something."""
    if not argv:
        _complain(_SHORT_HELP)
        return 2
    from launcher.options.arguments import read_arguments
    from launcher.options.option import PROG
    from launcher.options.spec import LaunchSpec
    from launcher.plan.program import check_command

    given, command = read_arguments(LaunchSpec, argv)
    if _print_only(given):
        return 0
    if not command:
        typed = " ".join([PROG, *argv, "train.py"])
        raise UsageError("No script was given.", hint=f"Type for example: {typed}")
    spec = LaunchSpec.from_sources(
        given, os.environ, script=command[0], script_args=tuple(command[1:])
    )
    check_command(spec)
    return spec


def _print_only(given: dict[str, Given]) -> bool:
    """Answer --help, --version and --print-completion; return whether one of them was given."""
    if given.keys().isdisjoint(("help", "version", "print_completion")):
        return False
    from launcher import __version__
    from launcher.options.arguments import list_options
    from launcher.options.help import make_completion, make_parser
    from launcher.options.spec import LaunchSpec

    if "help" in given:
        _print(make_parser(LaunchSpec).format_help())
    elif "version" in given:
        _print(f"launcher {__version__}\n")
    else:
        flag, text = given["print_completion"]
        shell = str(list_options(LaunchSpec)["print_completion"].parse(text, flag))
        _print(make_completion(make_parser(LaunchSpec), shell) + "\n")
    return True


def _go_over_ssh(spec: LaunchSpec) -> int:
    from launcher.engines import ssh

    if spec.dry_run:
        _print(ssh.dry_run(spec, os.environ) + "\n")
        return 0
    _heed_sigterm()
    return ssh.launch(spec, os.environ)


def _supervise(spec: LaunchSpec) -> int:
    from launcher.plan.program import starts_warm

    if spec.dry_run:
        from launcher.supervisor import dry_run

        _print(dry_run(spec) + "\n")
        return 0
    standby = None
    if "LAUNCHER_STANDBY" in os.environ:
        from launcher.engines.standby import Standby

        standby = Standby(os.environ)
    if spec.events is not None:
        from launcher.record.follower import keep_for_ourselves

        keep_for_ourselves(spec.events)
    with _early_server(starts_warm(spec)) as server:
        from launcher.supervisor import launch  # meanwhile, the server's interpreter starts

        if standby is None:
            return launch(spec, server).exit_code
        told = standby.wait(spec)
        return launch(told, server, orders=standby.orders).exit_code if told is not None else 0


@contextmanager
def _early_server(is_wanted: bool) -> Iterator[ServerProcess | None]:
    """Start a fork server's interpreter, which comes up while ours imports the supervisor."""
    _heed_sigterm()
    if not is_wanted:
        yield None
        return
    from launcher.start.server import ServerProcess

    server = ServerProcess()
    try:
        yield server
    finally:
        server.close()


def _heed_sigterm() -> None:
    """Take SIGTERM back from a starter that ignores it, before any process of ours inherits that.

    Ranks are stopped with it, and the launcher itself when its caller dies. Other signals stay
    ignored: a shell means that by `&`, for SIGINT and SIGQUIT, and nohup for SIGHUP.
    """
    import signal

    if signal.getsignal(signal.SIGTERM) is signal.SIG_IGN:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


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


def _ignore(text: str) -> None:
    """Say nothing, for --quiet."""


def _say(text: str) -> None:
    _complain(f"launcher: {text}\n")


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
