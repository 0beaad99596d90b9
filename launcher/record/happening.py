"""One thing that has happened in a run: what the record keeps, and the timeline shows."""

from __future__ import annotations

from collections.abc import Mapping

from launcher.named import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Happening(NamedTuple):
    """One thing that has happened; `at` in seconds since 1970."""

    at: float
    name: str
    fields: Mapping[str, Any]
