"""The exceptions of the launcher, with the exit code and the hint that each one carries.

    LauncherError                       1
      UsageError                        2    bad or contradictory options; names the flag
        EnvironmentMismatch             2    flags and scheduler disagree; names both values
      SpawnError                  126/127    cannot be executed / not found, as shells say it
      RendezvousError                   3    the nodes did not come together
      WorkerFailed           code or 128+n   a worker failed; carries the failure report

Imports nothing of this package. The library raises these; only the command line prints
them and exits.
"""

from __future__ import annotations


class LauncherError(Exception):
    """Base of everything that this package raises on purpose.

    `hint` is the next thing to do, usually a command to type; the command line prints it behind the
    message.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".rstrip()


class UsageError(LauncherError):
    """An option, an environment variable or a script argument is wrong or contradicts another."""

    exit_code = 2


class EnvironmentMismatch(UsageError):
    """The flags and the scheduler that started us disagree."""


class SpawnError(LauncherError):
    """A worker's command cannot be started: 127, it was not found; 126, it cannot be executed."""

    def __init__(self, message: str, *, exit_code: int, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.exit_code = exit_code


class RendezvousError(LauncherError):
    """The nodes of a run did not come together."""

    exit_code = 3
