"""Stopping, written once: ask politely, wait until one shared deadline, force, wait bounded, give
up on the rest.

And sweeping: what workers have left behind is found and ended, because nothing survives a run. A
Python worker is asked alone, so that it can use its data workers to finish what it does; a foreign
command is asked with its whole process group, because a shell does not pass signals on.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Sequence
from typing import Protocol

from launcher.system.loop import Loop
from launcher.system.processes import (
    child_pids,
    descendants,
    kill_sessions,
    process_info,
    send_signal,
    signal_group,
)

# A worker that is stuck in a collective cannot notice SIGINT; after this share of the grace period
# it gets SIGTERM as well.
_ESCALATE_SHARE = 0.25
_ESCALATE_MAX_S = 5.0

# How long to wait for the kernel to end killed processes: one in uninterruptible sleep may never
# end.
GIVE_UP_S = 5.0

# How long what a worker has left behind may take to end after SIGTERM.
_SWEEP_GRACE_S = 0.5

_ESCALATE_TIMER = "escalate the stop"
FORCE_TIMER = "force the stop"
_GIVE_UP_TIMER = "give up"
_SWEEP_TIMER = "sweep"


class _Plan(Protocol):
    @property
    def kind(self) -> str: ...


class Stoppable(Protocol):
    """What `Stop` needs of a worker."""

    pid: int
    asked_to_stop_at: float | None

    @property
    def plan(self) -> _Plan: ...
    @property
    def is_running(self) -> bool: ...


class Stop:
    """The stop of one group of workers."""

    def __init__(self, workers: Sequence[Stoppable], loop: Loop, grace_s: float) -> None:
        self._workers = workers
        self._loop = loop
        self._grace_s = grace_s
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
            self._loop.set_timer(
                _ESCALATE_TIMER, min(_ESCALATE_MAX_S, self._grace_s * _ESCALATE_SHARE)
            )
        self._loop.set_timer(FORCE_TIMER, self._grace_s)

    def ask(self, worker: Stoppable) -> None:
        """Ask one worker to end."""
        if not worker.is_running:
            return
        if worker.asked_to_stop_at is None:
            worker.asked_to_stop_at = self._loop.clock()
        send = signal_group if worker.plan.kind == "command" else send_signal
        send(worker.pid, self._signum)
        # A worker that was stopped (SIGSTOP, Ctrl-Z) must run to see it.
        signal_group(worker.pid, signal.SIGCONT)

    def force(self) -> None:
        """Kill everything in the sessions of the workers that still run."""
        self.has_begun = self.has_forced = True
        running = [worker for worker in self._workers if worker.is_running]
        for worker in running:
            worker.asked_to_stop_at = worker.asked_to_stop_at or self._loop.clock()
        kill_sessions(worker.pid for worker in running)
        self._loop.cancel_timer(FORCE_TIMER)
        self._loop.set_timer(_GIVE_UP_TIMER, GIVE_UP_S)

    def on_timer(self, name: str) -> None:
        """Take the next step of the stop."""
        if name == _ESCALATE_TIMER:
            self._signum = signal.SIGTERM
            for worker in self._workers:
                self.ask(worker)
        elif name == FORCE_TIMER:
            self.force()
        elif name == _GIVE_UP_TIMER:
            self.has_given_up = True

    def end(self) -> None:
        """Forget the deadlines: everything has ended, or been given up."""
        for name in (_ESCALATE_TIMER, FORCE_TIMER, _GIVE_UP_TIMER):
            self._loop.cancel_timer(name)


def reap_orphans(known: Iterable[int]) -> None:
    """Let ended processes go that became our children because their parents died."""
    keep = set(known)
    for pid in child_pids(os.getpid()):
        if pid not in keep:
            _reap(pid)


def _reap(pid: int) -> None:
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        pass


def sweep(loop: Loop, known: set[int], sessions: set[int], *, spare_daemons: bool) -> None:
    """End what the workers have left behind: SIGTERM, a short grace, SIGKILL.

    As a sub-reaper we are the parent of every process whose own parent has ended, so all of it is
    among our children. With `spare_daemons`, a process that has made a session of its own was meant
    to stay, and is left alone.
    """
    left = _left_behind(known, sessions, spare_daemons)
    if not left:
        return
    for pid in left:
        send_signal(pid, signal.SIGTERM)
        send_signal(pid, signal.SIGCONT)
    loop.set_timer(_SWEEP_TIMER, _SWEEP_GRACE_S)
    forced = False
    while left:
        # Ends wake us (SIGCHLD): of our own children, which is what orphans become.
        fired = any(getattr(event, "name", "") == _SWEEP_TIMER for event in loop.wait_events())
        for pid in left:
            _reap(pid)
        left = _left_behind(known, sessions, spare_daemons)
        if fired and forced:
            return
        if fired:
            forced = True
            for pid in left:
                send_signal(pid, signal.SIGKILL)
            loop.set_timer(_SWEEP_TIMER, GIVE_UP_S)
    loop.cancel_timer(_SWEEP_TIMER)


def _left_behind(known: set[int], sessions: set[int], spare_daemons: bool) -> list[int]:
    found: list[int] = []
    for child in child_pids(os.getpid()):
        if child in known:
            continue
        for pid in (child, *descendants(child)):
            info = process_info(pid)
            if info is None or info.state == "Z":
                _reap(pid)
            elif not spare_daemons or info.session_id in sessions:
                found.append(pid)
    return found
