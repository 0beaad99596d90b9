"""The pipes between the workers of a node and their supervisor: stdin, stdout and stderr of each.

Owns the read ends and the log streams behind them; holds the workers back when the console is full.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Sequence

from launcher.output.console import STALL_S, Console
from launcher.output.merged import PART_S, MergedLog
from launcher.output.streams import RankStream, StreamSettings, make_prefix
from launcher.output.times import LineTimes
from launcher.plan.plan import LaunchPlan, WorkerPlan
from launcher.system.loop import Loop

# One read takes at most this much, so that a chatty worker cannot keep the others waiting.
_READ_BYTES = 1 << 18

TYPE_CHECKING = False
if TYPE_CHECKING:
    from launcher.output.terminals import Terminals

# Asked of the kernel for each pipe: fewer switches between a fast writer and us. It may refuse;
# that does no harm.
_PIPE_BYTES = 1 << 18

# How soon text without a newline is looked at, and who writes a long line that stands still.
_PROMPT_S = 0.1
_CLAIM_S = 1.0

# Local rank, "out" or "err", and what was written.
Listener = Callable[[int, str, bytes], None]


class WorkerPipes:
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
        self._plan = plan
        self._loop = loop
        self._consoles = consoles
        self._fds: dict[tuple[int, str], int] = {}
        self._streams: dict[tuple[int, str], RankStream] = {}
        # Consoles that have not caught up: who writes there is not read.
        self._full: list[Console] = []
        # Whether unfinished lines are going to be looked at.
        self._has_prompts = False
        # Consoles on which one stream writes a line that is too long to be kept.
        self._claimed: dict[Console, object] = {}
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

    def __enter__(self) -> WorkerPipes:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for key in list(self._fds):
            self._close(key)
        for stream in self._streams.values():
            stream.close()
        if self._terminals is not None:
            self._terminals.close()
        if self._times is not None:
            self._times.close()
        for merged in self._merged.values():
            merged.close()
        for timer in (self._check_stall, self._show_prompts, self._check_claims, self._end_parts):
            self._loop.cancel_timer(timer)

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
        fd = self._fds[worker.local_rank, "out"]
        if self._terminals is None or not self._terminals.owns(fd):
            return
        os.dup2(descriptors[1], descriptors[0], inheritable=False)
        self._terminals.lend_keyboard(worker.rank, worker.local_rank)

    def _open_stream(self, worker: WorkerPlan, name: str) -> int:
        """Make the pipe and the log stream of one output; return the worker's end."""
        key = (worker.local_rank, name)
        console, settings = self._console_of(worker.local_rank), self._settings(worker, name)
        self._fds[key], write_end = self._open_channel(settings, worker.local_rank)
        os.set_blocking(self._fds[key], False)
        try:
            merged = self._merged.get(worker.local_rank)
            self._streams[key] = RankStream(settings, console, merged)
        except OSError:
            os.close(write_end)
            raise
        if self._may_read(key):
            self._watch(key)
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
        for stream in self._streams.values():
            stream.resize()

    def forget(self, local_rank: int) -> None:
        """Close what belongs to a worker that has ended, because another takes its place."""
        for name in ("out", "err"):
            if (local_rank, name) in self._fds:
                self._close((local_rank, name))
            stream = self._streams.pop((local_rank, name), None)
            if stream is not None:
                stream.close()
        merged = self._merged.pop(local_rank, None)
        if merged is not None:
            merged.close()
        self._note_claim(self._console_of(local_rank))

    def rename(self, worker: WorkerPlan) -> None:
        """Show what a running worker writes from now on under the rank that it has now."""
        for name in ("out", "err"):
            settings = self._settings(worker, name)
            self._streams[worker.local_rank, name].rename(settings.prefix, settings.rank)

    def _pass_on(self, key: tuple[int, str], data: bytes) -> None:
        """Pass on what a worker wrote; hold all back that share a console which is full."""
        stream = self._streams[key]
        if self._terminals is not None and self._terminals.has_echo(self._fds[key]):
            # Python's input() asks on stderr, and what is typed appears on stdout.
            asking = self._streams[key[0], "err"]
            if asking.is_asking:
                stream.take_line(asking.give_line())
        self._streams[key[0], "err" if key[1] == "out" else "out"].leave_rows()
        self._take(key, data)
        if self._on_output is not None:
            self._on_output(*key, data)
        if not self._has_prompts and stream.has_prompt:
            self._has_prompts = True
            self._loop.set_timer(self._show_prompts, _PROMPT_S)
        console = self._console_of(key[0])
        self._note_claim(console)
        if console.full and console not in self._full:
            self._full.append(console)
            self._watch_again(console)
            self._loop.set_timer(self._check_stall, STALL_S)

    def _take(self, key: tuple[int, str], data: bytes) -> None:
        """Give a stream what its worker wrote, and see to what that leaves behind."""
        local_rank, stream = key[0], self._streams[key]
        is_first = not stream.bytes_seen and self.seconds_since_output(local_rank) is None
        stream.take(data)
        if is_first and self._on_first is not None:
            self._on_first(local_rank)
        merged = self._merged.get(local_rank)
        if merged is not None and merged.has_parts and not self._has_parts:
            self._has_parts = True
            self._loop.set_timer(self._end_parts, PART_S)

    def _end_parts(self) -> None:
        """Let the files for both streams have the parts of lines that have waited long enough."""
        for merged in self._merged.values():
            merged.flush()
        self._has_parts = any(merged.has_parts for merged in self._merged.values())
        if self._has_parts:
            self._loop.set_timer(self._end_parts, PART_S)

    def resume_if_possible(self) -> None:
        """Let the workers write again whose console has caught up."""
        for console in [console for console in self._full if console.has_room]:
            self._full.remove(console)
            self._watch_again(console)
            if not self._full:
                self._loop.cancel_timer(self._check_stall)

    def _note_claim(self, console: Console) -> None:
        """Read only the one who writes a long line, so that it arrives whole; or all again."""
        if console.claimant is self._claimed.get(console):
            return
        if console.claimant is None:
            del self._claimed[console]
        else:
            self._claimed[console] = console.claimant
            self._loop.set_timer(self._check_claims, _CLAIM_S)
        self._watch_again(console)

    def _check_claims(self) -> None:
        """Take the console from a long line that stands still."""
        for stream in self._streams.values():
            if time.monotonic() - stream.last_output_at >= _CLAIM_S:
                stream.let_go()
        for console in list(self._claimed):
            self._note_claim(console)
        if self._claimed:
            self._loop.set_timer(self._check_claims, _CLAIM_S)

    def _may_read(self, key: tuple[int, str]) -> bool:
        console = self._console_of(key[0])
        is_free = self._claimed.get(console) in (None, self._streams[key])
        return is_free and console not in self._full

    def _watch_again(self, console: Console) -> None:
        """Watch those who write on a console, as far as they may be read now."""
        for key in [key for key in self._fds if self._console_of(key[0]) is console]:
            self._loop.unwatch(self._fds[key])
            if self._may_read(key):
                self._watch(key)

    def _check_stall(self) -> None:
        """Skip lines where a console has long been full: its reader must not stop the job."""
        for console in self._full:
            if console.stalled_s >= STALL_S:
                console.start_skipping()
            else:
                self._loop.set_timer(self._check_stall, STALL_S)

    def _console_of(self, local_rank: int) -> Console:
        return self._consoles[local_rank % len(self._consoles)]

    def _show_prompts(self) -> None:
        """Show what workers have left unfinished."""
        waits = [stream.show_prompt() for stream in self._streams.values()]
        if self._terminals is not None:
            for (local_rank, _), stream in self._streams.items():
                if stream.is_asking:
                    self._terminals.note_question(local_rank)
        delays_s = [wait_s for wait_s in waits if wait_s is not None]
        self._has_prompts = bool(delays_s)
        if delays_s:
            self._loop.set_timer(self._show_prompts, max(_PROMPT_S, min(delays_s)))

    def drain(self, local_rank: int) -> None:
        """Take what an ended worker has left in its pipes.

        At most what a pipe holds: others may still be writing.
        """
        for name in ("out", "err"):
            key = (local_rank, name)
            fd = self._fds.get(key)
            if fd is None:
                continue
            is_terminal = self._terminals is not None and self._terminals.owns(fd)
            remaining = _READ_BYTES if is_terminal else fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ)
            while remaining > 0:
                try:
                    data = self._read_some(fd, min(_READ_BYTES, remaining))
                except BlockingIOError:
                    break
                if not data:
                    self._close(key)
                    break
                self._take(key, data)
                remaining -= len(data)
        self._note_claim(self._console_of(local_rank))

    @property
    def bytes_seen(self) -> int:
        """How much all workers have written so far."""
        return sum(stream.bytes_seen for stream in self._streams.values())

    def seconds_since_output(self, local_rank: int) -> float | None:
        """Return how long ago a worker last wrote something; None when it never has."""
        moments = [
            stream.last_output_at
            for (owner, _), stream in self._streams.items()
            if owner == local_rank
        ]
        newest = max(moments, default=0.0)
        return time.monotonic() - newest if newest else None

    def last_lines(self, local_rank: int, count: int) -> tuple[str, ...]:
        """Return the last lines of a worker's stderr, or of its stdout when stderr has none."""
        for name in ("err", "out"):
            stream = self._streams.get((local_rank, name))
            lines = stream.tail.lines(count) if stream else ()
            if lines:
                return lines
        return ()

    def error_text(self, local_rank: int) -> str:
        """Return what is kept of a worker's stderr."""
        stream = self._streams.get((local_rank, "err"))
        return stream.tail.text() if stream else ""

    def _watch(self, key: tuple[int, str]) -> None:
        self._loop.watch(self._fds[key], lambda: self._read(key))

    def _read(self, key: tuple[int, str]) -> None:
        if self._claimed.get(self._console_of(key[0])) not in (None, self._streams[key]):
            return  # since this turn of the loop began
        try:
            data = self._read_some(self._fds[key], _READ_BYTES)
        except BlockingIOError:
            return
        if data:
            self._pass_on(key, data)
        else:
            self._close(key)

    def _read_some(self, fd: int, limit: int) -> bytes:
        if self._terminals is not None and self._terminals.owns(fd):
            return self._terminals.read(fd, limit)
        return os.read(fd, limit)

    def _close(self, key: tuple[int, str]) -> None:
        fd = self._fds.pop(key)
        self._loop.unwatch(fd)
        if self._terminals is not None and self._terminals.owns(fd):
            self._terminals.forget(fd)
        os.close(fd)

    def _settings(self, worker: WorkerPlan, stream: str) -> StreamSettings:
        plan = self._plan
        names = {
            **plan.prefix_names,
            "rank": str(worker.rank),
            "local_rank": str(worker.local_rank),
            "node_rank": str(worker.place.node_rank),
        }
        prefix = b""
        # Whose lines they are an engine says in its own way.
        if worker.task is None or plan.prefix_template is not None:
            prefix = make_prefix(
                plan.prefix_template,
                names,
                width=len(str(plan.assignment.world_size - 1)),
                rank=worker.rank,
                colour=self._console_of(worker.local_rank).colour,
            )
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
