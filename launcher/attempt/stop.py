"""Stopping, written once: ask politely, wait until one shared deadline, force, give up on the rest.

And sweeping: what workers have left behind is found and ended, because nothing survives a run. A
Python worker is asked alone, so that it can use its data workers to finish what it does; a foreign
command is asked with its whole process group, because a shell does not pass signals on. Whoever
owns a `Stop` or a `Sweep` turns the loop meanwhile: both only set timers and look.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Collection, Sequence

from launcher.attempt.worker import Worker
from launcher.exits import signal_name
from launcher.system import processes
from launcher.system.loop import Loop

# They do not stop: they go to every worker.
FORWARDED_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2)

# A worker that is stuck in a collective cannot notice SIGINT; after this share of the grace period
# it gets SIGTERM as well.
_ESCALATE_SHARE = 0.25
_ESCALATE_MAX_S = 5.0

# How long to wait for killed processes to end: one in uninterruptible sleep may never do so.
GIVE_UP_S = 5.0

# How long what a worker has left behind may take to end after SIGTERM.
SWEEP_GRACE_S = 0.5


# At a time limit, Slurm sends SIGTERM twice, some milliseconds apart.
_TWICE_S = 1.0


class Kernel:
    """What a group asks of the kernel about processes; tests bring one that only takes notes."""

    signal = staticmethod(processes.send_signal)
    signal_group = staticmethod(processes.signal_group)
    kill_sessions = staticmethod(processes.kill_sessions)

    def stop_ourselves(self) -> None:
        """Stop this process, as Ctrl-Z does; returns when somebody has continued it."""
        os.kill(os.getpid(), signal.SIGSTOP)

    def reap_orphans(self, known: Collection[int]) -> None:
        """Let ended processes go that became our children because their parents died."""
        for pid in processes.child_pids(os.getpid()):
            if pid not in known:
                _reap(pid)

    def left_behind(self, known: Collection[int], sessions: Collection[int] | None) -> list[int]:
        """Return what still runs below us and is not known, all of it or in these sessions.

        What has ended is let go. As a sub-reaper we are the parent of every process whose own
        parent has ended.
        """
        found: list[int] = []
        for child in processes.child_pids(os.getpid()):
            if child in known:
                continue
            for pid in (child, *processes.descendants(child)):
                info = processes.process_info(pid)
                if info is None or info.state == "Z":
                    _reap(pid)
                elif sessions is None or info.session_id in sessions:
                    found.append(pid)
        return found


def _reap(pid: int) -> None:
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        pass


class StopRequest:
    """The signal that asks a launch to stop, in whichever attempt or pause it comes."""

    def __init__(
        self,
        say: Callable[[str], None],
        *,
        comes_twice: bool = False,
        is_quiet: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """comes_twice: whoever sends SIGTERM sends it twice, and means it once.

        is_quiet: see the attribute.
        """
        self._tell = say
        # Whether another launcher says the same on the same screen.
        self.is_quiet = is_quiet
        self._comes_twice = comes_twice
        self._clock = clock
        self.signum: int | None = None
        # When the first signal has come to this process.
        self._came_at: float | None = None

    def note(self, signum: int) -> bool:
        """Take a signal down; returns whether it asks to stop: the second one forces.

        Those of other nodes do not count: a scheduler sends one to each of them, and their word may
        be here before it.
        """
        if self._came_at is not None:
            is_same = self._comes_twice and signum == signal.SIGTERM
            return is_same and self._clock() - self._came_at < _TWICE_S
        self._came_at = self._clock()
        if self.signum is None:
            self.signum = signum
            self._say(f"received {signal_name(signum)}; stopping, a second one forces")
        return True

    def note_elsewhere(self, signum: int, reason: str) -> bool:
        """Take down that another node was asked to stop; returns whether nobody had asked yet."""
        if self.signum is not None:
            return False
        self.signum = signum
        self._say(f"{reason}; stopping")
        return True

    def note_end(self, signum: int, rank: int) -> None:
        """Take down that a rank has ended because its engine had sent it this signal."""
        if self.signum is None:
            self.signum = signum
            self._say(f"rank {rank} was sent {signal_name(signum)} and has ended; stopping")

    def _say(self, text: str) -> None:
        if not self.is_quiet:
            self._tell(text)


class Stop:
    """The stop of one group of workers."""

    def __init__(
        self,
        workers: Sequence[Worker],
        loop: Loop,
        kernel: Kernel,
        grace_s: float,
        before_force: Callable[[], None],
    ) -> None:
        """`before_force` is called once, when the grace period is over and workers still run."""
        self._workers = workers
        self._loop = loop
        self._kernel = kernel
        self._grace_s = grace_s
        self._before_force = before_force
        self._signum = signal.SIGTERM
        self.has_begun = False
        self.has_forced = False
        self.has_given_up = False

    def begin(self, signum: signal.Signals) -> None:
        """Ask all workers to end, and start the clock. Later calls change nothing."""
        if self.has_begun:
            return
        self.has_begun = True
        self._signum = signum
        for worker in self._workers:
            self.ask(worker)
        if signum == signal.SIGINT:
            delay_s = min(_ESCALATE_MAX_S, self._grace_s * _ESCALATE_SHARE)
            self._loop.set_timer(self._escalate, delay_s)
        self._loop.set_timer(self._force_in_time, self._grace_s, is_patient=True)

    def ask(self, worker: Worker) -> None:
        """Ask one worker to end, also one that has come to be only after the stop had begun."""
        if not worker.is_running:
            return
        if self.has_forced:
            self._kill([worker])
            return
        if worker.asked_to_stop_at is None:
            worker.asked_to_stop_at = self._loop.clock()
        if worker.told_within(self._grace_s, self._loop.clock()) == self._signum:
            worker.told_signum = None  # its engine has just sent it the same
            return
        is_command = worker.plan.kind == "command"
        send = self._kernel.signal_group if is_command else self._kernel.signal
        send(worker.pid, self._signum)
        # A worker that was stopped (SIGSTOP, Ctrl-Z) must run to see it.
        self._kernel.signal_group(worker.pid, signal.SIGCONT)

    def force(self) -> None:
        """Kill everything in the sessions of the workers that still run."""
        if not self.has_forced:
            self._loop.set_timer(self._give_up, GIVE_UP_S)
        self.has_begun = self.has_forced = True
        for timer in (self._escalate, self._force_in_time):
            self._loop.cancel_timer(timer)
        self._kill([worker for worker in self._workers if worker.is_running])

    def end(self) -> None:
        """Forget the deadlines: everything has ended, or been given up."""
        for timer in (self._escalate, self._force_in_time, self._give_up):
            self._loop.cancel_timer(timer)

    def _escalate(self) -> None:
        self._signum = signal.SIGTERM
        for worker in self._workers:
            self.ask(worker)

    def _force_in_time(self) -> None:
        # Where all have ended, it is only what they left behind that still takes time.
        if any(worker.returncode is None for worker in self._workers):
            self._before_force()
            self.force()

    def _kill(self, workers: Sequence[Worker]) -> None:
        for worker in workers:
            if worker.asked_to_stop_at is None:
                worker.asked_to_stop_at = self._loop.clock()
        self._kernel.kill_sessions([worker.pid for worker in workers])

    def _give_up(self) -> None:
        self.has_given_up = True


class Sweep:
    """The end of what the workers have left behind: SIGTERM, a short grace, SIGKILL."""

    def __init__(
        self,
        loop: Loop,
        kernel: Kernel,
        known: Callable[[], Collection[int]],
        sessions: Collection[int] | None,
    ) -> None:
        """known: tells our own children that are no orphans. sessions: the only ones in which
        anything is ended; None for everywhere.
        """
        self._loop = loop
        self._kernel = kernel
        self._known = known
        self._sessions = sessions
        self._has_forced = False
        self._has_given_up = False
        self._left = kernel.left_behind(known(), sessions)
        for pid in self._left:
            kernel.signal(pid, signal.SIGTERM)
            kernel.signal(pid, signal.SIGCONT)
        if self._left:
            loop.set_timer(self.force, SWEEP_GRACE_S, is_patient=True)

    @property
    def is_over(self) -> bool:
        return not self._left or self._has_given_up

    def look(self) -> None:
        """See what is left. Called when children have changed, which is what orphans become."""
        self._left = self._kernel.left_behind(self._known(), self._sessions)
        if self._has_forced:
            # Also what was born between the look before and the end of its parent.
            for pid in self._left:
                self._kernel.signal(pid, signal.SIGKILL)

    def force(self) -> None:
        """Kill what is left."""
        if not self._has_forced:
            self._has_forced = True
            self._loop.cancel_timer(self.force)
            self._loop.set_timer(self._give_up, GIVE_UP_S)
        self.look()

    def end(self) -> None:
        """Forget the deadlines."""
        for timer in (self.force, self._give_up):
            self._loop.cancel_timer(timer)

    def _give_up(self) -> None:
        self._has_given_up = True
