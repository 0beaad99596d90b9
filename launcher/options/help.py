"""The help of the command line, and the completion of shells; argparse lays them out."""

from __future__ import annotations

import argparse

from launcher.errors import LauncherError
from launcher.options.arguments import list_options
from launcher.options.option import PROG, Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from launcher.options.option import Options

USAGE = f"{PROG} [options] SCRIPT [arguments of the script]"
_DESCRIPTION = "Run a script in several worker processes, each with its rank and world environment."
_EPILOG = (
    "Every option can also be given as a variable: PET_ and its name in capitals, as in"
    " PET_STANDALONE=1 or PET_NPROC_PER_NODE=2. The command line wins. Flags may also be spelled"
    " with underscores, and abbreviated to what begins one flag alone."
)
_HELP_WIDTH = 79
_FLAG_WIDTH = 26


def make_parser(cls: type[Options]) -> argparse.ArgumentParser:
    """Return the parser with every option in its group, for the help and for shell completion."""
    parser = argparse.ArgumentParser(
        prog=PROG,
        usage=USAGE,
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=_HelpFormatter,
        add_help=False,
        allow_abbrev=False,
    )
    groups: dict[str, argparse._ArgumentGroup] = {}
    # Those that only print are the last group.
    for option in sorted(list_options(cls).values(), key=lambda option: not option.group):
        title = option.group or "other"
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        _add(groups[title], option)
    return parser


def make_help_line(option: Option) -> str:
    """Return what the help and the reference say about an option."""
    if option.ignored:
        return f"No meaning here: {option.ignored}."
    if option.is_switch or option.default in ("", (), None) or "(default:" in option.help:
        return option.help
    return f"{option.help} (default: {option.unparse(option.default)})"


def _add(target: argparse._ActionsContainer, option: Option) -> None:
    text = make_help_line(option).replace("%", "%%")
    if option.is_switch:
        target.add_argument(*option.spellings, dest=option.name, action="store_true", help=text)
        return
    choices = "{" + ",".join(option.choices) + "}" if option.choices else None
    metavar = option.metavar or choices
    target.add_argument(*option.spellings, dest=option.name, metavar=metavar, help=text)


class _HelpFormatter(argparse.HelpFormatter):
    """Help with one spelling of each flag, and of one width: argparse need not import shutil."""

    def __init__(self, prog: str, **_: object) -> None:
        super().__init__(prog, max_help_position=_FLAG_WIDTH, width=_HELP_WIDTH)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        flags = [flag for flag in action.option_strings if "_" not in flag]
        return ", ".join(flags) if action.nargs == 0 else f"{', '.join(flags)} {action.metavar}"


def make_completion(parser: argparse.ArgumentParser, shell: str) -> str:
    """Return the script that `shell` (bash, zsh or tcsh) reads; LauncherError without shtab."""
    try:
        import shtab
    except ImportError:
        raise LauncherError(
            "--print-completion needs the package shtab, which is not installed.",
            hint="Type: pip install shtab",
        ) from None
    # The completion belongs to the console script; shells complete no command of three words.
    parser.prog = "launcher"
    parser.usage = None
    parser.add_argument("script").complete = shtab.FILE  # type: ignore[attr-defined]
    return str(shtab.complete(parser, shell=shell))
