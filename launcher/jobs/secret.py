"""Values that belong into no record of a run, by the names of their variables. Pure."""

from __future__ import annotations

import copy

from launcher.system.secrets import MASK, is_certainly_secret

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


def mask_definition(definition: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return a definition as it may be kept, and the values that were taken out of it."""
    masked = copy.deepcopy(definition)
    secrets: dict[str, str] = {}
    for variables in _variables_of(masked):
        for name, value in variables.items():
            if is_certainly_secret(name) and value != MASK:
                secrets[name] = value
                variables[name] = MASK
    return masked, secrets


def missing_in(definition: dict[str, Any], environ: Mapping[str, str]) -> list[str]:
    """Return the variables whose values were not kept, and that are not in the environment."""
    return [
        name
        for variables in _variables_of(definition)
        for name, value in variables.items()
        if value == MASK and name not in environ
    ]


def _variables_of(definition: dict[str, Any]) -> list[dict[str, str]]:
    parts = (definition.get("environment") or {}, definition)
    return [part.get("environmentVariables") or {} for part in parts]
