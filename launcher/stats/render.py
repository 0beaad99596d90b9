"""The figures as tables for a terminal: one for `ctl top`, one for the end of a run. Pure."""

from __future__ import annotations

from launcher.diagnosis.evidence import format_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from launcher.stats.figures import GpuUse, NodeUse, RankUse, Sample

# A rank stands out when the others have waited for it so much of the time, and so long, at least.
_SLOW_SHARE = 0.05
_SLOW_S = 0.02


def render_top(samples: Sequence[Sample]) -> str:
    """Return the nodes and their ranks."""
    lines = [_node_line(sample.node) for sample in samples]
    lines += [_gpu_line(gpu, sample.node) for sample in samples for gpu in sample.node.gpus]
    ranks = sorted(rank for sample in samples for rank in sample.ranks)
    if not ranks:
        return "\n".join([*lines, "no rank is running"])
    hosts = {rank.rank: sample.node.host for sample in samples for rank in sample.ranks}
    columns: list[tuple[str, list[str]]] = [
        ("rank", [str(rank.rank) for rank in ranks]),
        ("pid", [str(rank.pid) for rank in ranks]),
        ("CPU", [f"{rank.cpus:.0%}" for rank in ranks]),
        ("memory", [format_bytes(rank.memory) for rank in ranks]),
        ("peak", [format_bytes(rank.peak) for rank in ranks]),
        ("threads", [str(rank.threads) for rank in ranks]),
        ("procs", [str(rank.processes) for rank in ranks]),
        ("read", [format_bytes(rank.read) for rank in ranks]),
        ("written", [format_bytes(rank.written) for rank in ranks]),
        *_pace_columns(ranks),
    ]
    if any(rank.gpu is not None for rank in ranks):
        columns.insert(4, ("GPU mem", [_or_dash(rank.gpu, format_bytes) for rank in ranks]))
    if len(samples) > 1:
        columns.insert(1, ("host", [hosts[rank.rank] for rank in ranks]))
    return "\n".join([*lines, "", *_table(columns)])


def render_summary(ranks: Sequence[RankUse], seconds: Sequence[float], host: str) -> str:
    """Return what the ranks of a node have used, each in so many seconds; the last line: who was
    slow.
    """
    shares = (rank.cpu_s / max(took, 0.01) for rank, took in zip(ranks, seconds, strict=True))
    columns = [
        ("rank", [str(rank.rank) for rank in ranks]),
        # Of one that failed before the first look, the kernel tells only after the report.
        ("peak memory", [format_bytes(rank.peak) if rank.peak else "-" for rank in ranks]),
        ("CPU time", [f"{rank.cpu_s:.1f} s" for rank in ranks]),
        ("CPU", [f"{share:.0%}" for share in shares]),
        *_pace_columns(ranks),
    ]
    title = f"what the ranks on {host} used:"
    return "\n".join([title, *_table(columns), *_slowest(ranks, max(seconds, default=0.0))])


def _pace_columns(ranks: Sequence[RankUse]) -> list[tuple[str, list[str]]]:
    """Return the columns that only scripts with ctx.heartbeat() fill."""
    if all(rank.steps is None for rank in ranks):
        return []
    columns = [
        ("steps", [_or_dash(rank.steps, str) for rank in ranks]),
        ("steps/s", [_or_dash(rank.steps_per_s, "{:.3g}".format) for rank in ranks]),
        ("waited", [_or_dash(rank.waited_s, "{:.1f} s".format) for rank in ranks]),
    ]
    if any(rank.late_s is not None for rank in ranks):
        late = [_or_dash(rank.late_s, lambda late: f"{late * 1000:.0f} ms") for rank in ranks]
        columns.append(("late", late))
    return columns


def _slowest(ranks: Sequence[RankUse], took_s: float) -> list[str]:
    """Say for whom the others have waited; nothing when nobody stands out or nobody knows."""
    timed = [rank for rank in ranks if rank.late_s is not None and rank.steps]
    if len(timed) > 1:
        last = max(timed, key=lambda rank: rank.late_s or 0.0)
        next_one = max(rank.late_s or 0.0 for rank in timed if rank is not last)
        ahead_s, steps = (last.late_s or 0.0) - next_one, last.steps or 1
        if ahead_s >= max(_SLOW_S, _SLOW_SHARE * took_s / steps):
            late = f"{(last.late_s or 0.0) * 1000:.0f} ms"
            return [f"slowest: rank {last.rank}, which came {late} after the first, on average"]
    waited = [rank for rank in ranks if rank.waited_s is not None]
    if len(waited) > 1:
        least, second = sorted(waited, key=lambda rank: rank.waited_s or 0.0)[:2]
        if (second.waited_s or 0.0) - (least.waited_s or 0.0) >= max(1.0, _SLOW_SHARE * took_s):
            return [
                f"slowest: rank {least.rank}, which waited {least.waited_s:.1f} s, the others"
                f" {second.waited_s:.1f} s or more"
            ]
    return []


def _node_line(node: NodeUse) -> str:
    parts = [
        node.host,
        f"CPU {node.cpus:.1f} of {node.num_cpus}",
        f"memory {format_bytes(node.memory)} of {format_bytes(node.memory_size)}",
        f"/dev/shm {format_bytes(node.shm)} of {format_bytes(node.shm_size)}",
    ]
    return "  ".join(parts)


def _gpu_line(gpu: GpuUse, node: NodeUse) -> str:
    busy = "" if gpu.busy is None else f"  busy {gpu.busy} %"
    memory = f"memory {format_bytes(gpu.memory)} of {format_bytes(gpu.memory_size)}"
    return f"{node.host}  GPU {gpu.number} {gpu.name}  {memory}{busy}"


def _or_dash(value: object, show: object) -> str:
    assert callable(show)
    return "-" if value is None else str(show(value))


def _table(columns: Sequence[tuple[str, list[str]]]) -> list[str]:
    """Return lines of columns, all to the right."""
    widths = [max(map(len, [title, *cells])) for title, cells in columns]
    rows = zip(*([title, *cells] for title, cells in columns), strict=True)
    return ["  ".join(map(str.rjust, row, widths)) for row in rows]
