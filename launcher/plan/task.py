"""A process that an engine has started on this host, as which one of our workers is to run."""

from __future__ import annotations

from collections.abc import Mapping

from launcher.named import NamedTuple
from launcher.ranks import Place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from launcher.system.inheritance import Inheritance


class Task(NamedTuple):
    """What makes a worker this rank of the engine's, and not one of our own.

    The descriptors are ours, and stay open for as long as the worker may be started again.
    """

    place: Place
    # The script's arguments, which may differ between ranks.
    args: tuple[str, ...]
    environ: Mapping[str, str]
    inheritance: Inheritance
    # Its stdin, stdout and stderr.
    streams: tuple[int, int, int]
    # Its working folder, then its descriptors by the numbers of `inheritance`.
    handed: tuple[int, ...]
