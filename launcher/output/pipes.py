"""The pipes between the workers of a node and their supervisor: stdin, stdout and stderr of each.

Makes them, or terminals, and the log stream of each output; knows what workers have written last.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Sequence

from launcher.output.console import Console
from launcher.output.intake import Intake, Key, Listener
from launcher.output.merged import PART_S, MergedLog
from launcher.output.streams import RankStream, StreamSettings, make_prefix
from launcher.output.times import LineTimes
from launcher.plan.plan import LaunchPlan, WorkerPlan
from launcher.ranks import format_short_ranges
from launcher.system.loop import Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from launcher.output.terminals import Terminals

# Asked of the kernel for each pipe: fewer switches between a fast writer and us. It may refuse;
# that does no harm.
_PIPE_BYTES = 1 << 18


class WorkerPipes(Intake):
    """All output pipes of one attempt. Use as a context manager."""

    def __init__(
        self,
        plan: LaunchPlan,
        loop: Loop,
        consoles: Sequence[Console],
        on_output: Listener | None = None,
        on_first: Callable[[int], None] | None = None,
        send: Callable[[int, int], None] | None = None,
    ) -> None:
        """`on_output` hears whatever is read, besides the streams; `on_first` of each local rank
        that it has written something.

        consoles: that of each local rank; or one for all. send: sends a signal to the worker of a
        local rank; where there is none, nobody has a terminal.
        """
        super().__init__(loop)
        self._plan = plan
        self._consoles = consoles
        self._on_output = on_output
        self._times = None
        if plan.paths is not None:
            path = plan.paths.times(plan.attempt, plan.assignment.places[0].node_rank)
            self._times = LineTimes(path, loop.clock)
        self._on_first = on_first
        # Of each local rank, the file for both of its streams; and whether one of these files waits
        # for the rest of a line.
        self._merged: dict[int, MergedLog] = {}
        self._has_parts = False
        self._terminals: Terminals | None = None
        console = consoles[0]
        if plan.tty and send is not None and (console.is_tty("out") or console.is_tty("err")):
            from launcher.output.terminals import Terminals

            self._terminals = Terminals(loop, console, send, self._resize)
            console.shows_all_bars = plan.bars == "all"
        console.end_question = self._end_question
        if console.fold is not None:
            console.fold.make_prefix = self._make_shared_prefix

    def __enter__(self) -> WorkerPipes:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
        self._consoles[0].end_question = lambda: None
        if self._terminals is not None:
            self._terminals.close()
        if self._times is not None:
            self._times.close()
        for merged in self._merged.values():
            merged.close()
        self._loop.cancel_timer(self._end_parts)

    def open(self, worker: WorkerPlan) -> list[int]:
        """Make the pipes of a worker; return its three descriptors, which the caller closes."""
        descriptors = [_open_stdin(worker, self._plan.stdin_rank)]
        try:
            if "log" in worker.logs:
                console = self._console_of(worker.local_rank)
                self._merged[worker.local_rank] = MergedLog(worker.logs, console)
            for name in ("out", "err"):
                descriptors.append(self._open_stream(worker, name))
        except OSError:  # too many are open: the worker is not started
            for descriptor in descriptors:
                os.close(descriptor)
            raise
        if worker.rank == self._plan.stdin_rank and os.isatty(0):
            self._lend_keyboard(worker, descriptors)
        return descriptors

    def _lend_keyboard(self, worker: WorkerPlan, descriptors: list[int]) -> None:
        """Give a worker the terminal of its stdout as stdin, too: what is typed goes there."""
        fd = self.fds[worker.local_rank, "out"]
        if self._terminals is None or not self._terminals.owns(fd):
            return
        os.dup2(descriptors[1], descriptors[0], inheritable=False)
        self._terminals.lend_keyboard(worker.rank, worker.local_rank)

    def _open_stream(self, worker: WorkerPlan, name: str) -> int:
        """Make the pipe and the log stream of one output; return the worker's end."""
        console, settings = self._console_of(worker.local_rank), self._settings(worker, name)
        read_end, write_end = self._open_channel(settings, worker.local_rank)
        try:
            merged = self._merged.get(worker.local_rank)
            stream = RankStream(settings, console, merged)
        except OSError:
            self.let_go(read_end)
            os.close(read_end)
            os.close(write_end)
            raise
        self.add((worker.local_rank, name), read_end, stream, console)
        return write_end

    def _open_channel(self, settings: StreamSettings, local_rank: int) -> tuple[int, int]:
        """Return our end and the worker's, of a terminal or of a pipe."""
        if self._terminals is not None:
            ends = self._terminals.open(local_rank, settings.stream, settings.prefix)
            if ends is not None:
                return ends
        read_end, write_end = os.pipe()
        try:
            fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        except OSError:
            pass
        return read_end, write_end

    def pause(self) -> None:
        """Give the user's terminal back: we are going to be stopped."""
        for console in self._consoles:
            console.hide_live()
        if self._terminals is not None:
            self._terminals.pause()

    def resume(self) -> None:
        """Go on after `pause`."""
        for console in self._consoles:
            console.resize()
        if self._terminals is not None:
            self._terminals.resume()

    def _resize(self) -> None:
        for stream in self.streams.values():
            stream.resize()

    def forget(self, local_rank: int) -> None:
        """Close what belongs to a worker that has ended, because another takes its place."""
        for name in ("out", "err"):
            self.drop((local_rank, name))
        merged = self._merged.pop(local_rank, None)
        if merged is not None:
            merged.close()

    def rename(self, worker: WorkerPlan) -> None:
        """Show what a running worker writes from now on under the rank that it has now."""
        for name in ("out", "err"):
            settings = self._settings(worker, name)
            self.streams[worker.local_rank, name].rename(settings.prefix, settings.rank)

    def hear(self, key: Key, data: bytes) -> None:
        """Take what a running worker wrote, on one of its streams."""
        stream = self.streams[key]
        if self._terminals is not None and self._terminals.has_echo(self.fds[key]):
            # Python's input() asks on stderr, and what is typed appears on stdout.
            asking = self.streams[key[0], "err"]
            if asking.is_asking:
                stream.take_line(asking.give_line())
        other = key[0], "err" if key[1] == "out" else "out"
        if self.streams[other].has_left_rows:
            # What it wrote there before this may lead the cursor back to these rows.
            self.drain_pipe(other)
            self.streams[other].leave_rows()
        self.take(key, data)
        if self._on_output is not None:
            self._on_output(*key, data)

    def take(self, key: Key, data: bytes) -> None:
        """Give a stream what its worker wrote, and see to what that leaves behind."""
        local_rank, stream = key[0], self.streams[key]
        is_first = not stream.bytes_seen and self.seconds_since_output(local_rank) is None
        stream.take(data)
        if is_first and self._on_first is not None:
            self._on_first(local_rank)
        merged = self._merged.get(local_rank)
        if merged is not None and merged.has_parts and not self._has_parts:
            self._has_parts = True
            self._loop.set_timer(self._end_parts, PART_S, is_patient=True)

    def _end_parts(self) -> None:
        """Let the files for both streams have the parts of lines that have waited long enough."""
        for merged in self._merged.values():
            merged.flush()
        self._has_parts = any(merged.has_parts for merged in self._merged.values())
        if self._has_parts:
            self._loop.set_timer(self._end_parts, PART_S, is_patient=True)

    def _console_of(self, local_rank: int) -> Console:
        return self._consoles[local_rank % len(self._consoles)]

    def look_at_prompts(self) -> None:
        """Let whoever shows it know who may be asking something."""
        if self._terminals is not None:
            for (local_rank, _), stream in self.streams.items():
                if stream.is_asking:
                    self._terminals.note_question(local_rank)
        elif self._consoles[0].takes_lines_only:
            self._end_question()

    def _end_question(self) -> None:
        """Let go of what the rank asks that reads stdin: answered, it stands on the terminal."""
        ranks = {worker.local_rank: worker.rank for worker in self._plan.workers}
        for (local_rank, _), stream in self.streams.items():
            if ranks[local_rank] == self._plan.stdin_rank:
                stream.end_question()

    def drain(self, local_rank: int) -> None:
        """Take what an ended worker has left in its pipes."""
        for name in ("out", "err"):
            self.drain_pipe((local_rank, name))

    @property
    def bytes_seen(self) -> int:
        """How much all workers have written so far."""
        return sum(stream.bytes_seen for stream in self.streams.values())

    def seconds_since_output(self, local_rank: int) -> float | None:
        """Return how long ago a worker last wrote something; None when it never has."""
        moments = [
            stream.last_output_at
            for (owner, _), stream in self.streams.items()
            if owner == local_rank
        ]
        newest = max(moments, default=0.0)
        return time.monotonic() - newest if newest else None

    def last_lines(self, local_rank: int, count: int) -> tuple[str, ...]:
        """Return the last lines of a worker's stderr, or of its stdout when stderr has none."""
        for name in ("err", "out"):
            stream = self.streams.get((local_rank, name))
            lines = stream.tail.lines(count) if stream else ()
            if lines:
                return lines
        return ()

    def error_text(self, local_rank: int) -> str:
        """Return what is kept of a worker's stderr."""
        stream = self.streams.get((local_rank, "err"))
        return stream.tail.text() if stream else ""

    def read_some(self, fd: int, limit: int) -> bytes:
        """Read from a descriptor, which may be our end of a terminal."""
        if self._terminals is not None and self._terminals.owns(fd):
            return self._terminals.read(fd, limit)
        return super().read_some(fd, limit)

    def let_go(self, fd: int) -> None:
        """Forget a descriptor that is going to be closed."""
        if self._terminals is not None and self._terminals.owns(fd):
            self._terminals.forget(fd)

    def _make_prefix(self, names: dict[str, str], rank: int, *, colour: bool) -> bytes:
        plan = self._plan
        return make_prefix(
            plan.prefix_template,
            {**plan.prefix_names, **names},
            host_width=plan.assignment.hostname_width,
            width=len(str(plan.assignment.world_size - 1)),
            rank=rank,
            colour=colour,
        )

    def _make_shared_prefix(self, ranks: list[int]) -> bytes:
        """Return the prefix of a line that several ranks have written."""
        places = [worker.place for worker in self._plan.workers if worker.rank in ranks]
        names = {
            "rank": format_short_ranges(ranks),
            "local_rank": format_short_ranges(place.local_rank for place in places),
            "node_rank": str(self._plan.assignment.places[0].node_rank),
        }
        return self._make_prefix(names, 0, colour=False)

    def _settings(self, worker: WorkerPlan, stream: str) -> StreamSettings:
        plan, prefix = self._plan, b""
        # Whose lines they are an engine says in its own way.
        if worker.task is None or plan.prefix_template is not None:
            names = {
                "rank": str(worker.rank),
                "local_rank": str(worker.local_rank),
                "node_rank": str(worker.place.node_rank),
            }
            colour = self._console_of(worker.local_rank).colour
            prefix = self._make_prefix(names, worker.rank, colour=colour)
        return StreamSettings(
            rank=worker.rank,
            stream=stream,
            prefix=prefix,
            log_path=worker.logs.get(stream),
            shown=worker.shown[stream],
            filters=plan.filters[stream],
            filtered_path=plan.filtered_logs.get(stream),
            times=self._times,
        )


def _open_stdin(worker: WorkerPlan, stdin_rank: int) -> int:
    """Open a worker's stdin: the launcher's for one of them; the others find it empty.

    With an engine, it is what that has given to the worker's process.
    """
    if worker.task is not None:
        return os.dup(worker.task.streams[0])
    return os.dup(0) if worker.rank == stdin_rank else os.open(os.devnull, os.O_RDONLY)
