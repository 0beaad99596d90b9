"""The command line as text: what was typed for us, and where the script begins.

Read here and not by argparse, which costs a start four milliseconds, removes a `--` that belongs to
the script, and looks at the script's own arguments. Behind the script nothing is touched, byte for
byte. It knows the options only through an `Options` class. Pure.
"""

from __future__ import annotations

from launcher.errors import UsageError
from launcher.options.option import PROG, Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from launcher.options.option import Given, Options

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
    converted. Of a flag that is given twice the last one counts; of a list, all.
    """
    table = {flag: option for option in list_options(cls).values() for flag in option.spellings}
    given: dict[str, Given] = {}
    end = 0
    while end < len(argv) and argv[end].startswith("-") and argv[end] not in ("-", "--"):
        token = _write_out(argv[end], table)
        end += 1
        for flag, option, attached in _find_options(token, table):
            if option.is_switch:
                given[option.name] = flag, True
                continue
            value = attached
            if value is None:
                value = _take_value(flag, argv[end : end + 1])
                end += 1
            if option.is_list and option.name in given:
                value = f"{given[option.name][1]},{value}"
            given[option.name] = flag, value
    script = argv[end + 1 :] if argv[end : end + 1] == ["--"] else argv[end:]
    return given, list(script)


def _find_options(token: str, table: Mapping[str, Option]) -> list[tuple[str, Option, str | None]]:
    """Return the options of one argument: the flag, and the value; None if that comes next."""
    if token.startswith("--"):
        flag, equals, value = token.partition("=")
        option = _look_up(flag, token, table)
        if equals and option.is_switch:
            raise _no_value(flag, value)
        return [(flag, option, value if equals else None)]
    found: list[tuple[str, Option, str | None]] = []
    for index, letter in enumerate(token[1:], start=1):
        option, rest = _look_up(f"-{letter}", token, table), token[index + 1 :]
        if not option.is_switch:
            return [*found, (f"-{letter}", option, rest.removeprefix("=") if rest else None)]
        if rest.startswith("="):
            raise _no_value(f"-{letter}", rest[1:])
        found.append((f"-{letter}", option, None))
    return found


def _no_value(flag: str, value: str) -> UsageError:
    return UsageError(f"{flag}: takes no value, and {value!r} was given.", hint=f"Type: {flag}")


def _take_value(flag: str, following: Sequence[str]) -> str:
    """Return the value of a flag, which is the next argument, unless that looks like a flag."""
    if not following:
        raise UsageError(f"{flag} needs a value.", hint=f"Type: {PROG} --help")
    value = following[0]
    looks_like_flag = value.startswith("-") and value != "-" and " " not in value
    if looks_like_flag and not value[1:].replace(".", "", 1).isdecimal():
        raise UsageError(
            f"{flag} needs a value, and {value} looks like a flag.",
            hint=f"If it is the value, type: {flag}={value}",
        )
    return value


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


def _look_up(flag: str, token: str, table: Mapping[str, Option]) -> Option:
    if flag in table:
        return table[flag]
    import difflib

    near = difflib.get_close_matches(flag.replace("_", "-"), _shown_flags(table), n=1)
    hint = f"Did you mean {near[0]}? " if near else ""
    hint += "Options of the script itself stand behind the script."
    raise UsageError(f"{token}: there is no such option.", hint=hint)
