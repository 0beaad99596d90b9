"""The small languages inside option values: node ranges, streams, ranks, signals, text filters.

Each function takes the text and returns its parsed form, or raises ValueError whose text ends a
sentence that begins with the option: "must be ...". Who typed it and what to type instead is added
by others. Pure.
"""

from __future__ import annotations

STDOUT = 1
STDERR = 2

# The key of a stream map that has one value for all local ranks.
EVERY_RANK = -1

_NOT_STREAMS = (
    "must be 0 (none), 1 (stdout), 2 (stderr) or 3 (both) for all workers, or pairs of local rank"
    " and such a number as in 0:1,1:2"
)


def parse_nodes(text: str) -> tuple[int, int]:
    """Return (min, max) of `N` or `MIN:MAX`."""
    low, colon, high = text.partition(":")
    try:
        nodes = (int(low), int(high if colon else low))
    except ValueError:
        raise ValueError("must be a number of nodes, or MIN:MAX") from None
    if not 0 < nodes[0] <= nodes[1]:
        raise ValueError("must be 1 or more, and MIN not above MAX")
    return nodes


def parse_endpoint(text: str) -> tuple[str, int]:
    """Return (host, port) of `HOST`, `HOST:PORT` or `[IPv6]:PORT`; port 0 where there is none."""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        port = rest[1:] if rest.startswith(":") else rest
    elif text.count(":") > 1:  # an address of IPv6 alone
        host, bracket, port = text, "]", ""
    else:
        host, _, port = text.partition(":")
        bracket = "]"
    if not port and not text.endswith(":"):
        port = "0"
    if not bracket or not port.isdecimal() or int(port) > 65535 or (text and not host):
        raise ValueError("must be HOST or HOST:PORT, an address of IPv6 in brackets")
    return host, int(port)


def parse_conf(text: str) -> dict[str, float]:
    """Return what `KEY=VALUE,...` sets of the keys that have a meaning here; is_host is 0 or 1."""
    settings: dict[str, float] = {}
    for pair in filter(None, (part.strip() for part in text.split(","))):
        key, _, value = pair.partition("=")
        if key == "is_host":
            value = {"true": "1", "yes": "1", "false": "0", "no": "0"}.get(value.lower(), value)
        elif key not in ("join_timeout", "last_call_timeout", "timeout"):
            continue
        try:
            settings[key] = float(value)
        except ValueError:
            settings[key] = -1.0
        if not 0 <= settings[key] < float("inf"):
            raise ValueError(f"must have a number for {key}, as in {key}=60")
    return settings


def parse_workers(text: str) -> int | str:
    """Return a number of at least 1, or one of the words cpu, gpu and auto."""
    if text in ("cpu", "gpu", "auto"):
        return text
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise ValueError("must be a number of at least 1, or one of the words cpu, gpu and auto")
    return number


def parse_streams(text: str) -> dict[int, int]:
    """Return local rank -> sum of STDOUT and STDERR; EVERY_RANK -> it, for one number for all."""
    streams: dict[int, int] = {}
    for pair in [f"{EVERY_RANK}:{text}"] if ":" not in text else text.split(","):
        rank, _, bits = pair.partition(":")
        if bits not in ("0", "1", "2", "3") or not (rank.isdecimal() or ":" not in text):
            raise ValueError(_NOT_STREAMS)
        streams[int(rank)] = int(bits)
    return streams


def select_streams(streams: dict[int, int], local_rank: int) -> int:
    """Return the bits for one local rank; a rank that is not listed has none, as in torchrun."""
    return streams.get(local_rank, streams.get(EVERY_RANK, 0))


def parse_ranks(text: str) -> frozenset[int] | None:
    """Return the local ranks of a comma-separated list; None for all, when it is empty."""
    if not text:
        return None
    ranks = [rank.strip() for rank in text.split(",")]
    if not all(rank.isdecimal() for rank in ranks):
        raise ValueError("must be local ranks with commas between them, as in 0,1")
    return frozenset(int(rank) for rank in ranks)


def parse_console_ranks(text: str) -> frozenset[int] | None:
    """Return the ranks of a list of numbers and ranges such as `0,8-15`; None for all."""
    if text in ("", "all"):
        return None
    ranks: set[int] = set()
    for part in text.split(","):
        low, dash, high = (piece.strip() for piece in part.partition("-"))
        if not low.isdecimal() or (dash and not high.isdecimal()) or int(high or low) < int(low):
            raise ValueError("must be ranks with commas between them, as in 0,8-15, or `all`")
        ranks.update(range(int(low), int(high or low) + 1))
    return frozenset(ranks)


def parse_filters(text: str) -> tuple[bytes, ...]:
    """Return the texts of a comma-separated list but for empty ones; `,,` stands for a comma."""
    texts = text.replace(",,", "\0").split(",")
    return tuple(part.replace("\0", ",").encode() for part in texts if part)


def parse_signals(text: str) -> tuple[int, ...]:
    """Return the signal numbers of names such as `SIGTERM,SIGHUP`."""
    import signal

    numbers = []
    for name in filter(None, (part.strip() for part in text.split(","))):
        number = getattr(signal, name, None)
        if not isinstance(number, signal.Signals):
            raise ValueError(
                f"must be names of signals with commas between them; there is no {name}"
            )
        if number in (signal.SIGKILL, signal.SIGSTOP):
            raise ValueError(f"must not contain {name}: no process can handle it")
        numbers.append(int(number))
    return tuple(dict.fromkeys(numbers))


def parse_limit(text: str) -> tuple[int, float]:
    """Return (count, seconds) of `N/SECONDS`; (0, 0.0) when the text is empty."""
    if not text:
        return 0, 0.0
    count, _, seconds = text.partition("/")
    try:
        limit = (int(count), float(seconds))
    except ValueError:
        raise ValueError(
            "must be a number of restarts and a number of seconds, as in 3/600"
        ) from None
    if limit[0] < 1 or not 0 < limit[1] < float("inf"):
        raise ValueError(
            "must be a number of restarts of at least 1 and seconds above 0, as in 3/600"
        )
    return limit


def parse_codes(text: str) -> frozenset[int]:
    """Return the exit codes of a list of numbers and ranges such as `2,64-78`."""
    codes: set[int] = set()
    for part in filter(None, (part.strip() for part in text.split(","))):
        low, dash, high = part.partition("-")
        if (
            not low.isdecimal()
            or (dash and not high.isdecimal())
            or int(high or low) > 255
            or int(high or low) < int(low)
        ):
            raise ValueError(
                "must be exit codes between 0 and 255 with commas between them, as in 2,64-78"
            )
        codes.update(range(int(low), int(high or low) + 1))
    return frozenset(codes)
