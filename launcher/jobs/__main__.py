"""`python -m launcher.jobs`: submit, follow, compare and keep runs, from a shell.

The only file of the run layer that knows the command line's words and exits.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import sys

from launcher.errors import LauncherError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from launcher.jobs.cli.answer import Answer

_EPILOG = """\
RUN is a run's id, its beginning, the letters behind its last `_`, its name, or
`@`: the newest run, `@2` the one before it, and so on.

Exit codes: 0 done; 1 the run or file is not there, or something is wrong; 2 a
mistake in the command; `run`, `wait`: the run's own, 130 when it was canceled,
124 when --timeout was up.
"""

# Command -> where it is done. What only one command needs is loaded by that one.
_HOMES = {
    **dict.fromkeys(("init", "submit", "run", "wait", "cancel", "tag", "note", "register"), "act"),
    **dict.fromkeys(("retry", "resume", "reproduce"), "act"),
    **dict.fromkeys(("list", "show", "logs", "metrics", "files", "models"), "look"),
    **dict.fromkeys(("compute", "envs", "du", "doctor"), "look"),
    **dict.fromkeys(("compare", "diff"), "compare"),
    **dict.fromkeys(("download", "restore-code", "delete", "undelete", "purge"), "keep"),
    **dict.fromkeys(("export", "reindex"), "keep"),
    "migrate": "migrate",
}
_FUNCTIONS = {
    "list": "list_runs",
    "show": "show_run",
    "metrics": "show_metrics",
    "files": "list_files",
    "models": "list_models",
    "compute": "list_compute",
    "envs": "list_environments",
    "du": "disk_usage",
    "restore-code": "restore_code",
    "resume": "retry",
}
_WITHOUT_WORKSPACE = ("init", "migrate")


def main(argv: list[str] | None = None) -> int:
    """Run one command; return its exit code."""
    options = _make_parser().parse_args(argv)
    options.width = shutil.get_terminal_size((80, 24)).columns
    options.colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    try:
        answer = _execute(options)
        _print(answer, options)
    except LauncherError as error:
        print(f"launcher.jobs: error: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except KeyboardInterrupt:
        return 130
    return answer.code


def _execute(options: argparse.Namespace) -> Answer:
    name = options.command
    module = importlib.import_module(f"launcher.jobs.cli.{_HOMES[name]}")
    function = getattr(module, _FUNCTIONS.get(name, name))
    if name in _WITHOUT_WORKSPACE:
        answer: Answer = function(options)
    else:
        from launcher.jobs.workspace import Workspace

        answer = function(Workspace._find(options.workspace)[0], options)
    return answer


def _print(answer: Answer, options: argparse.Namespace) -> None:
    if options.json:
        print(json.dumps(answer.data, indent=1, default=str))
    elif answer.text:
        print(answer.text)
    sys.stdout.flush()
    if answer.remark and not options.json:
        print(f"launcher.jobs: {answer.remark}", file=sys.stderr)


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m launcher.jobs",
        description="Submit, follow, compare and keep runs on your own machine.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workspace", metavar="DIR", help="a folder with a config.json")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str, *arguments: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--json", action="store_true", help="print data for a program")
        for argument in arguments:
            if argument.endswith("..."):
                command.add_argument(argument[:-3], nargs="+", metavar=argument[:-4].upper())
            else:
                command.add_argument(argument, metavar=argument.upper())
        return command

    _add_starting(add)
    _add_looking(add)
    _add_keeping(add)
    return parser


def _add_starting(add: _Add) -> None:
    init = add("init", "make a workspace and the config.json that names it")
    init.add_argument("name", nargs="?", metavar="NAME", help="default: default")
    init.add_argument("--store", metavar="DIR", help="where its runs are kept")
    for name, text in (
        ("submit", "start a run, print its id and return"),
        ("run", "start a run, show its log and end as it ends"),
    ):
        command = add(name, text)
        command.add_argument(
            "-e", "--experiment", metavar="NAME", help="default: the folder's name"
        )
        command.add_argument("--name", help="a name of the run's own")
        command.add_argument("--target", metavar="T", help="a compute target (default: local)")
        command.add_argument("--env", metavar="FILE", help="a conda or pip specification")
        command.add_argument("--tag", action="append", default=[], metavar="KEY=VALUE")
        command.add_argument("--source", default=".", metavar="DIR", help="default: here")
        command.add_argument(
            "-n", "--nproc-per-node", type=int, default=1, metavar="N", help="number of ranks"
        )
        command.add_argument(
            "--launcher", metavar="FLAGS", help="flags for python -m launcher, in one word"
        )
        command.add_argument("script", metavar="SCRIPT")
        command.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...")
    wait = add("wait", "wait for the end of a run and end as it did", "run")
    wait.add_argument("--timeout", type=float, metavar="SECONDS")
    cancel = add("cancel", "stop runs and wait until they have ended", "runs...")
    cancel.add_argument("--timeout", type=float, default=60.0, metavar="SECONDS")
    add("retry", "run the same code with the same arguments again", "run")
    add("resume", "the same, with the outputs of the old run at hand", "run")
    add("reproduce", "run the same again and say whether the same came out", "run")
    add("tag", "attach tags: KEY=VALUE; KEY- takes one off", "run", "tags...")
    add("note", "add a remark", "run", "text...")
    register = add("register", "register a file of a run as a model", "run", "path", "name")
    register.add_argument("--tag", action="append", default=[], metavar="KEY=VALUE")


def _add_looking(add: _Add) -> None:
    listing = add("list", "list runs, newest first")
    listing.add_argument(
        "filter", nargs="*", metavar="FILTER", help="status=Failed tag.owner=ada 'lr<0.01' since=2d"
    )
    listing.add_argument("--columns", metavar="NAME,...", help="metrics or tags to show")
    listing.add_argument("-n", "--number", type=int, default=20, help="how many (default: 20)")
    listing.add_argument("--all", action="store_true", help="list every run")
    add("show", "show everything about a run", "run")
    logs = add("logs", "print the log of a run", "run")
    logs.add_argument("-f", "--follow", action="store_true", help="go on until the run has ended")
    logs.add_argument("--rank", default="all", metavar="N", help="one rank's lines (default: all)")
    metrics = add("metrics", "show the metrics of a run", "run")
    metrics.add_argument("name", nargs="?", metavar="NAME")
    metrics.add_argument("--plot", action="store_true", help="draw them")
    metrics.add_argument("--csv", action="store_true", help="print them as CSV")
    add("compare", "show what differs between runs", "runs...")
    diff = add("diff", "show the code of a run against another's, or the folder of now", "run")
    diff.add_argument("other", nargs="?", metavar="RUN")
    add("files", "list the files of a run", "run")
    models = add("models", "list registered models")
    models.add_argument("name", nargs="?", metavar="NAME")
    compute = add("compute", "list compute targets, or add a queue on this machine")
    compute.add_argument("--add", metavar="NAME", help="make a target")
    compute.add_argument("--slots", type=int, metavar="N", help="how many runs at a time")
    compute.add_argument("--gpus", metavar="ID,...", help="its GPUs: each rank of a run gets one")
    envs = add("envs", "list registered environments, and those that were built")
    envs.add_argument("--prune", metavar="AGE", help="remove those not used for so long, 30d say")
    add("du", "say where the disk went")
    add("doctor", "check the store and what is installed")


def _add_keeping(add: _Add) -> None:
    download = add("download", "copy a file or folder of a run", "run", "path")
    download.add_argument("--to", default=".", metavar="DIR")
    add("restore-code", "write the code of a run into a new folder", "run", "folder")
    add("delete", "move runs to the trash", "runs...")
    add("undelete", "bring runs back from the trash", "runs...")
    purge = add("purge", "remove for good what is in the trash")
    purge.add_argument("--older-than", default="0s", metavar="AGE", help="30d, say")
    export = add("export", "write a run as a zip archive or into MLflow, or many as CSV")
    export.add_argument("run", nargs="?", metavar="RUN", help="for csv: a filter")
    export.add_argument("--to", choices=("zip", "csv", "mlflow"), default="zip")
    export.add_argument("-o", "--output", metavar="FILE")
    add("reindex", "make the index anew from the folders")
    migrate = add("migrate", "rewrite the import lines of a script or notebook", "file")
    migrate.add_argument("--write", action="store_true", help="change the file")


if TYPE_CHECKING:
    from collections.abc import Callable

    _Add = Callable[..., argparse.ArgumentParser]

if __name__ == "__main__":
    sys.exit(main())
