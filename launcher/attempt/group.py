"""One attempt on this node: start all workers, stop all on the first failure, say what happened.

The only owner of the workers' states. `run` returns when all workers have ended, or a moment
after the first failure, so that the report need not wait for slow workers; leaving the block then
sees the stop through and ends what is left behind. Whatever happens meanwhile, a signal to the
launcher is said and noted in the stop request, which outlives the attempt.
"""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack

from launcher.attempt.autopsy import Autopsy
from launcher.attempt.node import NodeServices
from launcher.attempt.stop import FORWARDED_SIGNALS, Stop, Sweep
from launcher.attempt.watch import Watch
from launcher.attempt.worker import Worker, WorkerStatus
from launcher.diagnosis.hang import Hang
from launcher.diagnosis.outcome import AttemptOutcome, WorkerOutcome
from launcher.events import (
    Asked,
    ChildrenChanged,
    Event,
    Exited,
    ForkServerLost,
    PeersStop,
    Signalled,
    Started,
    StartFailed,
    TaskLost,
    TaskSignalled,
)
from launcher.exits import describe
from launcher.nodes.coordinator import Elastic
from launcher.nodes.restart import will_hit_all
from launcher.output.pipes import WorkerPipes
from launcher.plan.plan import LaunchPlan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from launcher.start.starter import Starter

# After the first failure, how long to wait for others that fail at the same moment before the
# report is made.
GATHER_S = 0.25

# An error in the program's text comes on every rank: how long to let them all say so, for one
# report that names them all.
SAME_ERROR_S = 0.5


class Group:
    """All workers of this node in one attempt; as a context manager: nothing of it survives."""

    def __init__(
        self, plan: LaunchPlan, starter: Starter, node: NodeServices, elastic: Elastic | None = None
    ) -> None:
        """`starter` is ready to start workers. With `elastic`, lost workers may be replaced."""
        self.plan = plan
        self._starter = starter
        self._node = node
        self._loop = loop = node.loop
        self._console = console = node.console
        self.workers = [Worker(worker) for worker in plan.workers]
        listener = self._hear if plan.assignment.horovod_port else None
        self._record = node.record
        consoles = node.consoles or (console,)
        self._pipes = WorkerPipes(
            plan, loop, consoles, listener, self._on_first_output, self._signal
        )
        self._autopsy = Autopsy(node.evidence, self._pipes, node.kernel)
        self._stop = Stop(
            self.workers, loop, node.kernel, plan.shutdown_timeout_s, self._tell_who_stays
        )
        self._watch = Watch(
            self.workers,
            self._pipes,
            loop,
            plan.hang_timeout_s,
            console.say,
            self._on_hang,
            node.peers.report_still if node.peers else None,
        )
        self._sweep: Sweep | None = None
        self._began_at = loop.clock()
        self._num_ended = 0
        self._is_understood = False
        # The signal to the launcher that ended this attempt, if one did.
        self._signum: int | None = None
        self._node_failure = ""
        self._hang: Hang | None = None
        # Why elastic ranks cannot go on, when no rank has failed; why none can start again.
        self._obstacle = self._restart_obstacle = ""
        self._relay = None
        if node.crew is not None:
            from launcher.attempt.relay import Relay

            self._relay = Relay(
                node.crew, self.workers, loop, node.kernel, plan.stop_signals, self._watch_anew
            )
        self._replacing = None
        if elastic is not None:
            from launcher.attempt.replacing import Replacing

            self._replacing = Replacing(
                elastic,
                plan,
                self.workers,
                self._pipes,
                console.say,
                loop.clock,
                self._replace_lost,
            )

    def __enter__(self) -> Group:
        return self

    def __exit__(self, *exc_info: object) -> None:
        with ExitStack() as cleanup:
            cleanup.enter_context(self._pipes)
            cleanup.callback(self._cancel_timers)
            cleanup.callback(self._let_go_of_all)
            self._finish()
            self._sweep_up()

    def run(self) -> AttemptOutcome:
        """Start the workers; wait until all have ended, or a failure is understood.

        Returns what is known then.
        """
        self._watch.begin()
        if self._node.sampling:
            self._node.sampling.begin(self.workers, self.plan)
        if self._relay:
            self._relay.begin()
        for worker in self.workers:
            self._start(worker)
        if self._node.peers and self._node.peers.stop:
            self._on_peers_stop(self._node.peers.stop)  # it came before there were any
        while not (self._all_ended or self._is_understood or self._stop.has_given_up):
            self.turn()
        if self._all_ended:
            self._watch.end()  # whoever waits for the other nodes is not stuck
        return self.outcome()

    def outcome(self) -> AttemptOutcome:
        """Return what has happened so far."""
        return AttemptOutcome(
            attempt=self.plan.attempt,
            workers=tuple(self._autopsy.outcome_of(worker) for worker in self.workers),
            signum=self._signum,
            node_failure=self._node_failure or self._obstacle,
            hang=self._hang,
            duration_s=self._loop.clock() - self._began_at,
            obstacle=self._restart_obstacle,
            replaced=tuple(self._replacing.replaced) if self._replacing else (),
        )

    def status(self) -> list[WorkerStatus]:
        """Return the state of each worker."""
        return [
            WorkerStatus(
                worker.plan.rank,
                worker.pid,
                worker.state,
                self._pipes.seconds_since_output(worker.plan.local_rank),
            )
            for worker in self.workers
        ]

    def stacks(self) -> str:
        """Return where each running worker is, as text."""
        return self._watch.stacks()

    def _signal(self, local_rank: int, signum: int) -> None:
        if self.workers[local_rank].is_running:
            self._node.kernel.signal(self.workers[local_rank].pid, signum)

    def signal_all(self, signum: int) -> None:
        """Send a signal to every running worker."""
        for worker in self.workers:
            if worker.is_running:
                self._node.kernel.signal(worker.pid, signum)

    @property
    def _all_ended(self) -> bool:
        return all(worker.returncode is not None for worker in self.workers)

    def _known_workers(self) -> set[int]:
        """Return the process ids of the workers, which are no orphans.

        Those whose fork server has died are: somebody must wait for their end.
        """
        return set() if self._node_failure else {worker.pid for worker in self.workers}

    def turn(self) -> bool:
        """Let the loop go on once; return that whoever waits for something may wait on."""
        self._loop.turn(self._handle)
        self._pipes.resume_if_possible()
        return True

    def _finish(self) -> None:
        """Stop what still runs, and wait for it: bounded by the shutdown timeout."""
        if not self._all_ended:
            self._begin_stop(signal.SIGTERM)
        while not (self._all_ended or self._stop.has_given_up):
            self.turn()

    def _sweep_up(self) -> None:
        """End what the workers have left behind.

        After a success, a process that has made a session of its own was meant to stay.
        """
        sessions = {worker.pid for worker in self.workers if worker.pid}
        self._sweep = Sweep(
            self._loop,
            self._node.kernel,
            lambda: self._node.known_pids(self._starter) | self._known_workers(),
            sessions if self.outcome().succeeded else None,
        )
        while not self._sweep.is_over:
            self.turn()

    def _cancel_timers(self) -> None:
        self._stop.end()
        self._watch.end()
        if self._node.sampling:
            self._node.sampling.end()
        if self._sweep:
            self._sweep.end()
        if self._relay:
            self._relay.end()
        if self._replacing:
            self._replacing.end()
        for timer in (self._end_gathering, self._stop_after_failure):
            self._loop.cancel_timer(timer)

    def _let_go_of_all(self) -> None:
        """Let all process ids go.

        The end of one that was given up must not be taken for that of a worker of the next attempt.
        """
        for worker in self.workers:
            if worker.returncode is None:
                self._starter.forget(worker.pid)
            elif worker.pid and not worker.is_reaped:
                worker.peak_kib = self._starter.reap(worker.pid)
            self._record.note_peak(worker.plan.rank, worker.peak_kib)

    def _start(self, worker: Worker) -> None:
        try:
            descriptors = self._pipes.open(worker.plan)
        except OSError as error:
            problem = f"cannot make its pipes: {error.strerror}"
            self._handle(StartFailed(worker.plan.local_rank, problem, 126))
            return
        try:
            events = list(self._starter.start(worker.plan, descriptors))
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        for event in events:
            self._handle(event)

    def _handle(self, event: Event) -> None:
        if isinstance(event, Exited):
            self._on_exit(event.local_rank, event.returncode)
        elif isinstance(event, Started):
            self._on_start(event)
        elif isinstance(event, ChildrenChanged):
            self._on_children_changed()
        elif isinstance(event, Signalled):
            self._on_signal(event.signum)
        elif isinstance(event, TaskSignalled) and self._relay:
            self._relay.pass_on(event.local_rank, event.signum)
        elif isinstance(event, TaskLost) and self._relay:
            self._relay.lose(event.local_rank)
        elif isinstance(event, StartFailed):
            self.workers[event.local_rank].start_failure = event.message
            self._on_exit(event.local_rank, event.exit_code)
        elif isinstance(event, Asked) and self._replacing:
            self._replacing.ask(event.local_rank)
            self._replace_lost()
        elif isinstance(event, ForkServerLost):
            self._on_fork_server_lost(event.returncode)
        elif isinstance(event, PeersStop):
            self._on_peers_stop(event)

    def _on_start(self, event: Started) -> None:
        worker = self.workers[event.local_rank]
        worker.pid = event.pid
        self._record.note_start(worker.plan, event.pid)
        if self._pipes.seconds_since_output(event.local_rank) is not None:
            self._record.note_output(worker.plan.rank)  # read before the news of its start
        self._node.keeper.add_session(event.pid)
        if self._stop.has_begun:
            self._stop.ask(worker)
        if self._relay:
            self._relay.greet(event.local_rank)

    def _on_exit(self, local_rank: int, returncode: int) -> None:
        worker = self.workers[local_rank]
        if worker.returncode is not None:
            return
        self._pipes.drain(local_rank)
        self._num_ended += 1
        worker.returncode = returncode
        worker.ended_at = self._loop.clock()
        worker.order = self._num_ended
        if self._node.sampling:
            self._node.sampling.note_end(worker)
        self._record.note_exit(worker.plan, worker.pid, returncode)
        signum = worker.told_within(self.plan.shutdown_timeout_s, self._loop.clock())
        if signum is not None and worker.asked_to_stop_at is None:
            worker.asked_to_stop_at = worker.told_at
        was_forced = worker.asked_to_stop_at is not None and self._stop.has_forced
        outcome = self._autopsy.examine(worker, self._starter, was_forced=was_forced)
        if self._node.crew is not None:
            self._node.crew.note_end(local_rank, returncode)
        if self._stop.has_begun:
            return
        if returncode != 0 and signum is not None:
            self._node.stop_request.note_end(signum, worker.plan.rank)
            if self._node.peers:
                self._node.peers.report_signal(signum)
            self._signum = signum
            self._begin_stop(signal.SIGTERM)
        elif returncode != 0 and will_hit_all(outcome):
            self._loop.set_timer(self._stop_after_failure, SAME_ERROR_S, is_patient=True)
        elif returncode != 0 and not self._can_go_on_without(outcome, local_rank):
            self._stop_after_failure()
        elif self._replacing:
            if returncode == 0:
                self._replacing.finish(local_rank)
            self._replace_lost()

    def _can_go_on_without(self, outcome: WorkerOutcome, local_rank: int) -> bool:
        if self._replacing is None or self._node_failure:
            return False
        return self._replacing.lose(local_rank, outcome)

    def _replace_lost(self) -> None:
        """Replace those that elastic Horovod has lost, once the others have come back."""
        assert self._replacing is not None
        if self._stop.has_begun:
            return
        for plan in self._replacing.take_newcomers():
            self._autopsy.bury(self.workers[plan.local_rank], self._starter)
            self._pipes.forget(plan.local_rank)
            self.workers[plan.local_rank] = Worker(plan)
            self._start(self.workers[plan.local_rank])
            self._watch.begin()
        if self._replacing.obstacle:
            if any(worker.returncode for worker in self.workers):
                # And the report tells of the one that failed.
                self._console.say(self._replacing.obstacle)
            else:
                self._obstacle = self._replacing.obstacle
            self._stop_after_failure()

    def _on_children_changed(self) -> None:
        self._node.look_after_children(self._starter, self._handle, self._known_workers())
        if self._sweep:
            self._sweep.look()

    def _on_signal(self, signum: int) -> None:
        if signum in FORWARDED_SIGNALS:
            # Those for the ranks of an engine come through the processes that it has started.
            if not self._relay:
                self.signal_all(signum)
        elif signum == signal.SIGTSTP:
            self._pause()
        elif self._node.stop_request.note(signum):
            if self._node.peers:
                self._node.peers.report_signal(signum)
            self._stop_for(signum)
        else:
            if self._node.peers:
                self._node.peers.report_signal(signum, is_forced=True)
            self._force()

    def _force(self) -> None:
        """Wait no longer for those that were asked to end."""
        if self._sweep:
            self._sweep.force()
        else:
            self._stop.force()

    def _stop_for(self, signum: int) -> None:
        self._signum = signum
        self._begin_stop(signal.SIGINT if signum == signal.SIGINT else signal.SIGTERM)

    def _on_peers_stop(self, event: PeersStop) -> None:
        """End the attempt here, because it ends on all nodes."""
        if event.is_forced:
            self._force()
        elif event.signum and self._node.stop_request.note_elsewhere(event.signum, event.reason):
            self._stop_for(event.signum)
        elif not self._stop.has_begun:
            if event.is_hang:
                self._hang = self._watch.find_hang()
            self._begin_stop(signal.SIGTERM)
            self._loop.set_timer(self._end_gathering, GATHER_S, is_patient=True)

    def _pause(self) -> None:
        """Stop the workers, then ourselves, for Ctrl-Z; once continued, continue them."""
        running = [worker for worker in self.workers if worker.is_running]
        for worker in running:
            self._node.kernel.signal_group(worker.pid, signal.SIGSTOP)
        self._pipes.pause()
        stopped_at = self._loop.clock()
        self._node.kernel.stop_ourselves()
        # Nobody could do anything meanwhile: a grace period that has begun is no shorter for it.
        self._loop.postpone_timers(self._loop.clock() - stopped_at)
        for worker in running:
            self._node.kernel.signal_group(worker.pid, signal.SIGCONT)
        self._pipes.resume()
        self._watch_anew()

    def _watch_anew(self) -> None:
        """Count the time for which nothing moves from now on: workers are, or were, stopped."""
        if not self._stop.has_begun:
            self._watch.begin()

    def _begin_stop(self, signum: signal.Signals) -> None:
        self._watch.end()
        self._stop.begin(signum)

    def _stop_after_failure(self) -> None:
        if self._node.peers:
            self._node.peers.report_failure()
        if self._relay and not self.plan.is_last:
            self._restart_obstacle = self._relay.find_restart_obstacle(self.outcome().workers)
        self._begin_stop(signal.SIGTERM)
        self._loop.set_timer(self._end_gathering, GATHER_S, is_patient=True)

    def _end_gathering(self) -> None:
        self._is_understood = True

    def _tell_who_stays(self) -> None:
        self._console.say(
            f"not ended {self.plan.shutdown_timeout_s:g} s after the stop,"
            f" killing:\n{self._watch.stacks()}"
        )

    def _hear(self, local_rank: int, stream: str, data: bytes) -> None:
        if stream == "err" and not self._stop.has_begun:
            self._watch.hear(local_rank, data)

    def _on_first_output(self, local_rank: int) -> None:
        worker = self.workers[local_rank]
        if worker.pid:
            self._record.note_output(worker.plan.rank)

    def _on_hang(self, hang: Hang) -> None:
        self._hang = hang
        self._record.note("hang", attempt=self.plan.attempt, summary=hang.summary())
        self._is_understood = True
        if self._node.peers:
            self._node.peers.report_failure(is_hang=True)
        self._begin_stop(signal.SIGTERM)

    def _on_fork_server_lost(self, returncode: int) -> None:
        if self._all_ended:
            return
        self._node_failure = (
            f"the fork server, parent of all workers here, has died: {describe(returncode)}"
        )
        for worker in self.workers:
            # The kernel has killed them with their parent, and nobody knows their statuses.
            if worker.returncode is None:
                worker.asked_to_stop_at = self._loop.clock()
                self._on_exit(worker.plan.local_rank, -signal.SIGKILL)
