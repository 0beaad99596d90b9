"""A supervisor that waits, loaded and with its options checked, until all hosts have got that far.

So a host where something is missing is known before anything runs anywhere, and the slowest host
costs the others no time. What is still missing is where the nodes meet, and whether that is here:
that is the signal to go.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping

from launcher.options.spec import LaunchSpec

# Two numbers, of descriptors: one gives orders, the first of which is to go; the other is told that
# we are ready.
_VARIABLE = "LAUNCHER_STANDBY"


class Standby:
    """The wait of a supervisor for the others."""

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        """Take the variable away, and the descriptors: what is started meanwhile has neither."""
        self.orders, self._ready = map(int, environ.pop(_VARIABLE).split())
        for fd in (self.orders, self._ready):
            os.set_inheritable(fd, False)

    def wait(self, spec: LaunchSpec) -> LaunchSpec | None:
        """Return the spec of the launch that is to begin now; None where none is."""
        if spec.max_nodes > 1:
            import launcher.nodes.remote  # noqa: F401  (needed in a moment, and now there is time)
        os.write(self._ready, b"ready\n")
        os.close(self._ready)
        line = b""
        while not line.endswith(b"\n"):  # what stands behind it is for others to read
            letter = os.read(self.orders, 1)
            if not letter:
                return None
            line += letter
        endpoint, _, is_host = os.fsdecode(line.strip()).partition(" ")
        if not endpoint:  # one node meets nobody
            return spec
        return spec.replace(rdzv_endpoint=endpoint, rdzv_conf=f"{spec.rdzv_conf},is_host={is_host}")
