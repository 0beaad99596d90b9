"""`breakpoint()` in a rank that nobody can type for: it says how that is changed.

Loaded when a script calls it.
"""

from __future__ import annotations

import os
import sys
from typing import Any

# The places that have been told of: a loop comes to them again and again.
_told: set[tuple[str, int]] = set()


def pass_by(*args: Any, **options: Any) -> Any:
    """Say how this rank is debugged, and go on: pdb would find its input at the end, and raise.

    What PYTHONBREAKPOINT names may need no input.
    """
    if os.environ.get("PYTHONBREAKPOINT"):
        return sys.__breakpointhook__(*args, **options)
    caller = sys._getframe(2)  # below this function and the hook
    place = caller.f_code.co_filename, caller.f_lineno
    if place not in _told:
        _told.add(place)
        rank, reader = os.environ.get("RANK"), os.environ.get("LAUNCHER_STDIN_RANK")
        sys.stderr.write(
            f"breakpoint() at {place[0]}:{place[1]}: not for rank {rank}, because rank {reader}"
            f" reads what is typed; --stdin-rank {rank} changes that\n"
        )
    return None
