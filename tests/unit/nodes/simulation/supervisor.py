"""One `python -m launcher` on a simulated host: the page of supervisor.py, in virtual time.

`RemoteCoordinator` is the real one, asked in the order in which supervisor.py asks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from launcher.diagnosis.hang import Hang
from launcher.errors import LauncherError
from launcher.events import Event, PeersStop
from launcher.nodes import remote
from launcher.nodes.restart import RestartPolicy, Verdict
from launcher.plan.nodes import Node, NodeGroup
from launcher.ranks import Assignment
from tests.unit.nodes.simulation.attempt import NEVER_S, Attempt, Fate
from tests.unit.nodes.simulation.network import Host, SimLink

ENDPOINT_PORT = 29400

# As in attempt/group.py, and in nodes/remote.py.
_GATHER_S = 0.25
_LAST_WORDS_S = 3.0

_WITH_WORKERS = ("running", "settling", "speaking", "finishing")

Plan = Callable[["Supervisor", Assignment], list[Fate]]


class Setting(NamedTuple):
    """What the user has typed."""

    min_nodes: int = 2
    max_nodes: int = 2
    max_restarts: int = 0
    join_timeout_s: float = 20.0
    last_call_s: float = 1.0
    node_timeout_s: float = 6.0
    rescales_now: bool = True
    num_workers: int = 1
    node_rank: int | None = None
    is_host: bool | None = None
    hang_timeout_s: float = 3.0
    has_hearts: bool = False


class SimLoop:
    """Takes the place of `Loop`, for one supervisor."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor
        self.world = supervisor.world
        self.posted: list[Event] = []
        self._timers: dict[Callable[[], None], float] = {}

    def clock(self) -> float:
        return self.world.now + self.supervisor.clock_offset_s

    def set_timer(self, callback: Callable[[], None], delay_s: float) -> None:
        at = self._timers[callback] = self.world.now + delay_s
        self.world.call_at(at, self._ring, callback, at)

    def cancel_timer(self, callback: Callable[[], None]) -> None:
        self._timers.pop(callback, None)

    def post(self, event: Event) -> None:
        self.posted.append(event)

    def _ring(self, callback: Callable[[], None], at: float) -> None:
        if self._timers.get(callback) == at:
            self.supervisor.run(self.call, callback, at)

    def call(self, callback: Callable[[], None], at: float) -> None:
        """Let a timer ring, unless it was set anew."""
        if self._timers.get(callback) == at:
            del self._timers[callback]
            callback()


class Supervisor:
    """A launcher and the workers of its attempts."""

    def __init__(
        self,
        host: Host,
        setting: Setting,
        plan: Plan,
        endpoint: str,
        *,
        stop_s: Callable[[], float] = lambda: 0.02,
        saves: bool = False,
        clock_offset_s: float = 0.0,
    ) -> None:
        """plan: how the workers of an attempt are to end. stop_s: how long a worker takes to end.

        saves: whether workers end with 0 when they are asked to stop.
        """
        self.world, self.host, self.setting = host.world, host, setting
        self.clock_offset_s = clock_offset_s
        self.stop_s = stop_s
        self._plan, self._saves = plan, saves
        self.links: dict[SimLink, None] = {}
        self.loop = SimLoop(self)
        self.is_alive, self.is_stopped = True, False
        self._backlog: list[tuple[Callable[..., object], tuple[Any, ...]]] = []
        self.state = "new"
        self.signum: int | None = None
        self.verdict = Verdict("restart")
        self.error: LauncherError | None = None
        self.exit_code: int | None = None
        self.ended_at = 0.0
        self.said: list[str] = []
        self.reports = 0
        # Whether it has said what belongs in front of the report; and who had not at the report.
        self.has_spoken = False
        self.silent: list[Supervisor] = []
        self.runs: list[Attempt] = []
        self._is_understood = self._is_pausing = self._is_closing = self._is_speaking = False
        self._stopped_by: int | None = None
        self._group = NodeGroup(
            run_id="r",
            min_nodes=setting.min_nodes,
            max_nodes=setting.max_nodes,
            node_rank=setting.node_rank,
            host=endpoint,
            port=ENDPOINT_PORT,
            is_host=setting.is_host,
            secret=b"s",
            join_timeout_s=setting.join_timeout_s,
            last_call_s=setting.last_call_s,
            node_timeout_s=setting.node_timeout_s,
            rescales_now=setting.rescales_now,
        )
        self.world.add_supervisor(self)

    def __repr__(self) -> str:
        return f"<{self.host.name} {self.state} code={self.exit_code} {self.error or ''}>"

    @property
    def has_ended(self) -> bool:
        return not self.is_alive

    @property
    def coordinates(self) -> bool:
        return self.is_alive and self.state != "new" and self.remote._serving.coordinates

    def begin(self) -> None:
        if not self.is_alive:
            return
        self.remote = remote.open_remote(
            self._group,
            Node(self.host.name, self.setting.num_workers, {"--script": "train.py"}),
            RestartPolicy(self.setting.max_restarts),
            self.loop,  # type: ignore[arg-type]
            self._say,
            lambda: f"run-of-{self.host.name}",
        )
        self.state = "joining"
        self.remote.last_words = self._speak
        self.note("begins")
        self.run(self.remote.begin_to_join)

    def note(self, text: str) -> None:
        self.world.note(f"{self.host.name} {text}")

    def _speak(self) -> None:
        self.has_spoken = True

    def _say(self, line: str) -> None:
        self.said.append(line)
        self.note(f"says: {line}")

    # --- what happens to it ---------------------------------------------------------------------

    def crash(self) -> None:
        """Be killed: the kernel closes its sockets, and its workers are killed with it."""
        self._die(is_silent=False)

    def lose_power(self) -> None:
        """Be gone with its host, in silence."""
        if self.is_alive:
            self.host.is_down = True
            self._die(is_silent=True)

    def _die(self, *, is_silent: bool) -> None:
        if self.is_alive:
            self.note("has no power any more" if is_silent else "is killed")
            self._end("dead")
            if self.runs:
                self.runs[-1].vanish()
            self._leave_host(is_silent=is_silent)

    def _end(self, state: str) -> None:
        self.is_alive, self.state = False, state
        self.ended_at = self.world.now
        self.world.note_end()

    def _leave_host(self, *, is_silent: bool) -> None:
        self.host.listeners = {
            port: listener
            for port, listener in self.host.listeners.items()
            if listener.supervisor is not self
        }
        for link in list(self.links):
            link.die(is_silent=is_silent)

    def pause(self) -> None:
        """Be stopped, as by SIGSTOP: workers and kernel go on."""
        if self.is_alive:
            self.note("is stopped")
            self.is_stopped = True

    def proceed(self) -> None:
        """Go on: what has come is read before timers are looked at."""
        if not self.is_stopped:
            return
        self.is_stopped = False
        backlog, self._backlog = self._backlog, []
        if self.is_alive:
            self.note("goes on")
        timers = [item for item in backlog if item[0] == self.loop.call]
        for items in ([item for item in backlog if item[0] != self.loop.call], timers):
            for function, args in items:
                if self.is_alive:
                    self.world.current = self
                    function(*args)
            self._advance()

    def signal(self, signum: int, *, is_for_all: bool = False) -> None:
        """Be sent a signal that asks to stop; for_all: by `launcher.ctl stop`."""
        if self.is_alive:
            self.note(f"is sent signal {signum}{' for all' if is_for_all else ''}")
            self.run(self._on_signal, signum, is_for_all)

    def miss_peer(self, error: str) -> None:
        """Let the workers end as those do that miss a peer."""
        if self.is_alive and self.runs:
            self.runs[-1].end_all(1, error)

    def run(self, function: Callable[..., object], *args: Any) -> None:
        """Let its code run, unless it is stopped or has ended."""
        if self.is_stopped:
            self._backlog.append((function, args))
        elif self.is_alive:
            self.world.current = self
            function(*args)
            self._advance()

    # --- the page -------------------------------------------------------------------------------

    def _advance(self) -> None:
        while self.is_alive:
            posted = self.loop.posted
            if posted:
                self.loop.posted = []
                for event in posted:
                    self._handle(event)
            if not _STATES[self.state](self) and not posted:
                return

    def _is_done_new(self) -> bool:
        return False  # it was sent a signal before it has begun

    def _is_done_joining(self) -> bool:
        if not self.remote.has_part and self.signum is None:
            return False
        try:
            assignment = self.remote.part() if self.signum is None else None
        except LauncherError as error:
            self.error = error
            return self._close()
        if assignment is None:
            self.verdict = self.remote.verdict() or self.verdict
            self._note_report()
            return self._close()
        self._assignment = assignment
        self.state = "pausing"
        self._is_pausing = self.verdict.delay_s > 0
        if self._is_pausing:
            self.loop.set_timer(self._end_pause, self.verdict.delay_s)
        return True

    def _end_pause(self) -> None:
        self._is_pausing = False

    def _is_done_pausing(self) -> bool:
        if self._is_pausing and self.signum is None:
            return False
        if self.signum is not None:
            return self._close()
        self.state = "running"
        self._start_workers()
        return True

    def _is_done_running(self) -> bool:
        if not (self._is_understood or self.runs[-1].have_all_ended):
            return False
        self.state = "settling"
        self.remote.begin_to_settle(self.runs[-1].outcome(self._stopped_by))
        return True

    def _is_done_settling(self) -> bool:
        if not self.remote.is_settled:
            return False
        try:
            self.verdict = self.remote.settled_verdict()
        except LauncherError as error:
            self.error = error
        action = "error" if self.error else self.verdict.action
        self.note(f"settles generation {self.runs[-1].generation}: {action}")
        self.runs[-1].is_finished = action == "finish"
        self.runs[-1].has_left = action == "leave"
        self.state = "speaking"
        self._is_speaking = action == "give_up" and not self.verdict.reporter
        if self._is_speaking:
            self.loop.set_timer(self._end_speaking, _LAST_WORDS_S)
        return True

    def _end_speaking(self) -> None:
        self._is_speaking = False

    def _is_done_speaking(self) -> bool:
        if self._is_speaking and self.remote.has_speakers:
            return False
        self.loop.cancel_timer(self._end_speaking)
        self._note_report()
        self.state = "finishing"
        self._stop_workers()
        return True

    def _note_report(self) -> None:
        if self.verdict.report is not None and self.verdict.action != "restart":
            self.reports += not self.verdict.reporter
            if not self.verdict.reporter:
                self.silent = [node for node in self.world.supervisors if not node.has_spoken]

    def _is_done_finishing(self) -> bool:
        if not self.runs[-1].have_all_ended:
            return False
        self.loop.cancel_timer(self._understand)
        if self.error or self.verdict.action != "restart" or self.signum is not None:
            return self._close()
        self.state = "joining"
        self.remote.begin_to_join()
        return True

    def _close(self) -> bool:
        self.state = "closing"
        self.remote.begin_to_close()
        self._is_closing = True
        self.loop.set_timer(self._end_closing, self.remote.farewell_s)
        return True

    def _end_closing(self) -> None:
        self._is_closing = False

    def _is_done_closing(self) -> bool:
        if self._is_closing and self.remote.has_listeners:
            return False
        self.remote.close_now()
        self._leave_host(is_silent=False)
        self._end("ended")
        if self.error is not None:
            self.exit_code = self.error.exit_code
        elif self.verdict.action == "restart" and self.signum is not None:
            self.exit_code = 128 + self.signum
        else:
            self.exit_code = self.verdict.exit_code
        action = self.error or f"{self.verdict.action} {self.verdict.reason}"
        self.note(f"ends with {self.exit_code}: {action}")
        return False

    # --- signals and events ---------------------------------------------------------------------

    def _on_signal(self, signum: int, is_for_all: bool) -> None:
        if self.state == "new":
            self._end("ended")
            self.exit_code = 128 + signum
        elif self.state == "closing":
            self._is_closing = False  # whoever is in a hurry is not kept
        elif self.signum is None:
            self.signum = signum
            self.remote.report_signal(signum, is_for_all=is_for_all)
            self._stop_for(signum)
        else:
            self.remote.report_signal(signum, is_for_all=is_for_all, is_forced=True)
            self._kill_workers()

    def _handle(self, event: Event) -> None:
        if not isinstance(event, PeersStop) or self.state == "closing":
            return
        if event.is_forced:
            self._kill_workers()
        elif event.signum and self.signum is None:
            self.signum = event.signum
            self._stop_for(event.signum)
        elif self.state in _WITH_WORKERS and not self.runs[-1].is_stopping:
            if event.is_hang:
                self.runs[-1].hang = Hang((), self.setting.hang_timeout_s)
            self._stop_workers()
            self.loop.set_timer(self._understand, _GATHER_S)

    def _understand(self) -> None:
        self._is_understood = True

    # --- workers --------------------------------------------------------------------------------

    def _start_workers(self) -> None:
        self._is_understood = False
        self._stopped_by = None
        fates = self._plan(self, self._assignment)
        run = Attempt(self, self._assignment, fates, saves=self._saves)
        self.runs.append(run)
        self.note(f"starts generation {run.generation} as node {run.node_rank} of {run.num_nodes}")
        if all(fate.after_s >= NEVER_S for fate in fates):
            self.world.call_in(self.setting.hang_timeout_s, self.run, self._note_hang, run)
        if self.remote.stop is not None:
            self._handle(self.remote.stop)

    def _note_hang(self, run: Attempt) -> None:
        """Take note that nothing has moved here for too long, as attempt/watch.py does."""
        if self.state == "running" and run is self.runs[-1] and not run.is_stopping:
            if self.setting.has_hearts:
                run.hang = Hang((), self.setting.hang_timeout_s)
                self._is_understood = True
                self.remote.report_failure(is_hang=True)
                self._stop_workers()
            else:
                self.remote.report_still(True)

    def see_end(self, code: int) -> None:
        """Take note that a worker of the last attempt has ended."""
        if code and not self.runs[-1].is_stopping:
            self.remote.report_failure()
            self._stop_workers()
            self.loop.set_timer(self._understand, _GATHER_S)

    def _stop_for(self, signum: int) -> None:
        if self.state in _WITH_WORKERS:
            self._stopped_by = signum
            self._stop_workers()

    def _stop_workers(self) -> None:
        self.runs[-1].stop(self.stop_s())

    def _kill_workers(self) -> None:
        if self.state in _WITH_WORKERS:
            self.runs[-1].kill()


_STATES: dict[str, Callable[[Supervisor], bool]] = {
    name.removeprefix("_is_done_"): function
    for name, function in vars(Supervisor).items()
    if name.startswith("_is_done_")
}
