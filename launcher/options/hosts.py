"""Lists of hosts: of --hosts, and of the files of Open MPI, DeepSpeed and horovodrun.

Text in, values out; a ValueError says what is wrong with it, and in which line. Pure: reads no file
and looks up no name.
"""

from __future__ import annotations

from collections.abc import Iterable

from launcher.named import NamedTuple

# What names a machine or a user to ssh; a dash in front would be taken for an option.
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
_IPV6_LETTERS = frozenset("0123456789abcdefABCDEF:.")

_ENTRY_SYNTAX = "must be HOST or HOST:N, an address of IPv6 as [ADDRESS]:N"
_LINE_SYNTAX = "must be HOST, HOST:N or HOST slots=N, one host in a line"

# Words of Open MPI for the number of workers, and for the most that a host may be given.
_SLOTS = ("slots", "count", "cpu", "cpus")
_MAX_SLOTS = ("max_slots", "max-slots")


class Host(NamedTuple):
    """One machine of a list."""

    # As the others reach it: a name or an address, without brackets.
    name: str
    # The number of workers; None where the list does not say.
    num_workers: int | None = None
    # Whom to log in as; "" for whom ssh takes.
    user: str = ""

    @property
    def target(self) -> str:
        """The host as ssh wants it."""
        return f"{self.user}@{self.name}" if self.user else self.name


def parse_hosts(text: str) -> tuple[Host, ...]:
    """Return the hosts of `HOST[:N],...`, each once, in their order."""
    if not text:
        return ()
    return _merge(_parse_entry(entry.strip(), _ENTRY_SYNTAX) for entry in text.split(","))


def parse_hostfile(text: str) -> tuple[Host, ...]:
    """Return the hosts of a file, each once, in their order."""
    hosts = []
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.partition("#")[0].strip()
        if line:
            try:
                hosts.append(_parse_line(line))
            except ValueError as problem:
                raise ValueError(f"line {number}, `{line}`: {problem}") from None
    if not hosts:
        raise ValueError("has no host in it")
    return _merge(hosts)


def _parse_line(line: str) -> Host:
    entry, *words = "=".join(map(str.strip, line.split("="))).split()
    host = _parse_entry(entry, _LINE_SYNTAX)
    most = None
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or key not in (*_SLOTS, *_MAX_SLOTS):
            raise ValueError(_LINE_SYNTAX)
        if key in _MAX_SLOTS:
            most = _parse_count(key, value)
        elif host.num_workers is not None:
            raise ValueError("has the number of workers twice")
        else:
            host = host._replace(num_workers=_parse_count(key, value))
    if most is not None and host.num_workers is not None and host.num_workers > most:
        raise ValueError(f"has more workers than its max_slots={most} allows")
    return host


def _parse_entry(entry: str, syntax: str) -> Host:
    user, at, rest = entry.rpartition("@")
    if rest.startswith("["):
        name, bracket, count = rest[1:].partition("]")
        is_valid = bool(bracket) and _is_ipv6(name) and count[:1] in ("", ":")
        colon, count = count[:1], count[1:]
    elif rest.count(":") > 1:  # an address of IPv6 alone
        name, colon, count = rest, "", ""
        is_valid = _is_ipv6(name)
    else:
        name, colon, count = rest.partition(":")
        is_valid = _is_name(name)
    if not is_valid or (at and not _is_name(user)):
        raise ValueError(syntax)
    return Host(name, _parse_count(f"{name}:", count) if colon else None, user)


def _is_name(text: str) -> bool:
    return text[:1] not in ("", "-") and _LETTERS.issuperset(text)


def _is_ipv6(text: str) -> bool:
    address, percent, zone = text.partition("%")
    is_zone = bool(zone) and _LETTERS.issuperset(zone)
    return bool(address) and _IPV6_LETTERS.issuperset(address) and (is_zone or not percent)


def _parse_count(name: str, text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"must have a number of workers of at least 1 behind `{name}`")
    return int(text)


def _merge(hosts: Iterable[Host]) -> tuple[Host, ...]:
    """Return each host once, with the sum of its counts.

    One that stands there several times without a count has a line for each worker, as the files of
    batch systems do.
    """
    found: dict[str, list[Host]] = {}
    for host in hosts:
        found.setdefault(host.target, []).append(host)
    return tuple(
        same[0]
        if len(same) == 1
        else same[0]._replace(num_workers=sum(host.num_workers or 1 for host in same))
        for same in found.values()
    )
