"""What the run layer shows where its users expect text: the only file that prints for the library.

Azure ML's users read the progress of a run in the cell that waits for it, so waiting shows it.
"""

from __future__ import annotations

import sys


def show(text: str = "", *, end: str = "\n") -> None:
    """Print for the user who asked for output."""
    print(text, end=end, flush=True)


def warn(text: str) -> None:
    """Print one line for the user that is no result."""
    print(f"launcher.jobs: {text}", file=sys.stderr, flush=True)
