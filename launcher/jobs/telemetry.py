"""What programs written for Azure ML call about diagnostics and versions: nothing is ever sent."""

from __future__ import annotations

from launcher import __version__ as VERSION  # noqa: N812

__all__ = ["VERSION", "set_diagnostics_collection"]


def set_diagnostics_collection(send_diagnostics: bool = True, verbosity: int = 20) -> None:
    """Do nothing: no diagnostics are collected, whatever is asked for."""
