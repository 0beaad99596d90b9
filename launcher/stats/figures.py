"""The figures of one look at a node and its ranks; one JSON object each in `resources.jsonl`.

Pure. Bytes and seconds throughout; a figure that nobody could take is None.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from launcher.named import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class RankUse(NamedTuple):
    """What a rank uses, together with all processes below it."""

    rank: int
    pid: int
    # CPU time since its start, and how many CPUs it has kept busy since the look before.
    cpu_s: float
    cpus: float
    # Memory in use. What processes share counts for each of them in `rss`, and once in `pss`, which
    # is taken more rarely.
    rss: int
    pss: int | None
    # The highest `rss` so far.
    peak: int
    threads: int
    processes: int
    # From and to disks.
    read: int
    written: int
    gpu: int | None = None
    # From ctx.heartbeat(): steps, their rate, time spent in collective calls of ctx, and by how
    # much the rank comes later to the same step than the first of its node.
    steps: int | None = None
    steps_per_s: float | None = None
    waited_s: float | None = None
    late_s: float | None = None

    @property
    def memory(self) -> int:
        """What it really holds, as far as that is known."""
        return self.rss if self.pss is None else min(self.pss, self.rss)


class GpuUse(NamedTuple):
    """One GPU of a node."""

    number: int
    name: str
    memory: int
    memory_size: int
    # Percent of the time in which it computed something.
    busy: int | None


class NodeUse(NamedTuple):
    """A node, whoever uses it."""

    host: str
    cpus: float
    num_cpus: int
    memory: int
    # Of the node; or of the cgroup, where that allows less.
    memory_size: int
    shm: int
    shm_size: int
    gpus: tuple[GpuUse, ...] = ()


class Sample(NamedTuple):
    """One look at a node and its ranks."""

    time: float
    attempt: int
    node: NodeUse
    ranks: tuple[RankUse, ...]

    def to_json(self) -> str:
        """Return it as one line."""
        fields = {
            "time": round(self.time, 3),
            "attempt": self.attempt,
            "node": {**self.node._asdict(), "gpus": [gpu._asdict() for gpu in self.node.gpus]},
            "ranks": [
                {name: value for name, value in rank._asdict().items() if value is not None}
                for rank in self.ranks
            ],
        }
        return json.dumps(fields)


def decode_sample(given: Mapping[str, Any]) -> Sample:
    """Read what `to_json` wrote; fields that are not known are left out.

    LookupError or TypeError for everything else.
    """
    node = given["node"]
    gpus = tuple(GpuUse(**_known(GpuUse, gpu)) for gpu in node.get("gpus", ()))
    return Sample(
        given["time"],
        given["attempt"],
        NodeUse(**{**_known(NodeUse, node), "gpus": gpus}),
        tuple(RankUse(**{"pss": None, **_known(RankUse, rank)}) for rank in given["ranks"]),
    )


def _known(kind: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: given[name] for name in kind._fields if name in given}
