"""Shell completion for the `launcher` command, made by the optional package shtab from our parser.

It knows neither the options nor what they mean. Layer 3.
"""

from __future__ import annotations

from launcher.errors import LauncherError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse


def completion_script(parser: argparse.ArgumentParser, shell: str) -> str:
    """Return the script that `shell` (bash, zsh or tcsh) reads; LauncherError when shtab is not installed."""
    try:
        import shtab
    except ImportError:
        raise LauncherError(
            "--print-completion needs the package shtab, which is not installed.",
            hint="Type: pip install shtab",
        ) from None
    # The completion belongs to the console script; shells complete no command of three words.
    parser.prog = "launcher"
    parser.usage = None
    parser.add_argument("script").complete = shtab.FILE  # type: ignore[attr-defined]
    return str(shtab.complete(parser, shell=shell))
