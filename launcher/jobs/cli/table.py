"""Tables, ages and plots for a terminal. Pure: the width is an argument."""

from __future__ import annotations

import math

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_GAP = "  "
_COLOURS = {
    "Completed": "32",
    "Failed": "31",
    "Canceled": "33",
    "Running": "36",
    "Queued": "35",
    "NotResponding": "31",
}
_PLOT_HEIGHT = 12


def render(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    width: int,
    *,
    flexible: int = -1,
    is_colourful: bool = False,
) -> str:
    """Return aligned columns of at most `width` letters.

    flexible: the column that is cut when there is no room; by default the last one.
    """
    flexible %= len(head)
    widths = [max(len(row[k]) for row in [head, *rows]) for k in range(len(head))]
    rest = sum(widths) - widths[flexible] + len(_GAP) * (len(head) - 1)
    widths[flexible] = max(min(widths[flexible], width - rest), min(8, widths[flexible]))
    lines = []
    for row in [head, *rows]:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        cells[flexible] = cut(row[flexible], widths[flexible]).ljust(widths[flexible])
        if is_colourful and row is not head:
            cells = [colour(cell) for cell in cells]
        lines.append(_GAP.join(cells).rstrip())
    return "\n".join(lines)


def cut(text: str, width: int) -> str:
    """Return a text's first line, cut to a width with a sign that more followed."""
    line = text.partition("\n")[0]
    return line if len(line) <= width else line[: max(0, width - 1)] + "…"


def colour(cell: str) -> str:
    """Return a cell in the colour of the status that it shows, if it shows one."""
    code = _COLOURS.get(cell.strip())
    return f"\033[{code}m{cell}\033[0m" if code else cell


def show_age(seconds: float) -> str:
    """Return a duration in at most six letters."""
    if seconds < 9.95:
        return f"{max(0.0, seconds):.1f} s"
    for limit, size, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"


def show_bytes(count: float) -> str:
    """Return a size in words."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return ""


def show_number(value: object) -> str:
    """Return a value of a metric, short."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def show_tags(tags: Mapping[str, object]) -> str:
    """Return tags as they are typed; one without a value is its name alone."""
    return " ".join(name if value is None else f"{name}={value}" for name, value in tags.items())


def plot(name: str, values: Sequence[float], width: int) -> str:
    """Return a series as points over its number, with its range at the side."""
    points = [(k, value) for k, value in enumerate(values) if math.isfinite(value)]
    if not points:
        return f"{name}: no finite value"
    low = min(value for _, value in points)
    high = max(value for _, value in points)
    labels = [show_number(high), show_number(low)]
    margin = max(map(len, labels))
    columns = max(8, width - margin - 2)
    cells = [[" "] * columns for _ in range(_PLOT_HEIGHT)]
    last = max(1, len(values) - 1)
    for k, value in points:
        x = round(k / last * (columns - 1))
        share = (value - low) / (high - low) if high > low else 0.5
        cells[_PLOT_HEIGHT - 1 - round(share * (_PLOT_HEIGHT - 1))][x] = "•"
    lines = [f"{name}: {len(values)} values, last {show_number(values[-1])}"]
    for number, row in enumerate(cells):
        label = {0: labels[0], _PLOT_HEIGHT - 1: labels[1]}.get(number, "")
        lines.append(f"{label.rjust(margin)} |{''.join(row).rstrip()}")
    return "\n".join(lines)
