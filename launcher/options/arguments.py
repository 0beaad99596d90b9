"""The command line as text: what was typed for us, where the script begins, the help.

Where the script begins is decided here and not by argparse, which removes a `--` that belongs to
the script and looks at the script's own arguments; behind the script nothing is touched, byte for
byte. It knows the options only through an `Options` class. Pure.
"""

from __future__ import annotations

import argparse

from launcher.errors import LauncherError, UsageError
from launcher.options.option import PROG, Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from launcher.options.option import Given, Options

USAGE = f"{PROG} [options] SCRIPT [arguments of the script]"
_DESCRIPTION = "Run a script in several worker processes, each with its rank and world environment."
_EPILOG = (
    "Every option can also be given as a variable: PET_ and its name in capitals, as in"
    " PET_STANDALONE=1 or PET_NPROC_PER_NODE=2. The command line wins. Flags may also be spelled"
    " with underscores, and abbreviated to what begins one flag alone."
)
_HELP_WIDTH = 79
_FLAG_WIDTH = 26

# Options of the command itself and no fields of a launch: each one prints something and ends.
_COMMANDS = {
    "help": Option("-h", "--help", default=False, help="Print this text."),
    "version": Option("--version", default=False, help="Print the version."),
    "print_completion": Option(
        "--print-completion",
        default="",
        choices=("bash", "zsh", "tcsh"),
        help="Print a completion script for this shell (needs the package shtab).",
    ),
}
for _name, _option in _COMMANDS.items():
    _option.bind(_name, type(_option.default).__name__)


def list_options(cls: type[Options]) -> dict[str, Option]:
    """Return every option of the command line by name, also those that only print."""
    return _COMMANDS | {name: field for name, field in cls.options.items() if field.flags}


def read_arguments(cls: type[Options], argv: Sequence[str]) -> tuple[dict[str, Given], list[str]]:
    """Split arguments into what was given for the launcher, by name, and the script with its own.

    UsageError for an unknown flag, a missing value, and a value behind a switch. Values are not
    converted.
    """
    table = {flag: option for option in list_options(cls).values() for flag in option.spellings}
    own, command, used = _split(argv, table)
    parser = _Parser(prog=PROG, formatter_class=_HelpFormatter, add_help=False, allow_abbrev=False)
    for option in used:
        _add(parser, option)
    return {name: given for name, given in vars(parser.parse_args(own)).items() if given}, command


def make_parser(cls: type[Options]) -> argparse.ArgumentParser:
    """Return the parser with every option in its group, for the help and for shell completion."""
    parser = _Parser(
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


def _split(
    argv: Sequence[str], table: Mapping[str, Option]
) -> tuple[list[str], list[str], list[Option]]:
    """Return the launcher's own arguments, the script with its own, and the options in use.

    Abbreviated flags are written out.
    """
    used: dict[str, Option] = {}
    own: list[str] = []
    end = 0
    while end < len(argv) and argv[end].startswith("-") and argv[end] not in ("-", "--"):
        token = _write_out(argv[end], table)
        own.append(token)
        end += 1
        for option, value_follows in _find_options(token, table):
            used[option.name] = option
            if value_follows:
                if end == len(argv):
                    raise UsageError(f"{token} needs a value.", hint=f"Type: {PROG} --help")
                own.append(argv[end])
                end += 1
    script = argv[end + 1 :] if argv[end : end + 1] == ["--"] else argv[end:]
    return own, list(script), list(used.values())


def _write_out(token: str, table: Mapping[str, Option]) -> str:
    """Return an argument with its flag in full, where that begins as one option's alone does."""
    flag, equals, value = token.partition("=")
    if not flag.startswith("--") or flag in table:
        return token
    typed = flag.replace("_", "-")
    meant = [known for known in _shown_flags(table) if known.startswith(typed)]
    if len(meant) > 1:
        raise UsageError(
            f"{token}: this may be {', '.join(meant[:-1])} or {meant[-1]}.",
            hint="Type more letters of the one that you mean.",
        )
    return f"{meant[0]}{equals}{value}" if meant else token


def _shown_flags(table: Mapping[str, Option]) -> list[str]:
    return [flag for flag in table if flag.startswith("--") and "_" not in flag]


def _find_options(token: str, table: Mapping[str, Option]) -> list[tuple[Option, bool]]:
    """Return the options of one argument, and of each whether its value is the next argument."""
    if token.startswith("--"):
        flag, equals, _ = token.partition("=")
        option = _look_up(flag, token, table)
        return [(option, not equals and not option.is_switch)]
    found = []
    for index, letter in enumerate(token[1:], start=1):
        option = _look_up(f"-{letter}", token, table)
        found.append((option, not option.is_switch and index == len(token) - 1))
        if not option.is_switch:
            break
    return found


def _look_up(flag: str, token: str, table: Mapping[str, Option]) -> Option:
    if flag in table:
        return table[flag]
    import difflib

    near = difflib.get_close_matches(flag.replace("_", "-"), _shown_flags(table), n=1)
    hint = f"Did you mean {near[0]}? " if near else ""
    hint += "Options of the script itself stand behind the script."
    raise UsageError(f"{token}: there is no such option.", hint=hint)


class _Parser(argparse.ArgumentParser):
    # Argparse promises to exit; we raise.
    def error(self, message: str) -> object:  # type: ignore[override]
        raise UsageError(f"{message.removeprefix('argument ')}.", hint=f"Type: {PROG} --help")


class _Given(argparse.Action):
    """Keep the flag as it was typed beside its text, so that messages can name it."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[object] | None,
        option_string: str | None = None,
    ) -> None:
        setattr(namespace, self.dest, (option_string, values if self.nargs is None else True))


class _GivenMore(_Given):
    """Keep what was given before, too: `--export A --export B` means both."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[object] | None,
        option_string: str | None = None,
    ) -> None:
        before: Given | None = getattr(namespace, self.dest)
        super().__call__(
            parser, namespace, f"{before[1]},{values}" if before else values, option_string
        )


def _add(target: argparse._ActionsContainer, option: Option) -> None:
    target.add_argument(
        *option.spellings,
        dest=option.name,
        action=_GivenMore if option.is_list else _Given,
        nargs=0 if option.is_switch else None,
        metavar=option.metavar
        or ("{" + ",".join(option.choices) + "}" if option.choices else None),
        help=make_help_line(option).replace("%", "%%"),
    )


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
