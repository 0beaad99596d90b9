"""Notices that a node's memory, or /dev/shm, is about to run full; says so once for each. Pure."""

from __future__ import annotations

from launcher.diagnosis.evidence import format_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from launcher.stats.figures import RankUse
    from launcher.system.usage import Room

# From here on it is worth a warning. Ranks take /dev/shm in larger pieces, batch by batch.
MEMORY_SHARE = 0.95
SHM_SHARE = 0.9


class Fullness:
    """Remembers what has been said."""

    def __init__(self) -> None:
        self._has_warned = {"memory": False, "shm": False}

    def check(
        self, memory: Room, shm: Room, ranks: Sequence[RankUse], *, is_cgroup: bool
    ) -> list[str]:
        """Return what the user is to know now."""
        said = []
        if self._is_news("memory", memory.share >= MEMORY_SHARE):
            where = "of this run's cgroup" if is_cgroup else "of this node"
            said.append(f"the memory {where} is nearly full: {_in_words(memory)}{_who(ranks)}")
        if self._is_news("shm", shm.share >= SHM_SHARE):
            said.append(
                f"/dev/shm is nearly full: {_in_words(shm)}; data workers and NCCL die when it is"
                " (fewer data workers, or a larger --shm-size of the container)"
            )
        return said

    def _is_news(self, name: str, is_full: bool) -> bool:
        is_news = is_full and not self._has_warned[name]
        self._has_warned[name] |= is_full
        return is_news


def _in_words(room: Room) -> str:
    return f"{format_bytes(room.used)} of {format_bytes(room.size)}"


def _who(ranks: Sequence[RankUse]) -> str:
    if not ranks:
        return ""
    most = max(ranks, key=lambda rank: rank.memory)
    together = sum(rank.memory for rank in ranks)
    if len(ranks) == 1:
        return f", rank {most.rank} has {format_bytes(together)}"
    return (
        f"; the ranks here have {format_bytes(together)}, of which rank {most.rank} has"
        f" {format_bytes(most.memory)}"
    )
