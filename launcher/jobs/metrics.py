"""Metrics of a run: one line for each call, appended to a file of the rank's own, and read back.

    {"n": name, "v": value, "t": time, "s": step}           run.log
    {"n": name, "k": "list"|"row"|"table"|"image", "v": ..., "t": time}

A number that JSON does not know stands as {"v": null, "x": "nan"}. Logging never raises into
training and never waits for anybody.
"""

from __future__ import annotations

import json
import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

_INFINITE = {"nan": float("nan"), "inf": float("inf"), "-inf": float("-inf")}


class Writer:
    """Appends the metrics of one rank; safe in forked processes."""

    def __init__(self, folder: str, rank: int) -> None:
        self._path = os.path.join(folder, f"rank_{rank}.jsonl")
        self._fd = -1
        self._pid = 0
        self._names: dict[str, str] = {}
        self._has_warned = False

    def log(self, name: str, value: object, step: int | None = None) -> None:
        """Append one value."""
        try:
            kind = type(value)
            if kind is float or kind is int:
                self._append(name, _number(value), step)  # type: ignore[arg-type]
            else:
                self._append(name, _encode_value(value), step)
        except Exception as error:
            self._warn(error)

    def log_object(self, name: str, kind: str, value: object) -> None:
        """Append a list, a row, a table or the name of an image."""
        try:
            self._append(name, _dump(value), None, kind)
        except Exception as error:
            self._warn(error)

    def _append(self, name: str, value: str, step: int | None, kind: str = "") -> None:
        key = self._names.get(name)
        if key is None:
            key = self._names[name] = json.dumps(str(name))
        more = f', "s": {int(step)}' if step is not None else ""
        more += f', "k": "{kind}"' if kind else ""
        line = f'{{"n": {key}, "v": {value}, "t": {time.time():.6f}{more}}}\n'
        if self._pid != os.getpid():  # a data-loader worker has descriptors of its own
            self._open()
        os.write(self._fd, line.encode())

    def _open(self) -> None:
        os.makedirs(os.path.dirname(self._path), exist_ok=True)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._fd = os.open(self._path, flags, 0o666)
        self._pid = os.getpid()

    def _warn(self, error: Exception) -> None:
        if not self._has_warned:
            self._has_warned = True
            what = error.strerror if isinstance(error, OSError) else error
            print_once = f"launcher.jobs: a metric was not written to {self._path}: {what}\n"
            try:
                sys.stderr.write(print_once)
            except (OSError, AttributeError):
                pass


def _number(value: float) -> str:
    text = repr(value)
    return f'null, "x": "{text}"' if text in _INFINITE else text


def _encode_value(value: object) -> str:
    plain = to_plain(value)
    if isinstance(plain, (int, float)) and not isinstance(plain, bool):
        return _number(plain)
    return _dump(plain)


def _dump(value: object) -> str:
    return json.dumps(to_plain(value))


def to_plain(value: object) -> Any:
    """Return a value as JSON knows it: scalars and arrays of numpy and torch become numbers."""
    if value is None or isinstance(value, (bool, int, float, str)):
        # Sub-classes, numpy.float64 among them, are written as what they are.
        return value if type(value) in (bool, int, float, str, type(None)) else _base(value)
    if isinstance(value, dict):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, range)):
        return [to_plain(item) for item in value]
    convert = getattr(value, "tolist", None)  # a scalar of numpy or torch gives a number
    if convert is not None:
        return to_plain(convert())
    if hasattr(value, "__iter__"):
        return [to_plain(item) for item in value]
    return str(value)


def _base(value: object) -> Any:
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return str(value)


class Series:
    """All values that one rank logged under one name."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.values: list[Any] = []
        self.steps: list[int | None] = []
        self.times: list[float] = []

    def plain(self) -> Any:
        """Return them as `get_metrics()` does: one value itself, several as a list."""
        if self.kind == "row" and all(isinstance(value, dict) for value in self.values):
            columns = _as_columns(self.values)
            if len(self.values) == 1:
                return {key: value[0] for key, value in columns.items()}
            return columns
        if self.kind == "list":
            lists = [value if isinstance(value, list) else [value] for value in self.values]
            return [item for value in lists for item in value]
        return self.values[0] if len(self.values) == 1 else list(self.values)


class Collected(dict[str, Series]):
    """Series by their names."""

    def add(self, name: str, kind: str, value: Any) -> Series:
        """Add one value; return the series to which it belongs."""
        series = self.get(name)
        if series is None:
            series = self[name] = Series(kind)
        series.values.append(value)
        return series


def read_rank(path: str, tail_bytes: int | None = None) -> dict[str, Series]:
    """Return the series of one rank's file; a line that was cut off is left out.

    tail_bytes: read no more than so much of its end.
    """
    found = Collected()
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            if tail_bytes is not None:
                size = os.fstat(file.fileno()).st_size
                file.seek(max(0, size - tail_bytes))
            for line in file:
                try:
                    entry = json.loads(line)
                    name, value = entry["n"], entry["v"]
                except (ValueError, KeyError, TypeError):
                    continue
                if value is None and "x" in entry:
                    value = _INFINITE.get(entry["x"])
                series = found.add(name, entry.get("k", ""), value)
                series.steps.append(entry.get("s"))
                series.times.append(entry.get("t", 0.0))
    except OSError:
        pass
    return found


def ranks_of(folder: str) -> list[int]:
    """Return the ranks that have logged something."""
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    stems = [name[5:-6] for name in names if name.startswith("rank_") and name.endswith(".jsonl")]
    return sorted(int(stem) for stem in stems if stem.isdigit())


def read(folder: str, tail_bytes: int | None = None) -> dict[str, Series]:
    """Return the series of a run: of each name those of the lowest rank that logged it."""
    found: dict[str, Series] = {}
    for rank in ranks_of(folder):
        path = os.path.join(folder, f"rank_{rank}.jsonl")
        for name, series in read_rank(path, tail_bytes).items():
            found.setdefault(name, series)
    return found


def summarize(found: dict[str, Series]) -> dict[str, dict[str, Any]]:
    """Return count, last, lowest and highest value of each series of numbers."""
    summary = {}
    for name, series in found.items():
        if series.kind:
            continue
        numbers = [value for value in series.values if _is_number(value)]
        last = series.values[-1]
        summary[name] = {
            "count": len(series.values),
            "last": last if _is_finite(last) else str(last),
            "min": min(numbers, default=None),
            "max": max(numbers, default=None),
        }
    return summary


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value


def _is_finite(value: object) -> bool:
    return not isinstance(value, float) or (value == value and abs(value) != float("inf"))


def _as_columns(rows: Iterable[dict[str, Any]]) -> dict[str, list[Any]]:
    """Return rows as columns, in the order of their first appearance."""
    columns: dict[str, list[Any]] = {}
    for row in rows:
        for key, value in row.items():
            columns.setdefault(key, []).append(value)
    return columns
