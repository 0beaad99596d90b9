"""The launcher's own stdout and stderr: whole lines, one live line, and never a blocked loop.

A terminal or a pipe that is not read fills a bounded buffer; then the workers are held back for a
moment, and if the reader still does not move, lines are counted instead of shown (the log files
have them). A closed stream is dropped: the job goes on. Knows text and descriptors, nothing of
workers.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

from launcher.output.writer import StreamWriter
from launcher.system.loop import Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from launcher.output.fold import Fold
    from launcher.output.live import LiveRows
    from launcher.plan.node import NodeFacts

# Bytes waiting for a slow reader before the workers are held back, and how far it must fall before
# they go on.
HIGH_WATER_BYTES = 4 << 20
LOW_WATER_BYTES = 1 << 20

# How long a reader may stand still with a full buffer before lines are skipped.
STALL_S = 1.0

# Tells a launcher whose streams lead to another one which of them are a terminal's there, behind
# the numbers of columns and rows: `80 24 out err`. `in` is there where somebody types, and `lines`
# where that one sees no line before it has its end.
TERMINAL_VARIABLE = "LAUNCHER_TERMINAL"

# Its value where stdin alone is a terminal's.
ONLY_TYPED = "0 0 in"

# Rows of all ranks are drawn again at most so often.
_FRAME_S = 0.05


class Console:
    """A pair of stdout and stderr: `say` is our own voice, `show` that of workers."""

    def __init__(
        self,
        loop: Loop,
        environ: Mapping[str, str],
        descriptors: tuple[int, int] = (1, 2),
        *,
        is_plain: bool = False,
    ) -> None:
        """is_plain: what is written goes to a program, also where that gives us a terminal.

        Where TERMINAL_VARIABLE is set, another launcher shows it on a terminal.
        """
        self._is_shared = _are_same(*descriptors)
        out = StreamWriter(descriptors[0], loop)
        err = StreamWriter(descriptors[1], loop, out if self._is_shared else None)
        self._writers = {"out": out, "err": err}
        far = environ.get(TERMINAL_VARIABLE, "").split()
        for name, writer in self._writers.items():
            if far:
                writer.is_tty, writer.far_size = name in far, (int(far[0]), int(far[1]))
            writer.is_tty = writer.is_tty and not is_plain
            # Rows that change are not drawn for a reader that is late.
            writer.on_caught_up(self._redraw_live)
        self.colour = _wants_colour(environ, out.is_tty and err.is_tty)
        self._loop = loop
        self._is_redrawing = False
        self.takes_lines_only = "lines" in far
        self._is_dumb = environ.get("TERM") == "dumb"
        # The rows at the bottom of a terminal that are not final.
        self._live: LiveRows | None = None
        # The rank that the user types for, what it asks is shown before the others' bars; and
        # whether these are shown for all ranks at once.
        self.asking_rank = -1
        self.shows_all_bars = False
        # Makes a question a whole line, because somebody has answered it on a terminal elsewhere.
        self.end_question: Callable[[], None] = lambda: None
        # Whose unfinished line stands at the end of a stream that is no terminal.
        self._open: dict[str, object] = {}
        # Who is writing a line that is too long to be kept: nobody else should write meanwhile.
        self.claimant: object = None
        # What those had to say who ended meanwhile.
        self._deferred: list[tuple[str, bytes]] = []
        self._skipped_lines = 0
        self._skipping = False
        # Whether our own voice is silent, and whether lines begin with the time.
        self.is_quiet = self.has_timestamps = False
        # Where the lines of several ranks wait for each other; None without --fold.
        self.fold: Fold | None = None

    def is_tty(self, stream: str) -> bool:
        return self._writers[stream].is_tty

    @property
    def full(self) -> bool:
        """Whether workers should be held back because the reader is slow."""
        return not self._skipping and self._pending_bytes() > HIGH_WATER_BYTES

    @property
    def has_room(self) -> bool:
        return self._skipping or self._pending_bytes() < LOW_WATER_BYTES

    @property
    def stalled_s(self) -> float:
        """Seconds for which the reader has not taken a byte."""
        newest = max(writer.last_progress for writer in self._writers.values())
        return time.monotonic() - newest

    def start_skipping(self) -> None:
        """Count lines instead of keeping them, until the reader has caught up."""
        self._skipping = True

    def set_tap(self, tap: Callable[[str, bytes], None] | None) -> None:
        """Let somebody hear all that is written from now on, with the stream's name; or nobody."""
        for stream, writer in self._writers.items():
            writer.tap = partial(tap, stream) if tap else None

    def show_lines(self, rank: int, stream: str, prefix: bytes, block: bytes) -> None:
        """Write whole lines of a rank, with its prefix or, with --fold, that of several ranks."""
        if self.fold is not None:
            self.fold.take(rank, stream, prefix, block)
        else:
            self.show(stream, prefix + block[:-1].replace(b"\n", b"\n" + prefix) + b"\n")

    def show(self, stream: str, block: bytes) -> None:
        """Write a block of whole lines, complete with prefixes; behind a long line that is not
        finished.
        """
        if self.claimant is not None:
            self._deferred.append((stream, block))
            return
        if self._skipping and not self._reader_is_back(block):
            return
        if self.has_timestamps:
            stamp = _stamp()
            block = stamp + block[:-1].replace(b"\n", b"\n" + stamp) + b"\n"
        self._break_lines(stream)
        self._clear_live(stream)
        self._writers[stream].write(block)
        self._redraw_live()

    def show_part(self, owner: object, stream: str, text: bytes, *, is_last: bool = False) -> None:
        """Write a part of a line of `owner`, or its end and the lines behind it (`is_last`).

        The parts are one line where nobody else writes meanwhile.
        """
        if self._skipping and not self._reader_is_back(text):
            return
        if not self.goes_on(owner, stream):
            if self.fold is not None:
                self.fold.flush()
            self._break_lines(stream)
            if self.has_timestamps:
                text = _stamp() + text
        self._writers[stream].write(text)
        if is_last:
            self._open.pop(stream, None)
        else:
            self._open[stream] = owner

    def release(self) -> None:
        """Let everybody write again: the long line has ended, or stands still."""
        self.claimant = None
        deferred, self._deferred = self._deferred, []
        for stream, block in deferred:
            self.show(stream, block)

    def goes_on(self, owner: object, stream: str) -> bool:
        """Tell whether what `owner` writes next stands behind the part that it wrote before."""
        return self._open.get(stream) is owner

    def leave_part(self, stream: str) -> None:
        """Take the unfinished line at the end of a stream for a whole one."""
        if self.takes_lines_only:
            self._break_lines(stream)
        self._open.pop(stream, None)

    def is_busy(self, stream: str) -> bool:
        """Tell whether a stream has not taken all that was written, or is kept for a long line."""
        return self.claimant is not None or self._writers[stream].pending_bytes > 0

    def _break_lines(self, stream: str) -> None:
        """End an unfinished line, because somebody else writes behind it."""
        if not self._open:
            return
        for name in list(self._open):
            if name == stream or self._is_shared:
                del self._open[name]
                self._writers[name].write(b"\n")

    def size(self, stream: str) -> tuple[int, int]:
        """Return columns and rows of a terminal."""
        return self._writers[stream].size

    def describe_terminal(self, *, is_typed: bool = False) -> str:
        """Return what TERMINAL_VARIABLE is to say to those whose output comes here; or "".

        is_typed: our stdin goes there, and is a terminal.
        """
        names = [name for name, writer in self._writers.items() if writer.is_tty]
        if not names:
            return ONLY_TYPED if is_typed else ""
        return " ".join([*map(str, self.size(names[0])), *names, *(["in"] if is_typed else [])])

    def fd(self, stream: str) -> int:
        """Return the descriptor that we were given for a stream."""
        return self._writers[stream].given_fd

    def show_live(
        self, rank: int, stream: str, rows: Sequence[bytes], cursor: tuple[int, int] | None = None
    ) -> None:
        """Show unfinished rows at the bottom of the terminal: the lowest rank's, if of several.

        cursor: its row among them, and its column; None for the end of what may be a question.
        """
        if not self._writers[stream].is_tty:
            return
        if self._live is None:
            from launcher.output.live import LiveRows

            self._live = LiveRows(self._writers, is_dumb=self._is_dumb)
        self._live.put(rank, stream, rows, cursor)
        if not self.shows_all_bars:
            self._redraw_live()
        elif not self._is_redrawing:
            # Many ranks draw many times a second, and each time the rows of all would be drawn.
            self._is_redrawing = True
            self._loop.set_timer(self._redraw_later, _FRAME_S)

    def _redraw_later(self) -> None:
        self._is_redrawing = False
        self._redraw_live()

    def end_live(self, rank: int, stream: str) -> None:
        """Take a rank's live rows away: they have become lines, or its worker has ended."""
        if self._live is not None and self._live.remove(rank, stream):
            self._redraw_live()

    def hide_live(self) -> None:
        """Take what is live off the screen, until it is drawn again."""
        if self._live is not None:
            self._live.clear()

    def resize(self) -> None:
        """Draw what is live for the terminal's new size."""
        self._redraw_live()

    def say(self, text: str) -> None:
        """Print a message of the launcher itself on stderr."""
        if self.is_quiet:
            return
        stamp = _stamp().decode() if self.has_timestamps else ""
        lines = "".join(f"{stamp}[launcher] {line}\n" for line in text.split("\n"))
        self.print_err(lines)

    def print_err(self, text: str) -> None:
        """Print text on stderr as it is."""
        if self.fold is not None:
            self.fold.flush()
        self._break_lines("err")
        self._clear_live("err")
        try:
            data = text.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:  # half a character, in an exception's message, say
            data = text.encode("utf-8", "backslashreplace")
        self._writers["err"].write(data)
        self._redraw_live()

    def close(self) -> None:
        """Write what is left; give up on a reader that does not move."""
        if self.fold is not None:
            self.fold.flush()
        self.release()
        if self._live is not None:
            self._live.clear()
            self._live = None
        self._loop.cancel_timer(self._redraw_later)
        for writer in self._writers.values():
            writer.drain()
        if self._skipped_lines:
            self._tell_skipped()
        if self._writers["out"].failure:
            self.say(
                f"stdout cannot be written: {self._writers['out'].failure}; the log files have what"
                " is missing"
            )
        for writer in self._writers.values():
            writer.close()

    def _pending_bytes(self) -> int:
        return max(writer.pending_bytes for writer in self._writers.values())

    def _reader_is_back(self, block: bytes) -> bool:
        if self._pending_bytes() >= LOW_WATER_BYTES:
            self._skipped_lines += block.count(b"\n")
            return False
        self._skipping = False
        self._tell_skipped()
        return True

    def _tell_skipped(self) -> None:
        count, self._skipped_lines = self._skipped_lines, 0
        self.say(
            f"{count} lines were not shown because the terminal did not take them; the log files"
            " have them"
        )

    def _clear_live(self, stream: str) -> None:
        if self._live is not None and self._writers[stream].is_tty:
            self._live.clear()

    def _redraw_live(self) -> None:
        if self._live is not None:
            self._live.draw(self.asking_rank, each_rank=self.shows_all_bars)


def make_consoles(
    loop: Loop, facts: NodeFacts, *, fold: bool, quiet: bool, timestamps: bool
) -> tuple[Console, ...]:
    """Make the console of each worker: ours for all, or those of an engine's processes.

    Of these, that of the first local rank has our own words, too.
    """
    if not facts.tasks:
        # Open MPI gives its processes terminals whatever its own output goes to, and several nodes
        # cannot each draw on one.
        console = Console(loop, facts.environ, is_plain=facts.is_gathered)
        if fold:
            from launcher.output.fold import Fold

            console.fold = Fold(loop, console.show, facts.local_world_size)
        consoles: tuple[Console, ...] = (console,)
    else:
        consoles = tuple(
            Console(loop, facts.environ, task.streams[1:], is_plain=True) for task in facts.tasks
        )
    for each in consoles:
        each.is_quiet, each.has_timestamps = quiet, timestamps
    return consoles


@contextmanager
def heed_answers(loop: Loop, console: Console, environ: Mapping[str, str]) -> Iterator[None]:
    """Let what a rank asks end where a line is typed that comes over our stdin from elsewhere."""
    if "in" not in environ.get(TERMINAL_VARIABLE, "").split():
        yield
        return
    from launcher.output.input import Answers

    answers = Answers(loop, lambda: console.end_question())
    try:
        yield
    finally:
        answers.close()


def _stamp() -> bytes:
    """Return the time of day, to the millisecond, as a line begins with it."""
    now = time.time()
    return b"%s.%03d " % (time.strftime("%H:%M:%S", time.localtime(now)).encode(), now % 1 * 1000)


def _are_same(out: int, err: int) -> bool:
    """Tell whether two descriptors are of one file, pipe or terminal, as with `2>&1`."""
    try:
        return os.path.sameopenfile(out, err)
    except OSError:
        return False


def _wants_colour(environ: Mapping[str, str], is_tty: bool) -> bool:
    if environ.get("NO_COLOR"):
        return False
    if environ.get("FORCE_COLOR"):
        return True
    return is_tty and environ.get("TERM") != "dumb"
