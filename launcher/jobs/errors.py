"""The exceptions of the run layer, under the names that Azure ML's users catch.

LauncherError
  JobsError                            base of all below
    ActivityFailedException            a run ended in Failed and somebody waited for it
    ComputeTargetException             there is no such compute target, or it cannot be made
    ModelNotFoundException             there is no such model or version
    EnvironmentException               an environment is unknown or cannot be built
    RunEnvironmentException            this process is in no run
    StoreException                     the store cannot be read or written
  RunConfigurationException            what was asked contradicts itself (a UsageError)
"""

from __future__ import annotations

from launcher.errors import LauncherError, UsageError


class JobsError(LauncherError):
    """Base of what the run layer raises on purpose."""


class ActivityFailedException(JobsError):
    """A run ended in Failed; `error` is what `get_details()["error"]` says."""

    def __init__(self, message: str, *, error: object = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.error = error


class ComputeTargetException(JobsError):
    """There is no compute target of this name, or it cannot be made."""


class ModelNotFoundException(JobsError):
    """There is no model of this name or version."""


class EnvironmentException(JobsError):
    """An environment is unknown, or cannot be built as it is asked for."""


class RunEnvironmentException(JobsError):
    """This process is in no run, and an offline one was not wanted."""


class StoreException(JobsError):
    """The store cannot be read or written; the message names the path and the reason."""


class RunConfigurationException(UsageError):
    """What was asked of a run is incomplete or contradicts itself."""
