"""Values that belong into no record: by the names that say so. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

# What stands in a record in the place of a secret.
MASK = "***"

# The words of a name that say so; compiled as a pattern they would cost each start a millisecond.
_SINGLE = frozenset(
    f"{kind}{word}"
    for kind in ("", "API", "ACCESS", "PRIVATE")
    for word in ("KEY", "TOKEN", "SECRET", "PASSWORD", "PASSWD", "PWD", "CREDENTIAL", "AUTH")
)
_WORDS = frozenset((*_SINGLE, *(f"{word}S" for word in _SINGLE)))

# Without the plurals, but for that of which nobody says one.
_CERTAIN = frozenset((*_SINGLE, "CREDENTIALS"))

# The shell's folders, which look as if they were passwords.
_HARMLESS = frozenset(("PWD", "OLDPWD"))

# `user:password@` in an address.
_IN_ADDRESS = r"(://[^/@:\s]*):[^/@\s]+@"


def is_secret(name: str) -> bool:
    """Tell whether a variable's name says that its value is a secret."""
    return name not in _HARMLESS and not _WORDS.isdisjoint(name.upper().split("_"))


def is_certainly_secret(name: str) -> bool:
    """Tell the same of a variable that somebody has set for a run, whose value is needed again.

    MAX_TOKENS is a number there, and PWD is no folder.
    """
    return not _CERTAIN.isdisjoint(name.upper().split("_"))


def mask_variables(variables: Mapping[str, str]) -> dict[str, str]:
    """Return variables as they may be kept."""
    return {
        name: MASK if is_secret(name) and value else _mask_address(value)
        for name, value in variables.items()
    }


def mask_arguments(arguments: Iterable[str]) -> list[str]:
    """Return a command line as it may be kept: `--api-key ***`, `--api-key=***`."""
    masked: list[str] = []
    is_next_secret = False
    for argument in arguments:
        name, equals, value = argument.partition("=")
        is_option = name.startswith("-")
        names_secret = is_secret(name.lstrip("-").replace("-", "_"))
        if is_next_secret and not is_option:
            masked.append(MASK)
        elif equals and value and names_secret:
            masked.append(f"{name}={MASK}")
        else:
            masked.append(_mask_address(argument))
        is_next_secret = is_option and names_secret and not equals
    return masked


def _mask_address(text: str) -> str:
    return re.sub(_IN_ADDRESS, rf"\1:{MASK}@", text) if "://" in text else text
