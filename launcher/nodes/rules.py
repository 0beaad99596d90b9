"""What holds for a whole run of several nodes, and what its coordinator knows when it begins.

Values; nothing in them changes.
"""

from __future__ import annotations

from launcher.named import NamedTuple
from launcher.nodes.losses import Loss
from launcher.nodes.messages import Deputy
from launcher.nodes.restart import RestartPolicy

# The key of the coordinator's own node, which is not reached over a connection.
OWN = 0

# How long the others have, after a coordinator's loss, to notice it and to come to its successor:
# heartbeats and looks at the clock are up to a second apart, and lost packets come a second later.
RESUME_S = 3.0

# When the user is told that this node waits: those that are started together have met by then.
PATIENCE_S = 10.0

# Exit codes of nodes for which there is no run: it was lost, typed wrong, or nobody came.
LOST_CODE = 1
USAGE_CODE = 2
RENDEZVOUS_CODE = 3


class Rules(NamedTuple):
    """What holds for the whole run, by the options of the coordinator's node."""

    run_name: str
    min_nodes: int
    max_nodes: int
    policy: RestartPolicy
    join_timeout_s: float = 600.0
    last_call_s: float = 30.0
    node_timeout_s: float = 6.0
    rescales_now: bool = True
    # What the workers are to find, where it is not ours to choose.
    master_addr: str = ""
    master_port: int = 0
    hostname: str = ""
    run_dir: str | None = None
    # Why others may not find the endpoint, or "".
    doubt: str = ""

    @property
    def is_elastic(self) -> bool:
        return self.min_nodes < self.max_nodes


class Route(NamedTuple):
    """The two ends of the connection over which a node has come."""

    # Its address, as the coordinator sees it; and the coordinator's, as the node has found it.
    of_node: str = ""
    of_coordinator: str = ""


class Past(NamedTuple):
    """What a successor knows of the run that it takes over."""

    generation: int
    num_nodes: int
    num_failures: int
    # The coordinator, and those that should have followed it but had gone, too; and the node ranks
    # of all that are known to have ended.
    losses: tuple[Loss, ...]
    dead: frozenset[int] = frozenset()
    # By which address the others know the successor.
    address: str = ""
    # Those of its last attempt that may have ended with it, and until when nobody of them can have
    # gone on and ended well: they would have waited for the successor as it waits for them.
    absent: tuple[Deputy, ...] = ()
    absent_until: float = 0.0
