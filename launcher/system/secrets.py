"""Values that belong into no record: by the names that say so. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

# What stands in a record in the place of a secret.
MASK = "***"

_NAMES = re.compile(
    r"(^|_)(API|ACCESS|PRIVATE)?(KEY|TOKEN|SECRET|PASSWORD|PASSWD|PWD|CREDENTIALS?|AUTH)S?(_|$)",
    re.IGNORECASE,
)

# The shell's folders, which look as if they were passwords.
_HARMLESS = frozenset(("PWD", "OLDPWD"))

# `user:password@` in an address.
_IN_ADDRESS = re.compile(r"(://[^/@:\s]*):[^/@\s]+@")


def is_secret(name: str) -> bool:
    """Tell whether a variable's name says that its value is a secret."""
    return bool(_NAMES.search(name)) and name not in _HARMLESS


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
    return _IN_ADDRESS.sub(rf"\1:{MASK}@", text) if "://" in text else text
