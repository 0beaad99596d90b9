"""One attempt on this node: start all workers, feed events, stop all on the first failure, say what
happened.

The only owner of the workers' states. `watch` returns when all workers have ended, or a moment
after the first failure, so that the report need not wait for slow workers; `finish` then sees the
stop through.
"""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from typing import NamedTuple

from launcher.attempt import stop as stopping
from launcher.attempt.autopsy import Autopsy
from launcher.attempt.replacing import MEETING_TIMER, Replacing
from launcher.attempt.watch import HANG_TIMER, Diagnostics
from launcher.diagnosis.evidence import Evidence
from launcher.diagnosis.hang import Hang
from launcher.diagnosis.outcome import AttemptOutcome
from launcher.events import (
    Asked,
    ChildrenChanged,
    Event,
    Exited,
    ForkServerLost,
    ForkServerReady,
    ForkServerUnsafe,
    Output,
    Signalled,
    Started,
    StartFailed,
    TimerFired,
)
from launcher.exits import describe, signal_name
from launcher.nodes.coordinator import Elastic
from launcher.output.console import Console
from launcher.output.pipes import PROMPT_TIMER, STALL_TIMER, WorkerPipes
from launcher.plan.plan import LaunchPlan
from launcher.start.warm import SERVER_OUTPUT
from launcher.start.worker import Starter, Worker
from launcher.system.keeper import Keeper
from launcher.system.loop import Loop
from launcher.system.processes import send_signal, signal_group

# After the first failure, how long to wait for others that fail at the same moment before the
# report is made.
SETTLE_S = 0.25

_FORWARDED_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2)
_SETTLE_TIMER = "settle"
_BEGIN_TIMER = "begin the attempt"
_STOP_TIMER = "stop after the same error on all"

# An error in the program's text comes on every rank: how long to let them all say so, for one
# report that names them all.
_SAME_ERROR_S = 0.5


class NodeServices(NamedTuple):
    """What all attempts on this node share."""

    loop: Loop
    console: Console
    keeper: Keeper
    evidence: Evidence


class Group:
    """All workers of this node in one attempt. Use as a context manager: nothing of it survives the
    block.
    """

    def __init__(
        self, plan: LaunchPlan, starter: Starter, node: NodeServices, elastic: Elastic | None = None
    ) -> None:
        self.plan = plan
        self.starter = starter
        self._loop = loop = node.loop
        self._console = console = node.console
        self._keeper = node.keeper
        self.workers = [Worker(worker) for worker in plan.workers]
        self._pipes = WorkerPipes(plan, loop, console)
        self._autopsy = Autopsy(node.evidence, self._pipes)
        self._stop = stopping.Stop(self.workers, loop, plan.shutdown_timeout_s)
        self._diagnostics = Diagnostics(
            self.workers, self._pipes, loop, plan.hang_timeout_s, console.say
        )
        self._replacing = (
            Replacing(elastic, plan, self.workers, self._pipes, loop, console) if elastic else None
        )
        self._cleanup = ExitStack()
        self._began_at = loop.clock()
        self._num_ended = 0
        self._has_begun = False
        self._is_settled = False
        self.signum: int | None = None
        self.node_failure = ""
        self._obstacle = ""  # why elastic ranks cannot go on, when no rank has failed
        self._hang: Hang | None = None
        # Why the fork server may not be used; the supervisor starts workers in another way from
        # then on.
        self.unsafe_reason = ""

    def __enter__(self) -> Group:
        self._cleanup.enter_context(self._pipes)
        self._cleanup.callback(self._reap_all)
        if self._replacing:
            self._cleanup.callback(self._replacing.end)
        if self.plan.start_delay_s:
            self._loop.set_timer(_BEGIN_TIMER, self.plan.start_delay_s)
        elif self.starter.is_ready:
            self._begin()
        return self

    def __exit__(self, *exc_info: object) -> None:
        with self._cleanup:
            self.finish()
            self._diagnostics.end()
            sessions = {worker.pid for worker in self.workers if worker.pid}
            stopping.sweep(
                self._loop, self._known_pids, sessions, spare_daemons=self.outcome().succeeded
            )
            for timer in (_SETTLE_TIMER, _BEGIN_TIMER, _STOP_TIMER):
                self._loop.cancel_timer(timer)

    def watch(self) -> AttemptOutcome:
        """Wait until all workers have ended, or a failure is understood; returns what is known
        then.
        """
        while not (
            self._all_ended or self._is_settled or self.unsafe_reason or self._stop.has_given_up
        ):
            self._handle_next()
        return self.outcome()

    def finish(self) -> None:
        """Stop what still runs, and wait for it: bounded by the shutdown timeout."""
        if not self._all_ended:
            self._stop.begin(signal.SIGTERM)
        while not self._all_ended and not self._stop.has_given_up:
            self._handle_next()
        self._stop.end()

    def outcome(self) -> AttemptOutcome:
        """Return what has happened so far."""
        return AttemptOutcome(
            attempt=self.plan.attempt,
            workers=tuple(self._autopsy.outcome_of(worker) for worker in self.workers),
            signum=self.signum,
            node_failure=self.node_failure or self._obstacle,
            hang=self._hang,
            duration_s=self._loop.clock() - self._began_at,
            replaced=tuple(self._replacing.replaced) if self._replacing else (),
        )

    def status(self) -> list[dict[str, object]]:
        """Return the state of each worker, as `ctl ps` shows it."""
        return [
            {
                "rank": worker.plan.rank,
                "pid": worker.pid,
                "state": (
                    "running"
                    if worker.is_running
                    else ("starting" if not worker.pid else describe(worker.returncode or 0))
                ),
                "last_output_s": self._pipes.seconds_since_output(worker.plan.local_rank),
            }
            for worker in self.workers
        ]

    def stacks(self) -> str:
        """Return where each running worker is, as text."""
        return self._diagnostics.describe()

    def signal_all(self, signum: int) -> None:
        """Send a signal to every running worker."""
        for worker in self.workers:
            if worker.is_running:
                send_signal(worker.pid, signum)

    @property
    def _known_pids(self) -> set[int]:
        """Our own children that are no orphans. Workers whose fork server has died are: somebody
        must wait for their end.
        """
        workers = () if self.node_failure else (worker.pid for worker in self.workers)
        return {self._keeper.pid, getattr(self.starter, "pid", 0), *workers}

    @property
    def _all_ended(self) -> bool:
        if not self._has_begun:
            return self._stop.has_begun or bool(self.node_failure)
        return all(worker.returncode is not None for worker in self.workers)

    def _begin(self) -> None:
        self._has_begun = True
        self._began_at = self._loop.clock()
        self._diagnostics.begin()
        for worker in self.workers:
            self._start(worker)

    def _start(self, worker: Worker) -> None:
        try:
            descriptors = self._pipes.open(worker.plan)
        except OSError as error:
            self._handle(
                StartFailed(worker.plan.local_rank, f"cannot make its pipes: {error.strerror}", 126)
            )
            return
        try:
            events = list(self.starter.start(worker.plan, descriptors))
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        for event in events:
            self._handle(event)

    def _handle_next(self) -> None:
        for event in self._loop.wait_events():
            self._handle(event)
        self._pipes.resume_if_possible()

    def _handle(self, event: Event) -> None:
        if isinstance(event, Output):
            self._on_output(event)
        elif isinstance(event, Exited):
            self._on_exit(event.local_rank, event.returncode)
        elif isinstance(event, Started):
            self._on_start(event)
        elif isinstance(event, Asked) and self._replacing:
            self._replacing.ask(event.local_rank)
            self._replace_lost()
        elif isinstance(event, ChildrenChanged):
            self._on_children_changed()
        elif isinstance(event, Signalled):
            self._on_signal(event.signum)
        elif isinstance(event, TimerFired):
            self._on_timer(event.name)
        elif isinstance(event, StartFailed):
            self.workers[event.local_rank].start_failure = event.message
            self._on_exit(event.local_rank, event.exit_code)
        elif isinstance(event, ForkServerReady):
            if not self._stop.has_begun and not self.plan.start_delay_s:
                self._begin()
        elif isinstance(event, ForkServerUnsafe):
            self.unsafe_reason = event.reason
        elif isinstance(event, ForkServerLost):
            self._on_fork_server_lost(event.returncode)

    def _on_output(self, event: Output) -> None:
        if event.local_rank == SERVER_OUTPUT:
            self._console.say(event.data.decode("utf-8", "backslashreplace").rstrip("\n"))
        else:
            self._pipes.feed(event)
            if self.plan.assignment.horovod_port and not self._stop.has_begun:
                self._stop_after_hang(self._diagnostics.hear(event))

    def _on_start(self, event: Started) -> None:
        worker = self.workers[event.local_rank]
        worker.pid = event.pid
        self._keeper.add_session(event.pid)
        if self._stop.has_begun:
            self._stop.ask(worker)

    def _on_exit(self, local_rank: int, returncode: int) -> None:
        worker = self.workers[local_rank]
        if worker.returncode is not None:
            return
        self._pipes.drain(local_rank)
        self._num_ended += 1
        worker.returncode = returncode
        worker.ended_at = self._loop.clock()
        worker.order = self._num_ended
        if returncode < 0 and (worker.asked_to_stop_at is None or not self._stop.has_forced):
            self._autopsy.examine(worker, self.starter)
            for event in self.starter.take_set_aside():
                self._handle(event)
        if self._stop.has_begun:
            return
        if returncode != 0 and self._autopsy.will_hit_all(worker):
            self._loop.set_timer(_STOP_TIMER, _SAME_ERROR_S)
        elif returncode != 0 and not self._can_go_on_without(worker):
            self._stop_after_failure()
        elif self._replacing:
            if returncode == 0:
                self._replacing.finish(local_rank)
            self._replace_lost()

    def _can_go_on_without(self, worker: Worker) -> bool:
        if self._replacing is None or self.node_failure:
            return False
        return self._replacing.lose(worker.plan.local_rank, self._autopsy.outcome_of(worker))

    def _replace_lost(self) -> None:
        """Start workers in the place of those that elastic Horovod has lost, once the others have
        come back.
        """
        assert self._replacing is not None
        if self._stop.has_begun:
            return
        for plan in self._replacing.take_newcomers():
            self._autopsy.bury(self.workers[plan.local_rank], self.starter)
            self._pipes.forget(plan.local_rank)
            self.workers[plan.local_rank] = Worker(plan)
            self._start(self.workers[plan.local_rank])
            self._diagnostics.begin()
        for event in self.starter.take_set_aside():
            self._handle(event)
        if self._replacing.obstacle:
            if any(worker.returncode for worker in self.workers):
                self._console.say(
                    self._replacing.obstacle
                )  # and the report tells of the one that failed
            else:
                self._obstacle = self._replacing.obstacle
            self._stop_after_failure()

    def _stop_after_failure(self) -> None:
        self._stop.begin(signal.SIGTERM)
        self._loop.set_timer(_SETTLE_TIMER, SETTLE_S)

    def _on_children_changed(self) -> None:
        for event in self.starter.collect_exits():
            self._handle(event)
        self._keeper.revive()
        stopping.reap_orphans(self._known_pids)

    def _on_signal(self, signum: int) -> None:
        if signum in _FORWARDED_SIGNALS:
            self.signal_all(signum)
        elif signum == signal.SIGTSTP:
            self._pause()
        elif self.signum is None:
            self.signum = signum
            self._console.say(f"received {signal_name(signum)}; stopping, a second one forces")
            self._stop.begin(signal.SIGINT if signum == signal.SIGINT else signal.SIGTERM)
        else:
            self._stop.force()

    def _pause(self) -> None:
        """Ctrl-Z: stop the workers, then ourselves; when somebody continues us, continue them."""
        for worker in self.workers:
            if worker.is_running:
                signal_group(worker.pid, signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)
        for worker in self.workers:
            if worker.is_running:
                signal_group(worker.pid, signal.SIGCONT)
        self._diagnostics.begin()

    def _on_timer(self, name: str) -> None:
        if name == _SETTLE_TIMER:
            self._is_settled = True
        elif name == _BEGIN_TIMER:
            self._begin()
        elif name == _STOP_TIMER:
            self._stop_after_failure()
        elif name == STALL_TIMER:
            self._pipes.check_stall()
        elif name == PROMPT_TIMER:
            self._pipes.show_prompts()
        elif name == HANG_TIMER:
            if not self._stop.has_begun:
                self._stop_after_hang(self._diagnostics.look())
        elif name == MEETING_TIMER and self._replacing:
            self._replacing.run_out_of_time()
            self._replace_lost()
        else:
            if name == stopping.FORCE_TIMER:
                self._console.say(
                    f"not ended {self.plan.shutdown_timeout_s:g} s after the stop,"
                    f" killing:\n{self._diagnostics.describe()}"
                )
            self._stop.on_timer(name)

    def _stop_after_hang(self, hang: Hang | None) -> None:
        if hang is not None:
            self._hang = hang
            self._is_settled = True
            self._stop.begin(signal.SIGTERM)

    def _on_fork_server_lost(self, returncode: int) -> None:
        if not self._has_begun:
            # It ends by itself when it has said why it is not to be used: both may come at once.
            died = f"the fork server died while it imported modules, {describe(returncode)}"
            self.unsafe_reason = self.unsafe_reason or died
            return
        self.node_failure = (
            f"the fork server, parent of all workers here, has died: {describe(returncode)}"
        )
        for worker in self.workers:
            # The kernel has killed them with their parent, and nobody can tell us their statuses
            # any more.
            if worker.returncode is None:
                worker.asked_to_stop_at = self._loop.clock()
                self._on_exit(worker.plan.local_rank, -signal.SIGKILL)

    def _reap_all(self) -> None:
        for worker in self.workers:
            if worker.pid and worker.returncode is not None and not worker.is_reaped:
                self.starter.reap(worker.pid)
