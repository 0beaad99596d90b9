"""What Horovod's stall inspector writes: which ranks keep others waiting, and with which tensors.

A rank that waits in Horovod keeps a processor busy, so a look at output and CPU time finds no hang;
but Horovod's coordinator, usually rank 0, says on stderr who is missing. Pure: bytes and the time
are arguments.
"""

from __future__ import annotations

from collections.abc import Iterator

from launcher.named import NamedTuple
from launcher.ranks import format_ranks

# What a message names in front, where it waits for whom, and the last line before the ranks.
_MARK = b"stall_inspector.cc"
_SECONDS = b"for more than "
_RANKS_FOLLOW = b"Missing ranks:"

# A message has a line for each missing rank, with six tensors at most: a longer one never ends.
_MAX_BYTES = 1 << 20

# Messages about one stall come at each check; one that began later than the last message comes two
# checks after it.
_SAME_STALL_CHECKS = 1.5


class Stall(NamedTuple):
    """Ranks that do not take part in collectives for which others wait."""

    # For at least so many seconds.
    waited_s: float
    # Missing rank -> names of the tensors, as far as Horovod lists them.
    missing: dict[int, tuple[str, ...]]
    # Whether no message before it told of this stall.
    is_new: bool = True

    @property
    def odd_rank(self) -> int | None:
        """The rank for which all others wait; None when ranks wait for each other."""
        return next(iter(self.missing)) if len(self.missing) == 1 else None

    def summary(self) -> str:
        """Return who is waited for: `rank 1 in allreduce.loss; ranks 2-3 in allreduce.a`."""
        groups: dict[tuple[str, ...], list[int]] = {}
        for rank, names in self.missing.items():
            groups.setdefault(names, []).append(rank)
        return "; ".join(
            f"{format_ranks(ranks)} in {', '.join(names)}" for names, ranks in groups.items()
        )


class StallWatch:
    """What the ranks of a node say on stderr, and for how long the same tensors are waited for."""

    def __init__(self) -> None:
        self._readers: dict[int, _Reader] = {}
        # (missing rank, tensor) -> times of the first and of the last message that named them.
        self._seen: dict[tuple[int, str], tuple[float, float]] = {}

    def hear(self, local_rank: int, data: bytes, now: float) -> Stall | None:
        """Take what a rank wrote on stderr; return the last stall that it tells of, or None."""
        stall = None
        for message in self._readers.setdefault(local_rank, _Reader()).find(data):
            was_new = stall is not None and stall.is_new
            stall = self._follow(message, now)
            stall = stall._replace(is_new=stall.is_new or was_new)
        return stall

    def _follow(self, message: Stall, now: float) -> Stall:
        # A loop has the same names in every step: the stall of an earlier step must not count.
        age_s = _SAME_STALL_CHECKS * message.waited_s
        self._seen = {
            pair: (first, last) for pair, (first, last) in self._seen.items() if now - last < age_s
        }
        pairs = [(rank, name) for rank, names in message.missing.items() for name in names]
        is_new = not any(pair in self._seen for pair in pairs)
        began = min(self._seen.get(pair, (now, now))[0] for pair in pairs)
        self._seen.update({pair: (self._seen.get(pair, (now, now))[0], now) for pair in pairs})
        return message._replace(waited_s=message.waited_s + now - began, is_new=is_new)


class _Reader:
    """Finds messages in one stream, however it is cut into pieces."""

    def __init__(self) -> None:
        # The end of what came before: the beginning of the mark, or a message that has begun.
        self._kept = b""
        self._has_begun = False

    def find(self, data: bytes) -> Iterator[Stall]:
        if not self._has_begun:
            edge = len(_MARK) - 1
            if _MARK not in data and _MARK not in self._kept + data[:edge]:
                self._kept = (self._kept + data[-edge:])[-edge:]
                return
        text = self._kept + data
        self._has_begun, self._kept = False, b""
        while True:
            before, mark, text = text.partition(_MARK)
            if not mark:
                self._kept = before[1 - len(_MARK) :]
                return
            message, rest = _parse(text)
            if rest is None:
                self._has_begun, self._kept = len(text) < _MAX_BYTES, mark + text
                return
            if message is not None:
                yield message
            text = rest


def _parse(text: bytes) -> tuple[Stall | None, bytes | None]:
    """Read a message from behind its mark; return it, None for another, and the text behind it.

    The text behind it is None when the message has not ended yet.
    """
    lines = text.split(b"\n")
    unfinished = lines.pop()
    if not lines:
        return None, None
    seconds = lines[0].partition(_SECONDS)[2].partition(b" ")[0]
    if not seconds.isdigit():
        return None, b"\n".join([*lines[1:], unfinished])
    if len(lines) < 2:
        return None, None
    missing: dict[int, tuple[str, ...]] = {}
    if lines[1] == _RANKS_FOLLOW:
        for line in lines[2:]:
            rank, separator, names = line.partition(b": [")
            if not (separator and rank.rstrip(b"!").isdigit() and names.endswith(b"]")):
                break
            missing[int(rank.rstrip(b"!"))] = _names(names[:-1])
    rest = lines[2 + len(missing) :]
    # All in one write: when that has ended with a whole line, no rank is left.
    if not rest and (unfinished or not missing) and lines[1] == _RANKS_FOLLOW:
        return None, None
    return (Stall(float(seconds), missing) if missing else None), b"\n".join([*rest, unfinished])


def _names(text: bytes) -> tuple[str, ...]:
    names = text.removesuffix(b" ...").split(b", ")
    return tuple(name.decode("utf-8", "backslashreplace") for name in names)
