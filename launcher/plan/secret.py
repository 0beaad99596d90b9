"""The secret by which the nodes of a run know each other, as the user has given it."""

from __future__ import annotations

import os
from collections.abc import Mapping

from launcher.errors import UsageError
from launcher.options.spec import LaunchSpec


def read_secret(spec: LaunchSpec, environ: Mapping[str, str]) -> bytes:
    """Return the secret of the run's nodes; empty without one.

    UsageError for a file that cannot be read, that is empty, or that others may read.
    """
    if spec.secret_file is None:
        return os.fsencode(environ.get("LAUNCHER_SECRET", ""))
    path = os.path.expanduser(spec.secret_file)
    try:
        with open(path, "rb") as file:
            mode, secret = os.fstat(file.fileno()).st_mode, file.read(4096).strip()
    except OSError as error:
        raise spec.error("secret_file", f"cannot be read: {error.strerror}") from None
    if mode & 0o077:
        raise UsageError(
            f"{spec.find_source('secret_file')} {spec.secret_file}: others may read it.",
            hint=f"Type: chmod 600 {spec.secret_file}",
        )
    if not secret:
        make = f"head -c 24 /dev/urandom | base64 > {spec.secret_file}"
        raise spec.error("secret_file", "is empty", f"Type: {make}")
    return secret
