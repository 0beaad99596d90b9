"""Stand-ins for what a group acts on: a loop, a start method and a kernel.

The loop plays a history on a clock of its own, the start method starts nothing, the kernel takes
notes.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from launcher.attached.obstacles import Facts
from launcher.attempt.node import NodeServices
from launcher.attempt.stop import StopRequest
from launcher.contract.files import RunPaths
from launcher.events import ChildrenChanged, Event, Exited, Started, TaskLost
from launcher.options.spec import LaunchSpec
from launcher.plan.plan import LaunchPlan, NodeFacts, WorkerPlan, make_plan
from launcher.ranks import Assignment, make_places
from launcher.record.record import Record

# Above what the kernel gives to any process: nobody can be hit by accident.
FIRST_PID = 1 << 23

# One step of a history: an event of the loop, seconds that pass, or something that is done, of
# which the result, if it is an event, is handed over.
Step = Event | float | Callable[[], Any]


# No history has nearly as many.
_MOST_TURNS = 1000


class FakeLoop:
    """Hands over the steps of a history, one at each turn; then time passes to the next timer."""

    def __init__(self, history: Sequence[Step] = ()) -> None:
        self.now = 0.0
        self.history = list(history)
        # What follows from what was done to processes; comes when the history is at its end.
        self.consequences: list[Event] = []
        self.timers: dict[Callable[[], None], float] = {}
        self.readers: dict[int, Callable[[], Iterable[Event] | None]] = {}
        self._turns = 0

    def clock(self) -> float:
        return self.now

    def watch(self, fd: int, reader: Callable[[], Iterable[Event] | None]) -> None:
        self.readers[fd] = reader

    def unwatch(self, fd: int) -> None:
        self.readers.pop(fd, None)

    def set_timer(
        self, callback: Callable[[], None], delay_s: float, *, is_patient: bool = False
    ) -> None:
        self.timers[callback] = self.now + delay_s

    def cancel_timer(self, callback: Callable[[], None]) -> None:
        self.timers.pop(callback, None)

    def postpone_timers(self, delay_s: float) -> None:
        self.timers = {callback: at + delay_s for callback, at in self.timers.items()}

    def turn(self, handle: Callable[[Event], None]) -> None:
        self._turns += 1
        assert self._turns < _MOST_TURNS, "it would wait for ever"
        if not self.history and self.consequences:
            handle(self.consequences.pop(0))
            return
        if not self.history:
            assert self.timers, "nothing can happen any more"
            self._pass_to(min(self.timers.values()))
            return
        step = self.history.pop(0)
        if isinstance(step, (int, float)):
            self._pass_to(self.now + step)
            return
        event = step() if callable(step) else step
        if isinstance(event, list):
            for each in event:
                handle(each)
        elif event is not None:
            handle(event)

    def read_all(self) -> list[Event]:
        """Call every reader, as the loop does when all descriptors are ready."""
        return [event for reader in list(self.readers.values()) for event in reader() or ()]

    def _pass_to(self, moment: float) -> None:
        self.now = moment
        due = [callback for callback, at in self.timers.items() if at <= moment]
        for callback in sorted(due, key=lambda callback: self.timers[callback]):
            if callback in self.timers:
                del self.timers[callback]
                callback()


class FakeStarter:
    """Keeps the workers' ends of the pipes; workers end when the history says so."""

    def __init__(self, *, is_ready: bool = True) -> None:
        self.is_ready = is_ready
        self.pid = 0
        self.calls: list[str] = []
        self.exits: list[Event] = []
        self.streams: dict[int, list[int]] = {}

    def start(self, worker: WorkerPlan, descriptors: Sequence[int]) -> list[Event]:
        self.calls.append(f"start {worker.local_rank}")
        self.streams[worker.local_rank] = [os.dup(fd) for fd in descriptors]
        return [Started(worker.local_rank, FIRST_PID + worker.local_rank)]

    def write(self, local_rank: int, text: str) -> None:
        """Let a worker write on its stdout."""
        os.write(self.streams[local_rank][1], text.encode())

    def collect_exits(self) -> list[Event]:
        exits, self.exits = self.exits, []
        return exits

    def reap(self, pid: int) -> int | None:
        self.calls.append(f"reap {pid - FIRST_PID}")
        return None

    def forget(self, pid: int) -> None:
        self.calls.append(f"forget {pid - FIRST_PID}")

    def close(self) -> None:
        self.calls.append("close")
        for fd in (fd for descriptors in self.streams.values() for fd in descriptors):
            os.close(fd)
        self.streams.clear()


class FakeKernel:
    """A kernel that takes notes: who is killed ends at the loop's next turn, nobody else ends."""

    def __init__(self, loop: FakeLoop) -> None:
        self._loop = loop
        self.calls: list[str] = []
        # What workers have left behind.
        self.orphans: set[int] = set()

    def signal(self, pid: int, signum: int) -> None:
        self.calls.append(f"{_short(signum)} {self._name(pid)}")
        if signum == signal.SIGKILL:
            self.orphans.discard(pid)
            self._loop.consequences.append(ChildrenChanged())

    def signal_group(self, pid: int, signum: int) -> None:
        self.calls.append(f"{_short(signum)} group {self._name(pid)}")

    def kill_sessions(self, session_ids: Iterable[int]) -> None:
        for pid in session_ids:
            self.calls.append(f"kill {self._name(pid)}")
            self._loop.consequences.append(Exited(pid - FIRST_PID, -signal.SIGKILL))

    def stop_ourselves(self) -> None:
        self.calls.append("stop ourselves")

    def reap_orphans(self, known: Collection[int]) -> None:
        pass

    def left_behind(self, known: Collection[int], sessions: Collection[int] | None) -> list[int]:
        return sorted(self.orphans)

    def _name(self, pid: int) -> str:
        return "orphan" if pid in self.orphans else str(pid - FIRST_PID)


def _short(signum: int) -> str:
    return signal.Signals(signum).name.removeprefix("SIG")


class FakeConsole:
    """Keeps what is said and shown."""

    colour = False
    full = False
    has_room = True
    claimant: object = None
    takes_lines_only = False
    fold: Any = None

    def __init__(self) -> None:
        self.said: list[str] = []
        self.shown: list[bytes] = []
        self._open: object = None

    def say(self, text: str) -> None:
        self.said.append(text)

    def show_lines(self, rank: int, stream: str, prefix: bytes, block: bytes) -> None:
        self.show(stream, prefix + block[:-1].replace(b"\n", b"\n" + prefix) + b"\n")

    def show(self, stream: str, block: bytes) -> None:
        self.shown.append(block)
        self._open = None

    def show_part(self, owner: object, stream: str, text: bytes, *, is_last: bool = False) -> None:
        self.shown.append(text)
        self._open = None if is_last else owner

    def release(self) -> None:
        self.claimant = None

    def goes_on(self, owner: object, stream: str) -> bool:
        return self._open is owner

    def is_busy(self, stream: str) -> bool:
        return False

    def is_tty(self, stream: str) -> bool:
        return False

    def hide_live(self) -> None:
        pass

    def resize(self) -> None:
        pass

    def end_live(self, rank: int, stream: str) -> None:
        pass


class FakeKeeper:
    """A keeper that nobody kills."""

    pid = 1

    def __init__(self) -> None:
        self.sessions: list[int] = []

    def add_session(self, session_id: int) -> None:
        self.sessions.append(session_id)

    def revive(self) -> bool:
        return False


class FakeEvidence:
    """Knows nothing."""

    def explain(self, returncode: int, pid: int, peak_kib: int | None) -> str:
        return ""

    def explain_data_worker(self, words: str) -> str:
        return ""


class FakeLink:
    """One process that an engine has started, which nobody can look at."""

    def __init__(self, local_rank: int) -> None:
        self.facts = Facts(pid=FIRST_PID + 1000 + local_rank)
        self.has_gone = False


class FakeCrew:
    """The processes of an engine; remembers how it was told that their ranks have ended."""

    def __init__(self, num_ranks: int) -> None:
        self.links = [FakeLink(local_rank) for local_rank in range(num_ranks)]
        self.ends: list[tuple[int, int]] = []

    @property
    def have_all_gone(self) -> bool:
        return all(link.has_gone for link in self.links)

    def lose(self, local_rank: int) -> TaskLost:
        """Let one of them go without a word."""
        self.links[local_rank].has_gone = True
        return TaskLost(local_rank)

    def note_end(self, local_rank: int, returncode: int) -> None:
        self.ends.append((local_rank, returncode))


class Stage:
    """Everything that an attempt acts on, faked."""

    def __init__(
        self, history: Sequence[Step] = (), *, is_ready: bool = True, tasks: int = 0
    ) -> None:
        """tasks: how many processes an engine has started; 0 where there is no engine."""
        self.loop = FakeLoop(history)
        self.console = FakeConsole()
        self.kernel = FakeKernel(self.loop)
        self.starter = FakeStarter(is_ready=is_ready)
        self.stop_request = StopRequest(self.console.say)
        fakes: Any = (self.loop, self.console, FakeKeeper(), FakeEvidence())
        kernel: Any = self.kernel
        self.crew = FakeCrew(tasks)
        crew: Any = self.crew if tasks else None
        record = Record(fakes[0])
        self.node = NodeServices(*fakes, self.stop_request, kernel, record, crew)


def plan(num_workers: int = 2, paths: RunPaths | None = None, **options: Any) -> LaunchPlan:
    """Return the plan of an attempt with so many workers."""
    spec = LaunchSpec(script="train.py", **options)
    facts = NodeFacts(
        run_id="id",
        mark="mark",
        paths=paths,
        usable_cpus=2,
        gpus=(),
        hostname="here",
        environ={},
        local_world_size=num_workers,
    )
    return make_plan(spec, Assignment(0, make_places(0, (num_workers,)), "127.0.0.1", 5000), facts)
