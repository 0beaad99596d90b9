"""Values that belong into no record: variables whose names say that they are secrets. Pure."""

from __future__ import annotations

import copy
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# What stands in a record in the place of a secret.
MASK = "***"

_NAMES = re.compile(r"(^|_)(KEY|TOKEN|SECRET|PASSWORD|PASSWD|PWD|CREDENTIALS?|AUTH)(_|$)", re.I)


def is_secret(name: str) -> bool:
    """Tell whether a variable's name says that its value is a secret."""
    return bool(_NAMES.search(name))


def mask_definition(definition: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return a definition as it may be kept, and the values that were taken out of it."""
    masked = copy.deepcopy(definition)
    secrets: dict[str, str] = {}
    for part in (masked.get("environment") or {}, masked):
        variables: dict[str, str] = part.get("environmentVariables") or {}
        for name, value in variables.items():
            if is_secret(name) and value != MASK:
                secrets[name] = value
                variables[name] = MASK
    return masked, secrets
