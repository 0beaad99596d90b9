"""Slurm's short forms: node lists ("host[1,5-9],other3") and counts per node ("2(x3),1").

Owns the two notations, written out without asking `scontrol`, which waits 60 s when its
configuration file is missing. Knows nothing of environment variables. Pure.
"""

from __future__ import annotations

from launcher.errors import UsageError

# More names than the largest cluster has: a broken list must not fill the memory.
MAX_NODES = 100_000


def expand_nodes(nodelist: str) -> list[str]:
    """Write a node list out: "n[1-2,04],m" is n1, n2, n04, m; UsageError for a broken one."""
    names: list[str] = []
    for item in _split(nodelist):
        names += _expand(item, nodelist)
        if len(names) > MAX_NODES:
            raise _broken(nodelist)
    return names


def expand_counts(counts: str) -> list[int]:
    """Write counts per node out: "2(x3),1" is 2, 2, 2, 1. Raises UsageError for a broken list."""
    result: list[int] = []
    for item in counts.split(","):
        count, repeated, times = item.strip().partition("(x")
        times = "1" if not repeated else times[:-1] if times.endswith(")") else ""
        if not _is_number(count) or not _is_number(times) or int(times) > MAX_NODES:
            raise UsageError(f"The list of tasks per node {counts!r} is not one that Slurm writes.")
        result += [int(count)] * int(times)
    return result


def _split(nodelist: str) -> list[str]:
    """Cut at the commas that stand outside brackets."""
    items, depth, start = [], 0, 0
    for at, letter in enumerate(nodelist + ","):
        depth += (letter == "[") - (letter == "]")
        if depth not in (0, 1):
            raise _broken(nodelist)
        if letter == "," and depth == 0:
            items.append(nodelist[start:at].strip())
            start = at + 1
    if depth or not all(items):
        raise _broken(nodelist)
    return items


def _expand(item: str, nodelist: str) -> list[str]:
    """Write one item out; an item may have several brackets ("r[1-2]n[01-02]")."""
    head, bracket, rest = item.partition("[")
    if not bracket:
        return [item]
    inside, _, tail = rest.partition("]")
    tails = _expand(tail, nodelist)
    numbers = [
        number for part in inside.split(",") for number in _expand_range(part.strip(), nodelist)
    ]
    if len(numbers) * len(tails) > MAX_NODES:
        raise _broken(nodelist)
    return [head + number + end for number in numbers for end in tails]


def _expand_range(part: str, nodelist: str) -> list[str]:
    """Return the numbers of "5" or "08-11", with as many leading zeros as the first one has."""
    first, dash, last = part.partition("-")
    last = last if dash else first
    if not _is_number(first) or not _is_number(last) or not 0 <= int(last) - int(first) < MAX_NODES:
        raise _broken(nodelist)
    return [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _broken(nodelist: str) -> UsageError:
    return UsageError(f"The node list {nodelist!r} is not one that Slurm writes.")
