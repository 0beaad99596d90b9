"""A node of a run, as a state machine: it seeks its coordinator, takes part, if need be takes over.

    seeking -> joined -> (assigned, settled, decided: again and again) -> over
                  |  coordinator lost
               resuming: to the first of its deputies that lives, which may be this node

Pure: the clock is an argument. What is to be done about connections lies in `actions`; whoever owns
it carries them out, and says how it went. What the supervisor wants to know are plain fields.
"""

from __future__ import annotations

from launcher.errors import EnvironmentMismatch, LauncherError, RendezvousError
from launcher.named import NamedTuple
from launcher.nodes.doubts import Doubts
from launcher.nodes.messages import (
    Answer,
    Ask,
    Assigned,
    Decided,
    Deputy,
    Failing,
    Farewell,
    Forsake,
    Heard,
    Join,
    Leave,
    Message,
    Ping,
    Pong,
    Ready,
    Refused,
    Released,
    Settled,
    Still,
    Stop,
    Stopping,
    Waiting,
    Well,
)
from launcher.nodes.rules import PATIENCE_S, Past
from launcher.nodes.search import HAS_GONE, Search
from launcher.nodes.succession import Succession

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PING_S = 1.0

# How long a deputy may take to accept a connection and to prove who it is.
_DEPUTY_S = 2.0


class Seek(NamedTuple):
    """Look for the coordinator at the endpoint, or serve there."""


class Reach(NamedTuple):
    """Connect to a deputy."""

    deputy: Deputy


class Return(NamedTuple):
    """Connect again to the coordinator that was lost."""


class Serve(NamedTuple):
    """Take the lost coordinator's place."""

    past: Past


class Say(NamedTuple):
    """Send a message to the coordinator."""

    message: Message


class LetGo(NamedTuple):
    """Close the connection to the coordinator, and end what is under way to get one."""


Action = Seek | Reach | Return | Serve | Say | LetGo


class Member:
    """The state of this node; whether it coordinates itself makes no difference but for silence."""

    def __init__(
        self, join: Join, join_timeout_s: float, node_timeout_s: float, now: float
    ) -> None:
        self.join = join
        self.actions: list[Action] = []
        self.state = "seeking"
        # Whether the coordinator is in this process.
        self.is_own = False
        # What the supervisor wants to know: its part in the next attempt; the reason and signal
        # for which the ranks are to end; what follows; why there is no run for this node.
        self.assigned: Assigned | None = None
        self.stop: Stop | None = None
        self.decided: Decided | None = None
        self.error: LauncherError | None = None
        # What other nodes ask this one, and what they answer to it.
        self.asked: list[Ask] = []
        self.answers: list[Answer] = []
        # Lines for the user.
        self.news: list[str] = []
        # Half of the shortest time that a message took to the coordinator and back.
        self.latency_s = 0.0
        # Of the run's folder, and of this node for the others, as of the last attempt.
        self.run_name = self.address = ""
        self._node_timeout_s = node_timeout_s
        self._search = Search(join_timeout_s, now)
        self._succession = Succession()
        # When the user is to know that nothing has come about yet; None once that is said.
        self._impatient_at: float | None = now + PATIENCE_S
        self._heard_at = self._pinged_at = now
        # Until when a deputy is waited for.
        self._candidate_until = 0.0
        self._doubts = Doubts(node_timeout_s, now)
        # In the last attempt.
        self._part: Assigned | None = None
        self._generation = -1
        self._node_rank = -1
        self._num_failures = 0
        self._failing = False
        self._stopping: Stopping | None = None
        self._account: dict[str, Any] | None = None
        self._ready: Ready | None = None
        # What was decided on the last attempt, for whoever takes the coordinator's place.
        self._verdict: Decided | None = None
        self._is_waiting = False
        # Why this node leaves, once it does.
        self._farewell = ""

    # --- what the supervisor says ---------------------------------------------------------------

    def begin(self) -> None:
        """Look for the coordinator."""
        self.actions.append(Seek())

    @property
    def has_ended(self) -> bool:
        """Whether there is no further attempt for this node."""
        return self._is_decided or bool(self._farewell) or self.state == "over"

    @property
    def _is_decided(self) -> bool:
        return self.decided is not None and self.decided.action != "restart"

    @property
    def num_peers(self) -> int:
        """How many other nodes take part in the attempt."""
        return self._part.num_nodes - 1 if self._part and self.state == "joined" else 0

    @property
    def next_look_at(self) -> float | None:
        """When this node looks for the coordinator again; None where it does not."""
        return self._search.next_at if self.state == "seeking" else None

    def make_ready(self, master_port: int, horovod: str = "") -> None:
        """Take part in the next attempt: all ranks of the last one have ended here."""
        if self.has_ended:
            self.assigned = None  # it was decided meanwhile that there is none
            return
        if self.assigned is None:
            self.join = self.join._replace(master_port=master_port, horovod=horovod)
            return
        self._ready = Ready(self._generation + 1, master_port, horovod)
        self.assigned = self.stop = self.decided = None
        self._say(self._ready)

    def fail(self, *, is_hang: bool = False) -> None:
        """Let the others know at once that a rank has failed here, or that nothing moves."""
        if not self._failing:
            self._failing = True
            self._say(Failing(self._generation, is_hang))

    def tell_still(self, *, is_still: bool) -> None:
        """Let the coordinator know whether nothing has moved here for too long."""
        self._say(Still(self._generation, is_still))

    def stop_all(self, signum: int, *, is_for_all: bool = False, is_forced: bool = False) -> None:
        """Let the others know that a signal asks to stop: this node, or the whole run."""
        if self._generation < 0 or self._node_rank < 0 or (self._stopping and not is_forced):
            return
        self._stopping = Stopping(self._generation, signum, is_for_all, is_forced)
        self._say(self._stopping)

    def settle(self, account: dict[str, Any]) -> None:
        """Say how the attempt has ended here."""
        self._account = account
        self._say(self._settled())

    def ask(self, number: int, text: str) -> None:
        """Ask all other nodes of the attempt."""
        self._say(Ask(number, text))

    def answer(self, number: int, text: str) -> None:
        """Answer what another node has asked."""
        self._say(Answer(number, self.join.hostname, text))

    def note_port(self, port: int) -> None:
        """Take note of the port at which this node can be asked to take over."""
        self.join = self.join._replace(port=port)

    def give_up(self, error: LauncherError) -> None:
        """Take note that another attempt to reach the coordinator would meet the same error."""
        self.error = error

    def step_down(self) -> None:
        """Look for the coordinator again: it is another node than this one."""
        self.is_own = False
        self.state = "seeking"

    def leave(self, reason: str) -> None:
        """Take no part any more; those with whom this node was in an attempt are to know it."""
        if self._node_rank >= 0 and self.state in ("joined", "resuming"):
            self._farewell = reason
            self._say(Leave(reason))
        else:
            self._say(Leave(reason))
            self._go()

    # --- what connections do --------------------------------------------------------------------

    def open(self, now: float, *, is_own: bool = False) -> None:
        """Begin to talk: a coordinator has been reached, or is here."""
        self.is_own = is_own
        self._heard_at = self._pinged_at = now
        self._search.pause()
        resumes = self.state == "resuming" and self._node_rank >= 0
        self.state = "joined"
        if resumes:
            self._resume()
        else:
            self._say(self.join._replace(generation=-1, old_rank=-1))
        if self._verdict is not None:
            self._say(self._verdict)
        if self._farewell:
            self._say(Leave(self._farewell))

    def _resume(self) -> None:
        """Tell a successor of the coordinator what this node knows of the attempt."""
        assert self._part is not None
        self._say(
            self.join._replace(
                generation=self._generation,
                old_rank=self._node_rank,
                num_nodes=self._part.num_nodes,
                num_failures=self._num_failures,
                dead=self._succession.dead,
            )
        )
        if self._stopping:
            self._say(self._stopping)
        if self._account is not None and self._verdict is None:
            self._say(self._settled())

    def note_obstacle(self, why: str) -> None:
        """Take note of what stands in the way for now, in case that nothing comes of it in time."""
        if self.state == "seeking":
            self._search.note_obstacle(why)

    @property
    def knows_obstacle(self) -> bool:
        """Whether there is something to say of why no coordinator is found."""
        return bool(self._search.why)

    def miss(self, why: str, now: float, *, is_refused: bool = False) -> None:
        """Take note that nobody was reached, and why; is_refused: nobody listens there."""
        if self.state == "seeking":
            self._search.miss(why, now)
        elif self.state == "resuming":
            if is_refused:
                self._succession.note_refusal(now)
            self._try_deputy(now)

    def close(self, why: str, now: float, *, is_dead: bool) -> None:
        """Take note that the connection to the coordinator has ended; is_dead: and so has that."""
        self._doubts.look_at_clock(now)
        if self.state == "joined":
            is_sure = is_dead and not self._doubts.last(now)
            self._lose(why, now, is_dead=is_sure, is_there=not is_dead)
        elif self.state == "resuming":
            self._try_deputy(now)
        elif self.state == "seeking":
            self.miss(why, now)

    def take(self, message: Message, now: float) -> None:
        """Take a message of the coordinator."""
        if self.state == "over":
            return
        self._doubts.look_at_clock(now)
        self._heard_at = now
        if not isinstance(message, Well):
            self._succession.confirm()
        if isinstance(message, Pong):
            round_trip_s = now - self._pinged_at
            if not self.latency_s or round_trip_s / 2 < self.latency_s:
                self.latency_s = round_trip_s / 2
        elif isinstance(message, Ask):
            self.asked.append(message)
        elif isinstance(message, Answer):
            self.answers.append(message)
        elif isinstance(message, Farewell):
            self._go()
        elif isinstance(message, Released):
            released = self._generation, "leave", "", 0.0, message.exit_code, None, False
            self.decided = Decided(*released)
            self._go()
        elif isinstance(message, Decided):
            self._take_verdict(message)
        elif self.has_ended:
            if isinstance(message, (Refused, Well)):
                self._go()  # nobody here needs to know
        elif isinstance(message, Refused):
            kinds = {2: EnvironmentMismatch, 3: RendezvousError}
            kind = kinds.get(message.exit_code, LauncherError)
            self._end(kind(message.message.rstrip(".") + ".", hint=message.hint))
        elif isinstance(message, Assigned):
            self._take_part(message)
        elif isinstance(message, Waiting):
            self._succession.note_deputies(message.deputies)
            if not self._is_waiting:
                self.news.append(f"waiting: {message.reason}")
            self._is_waiting = True
        elif isinstance(message, Stop) and message.generation == self._generation:
            self.stop = message
            if message.signum and not self._stopping:
                self._stopping = Stopping(self._generation, message.signum, is_for_all=True)
        elif isinstance(message, Well):
            self._return(now)
        elif isinstance(message, Leave):
            self._succession.bury(message.dead)
            self._lose(message.reason, now, is_dead=True, has_left=not message.was_lost)

    def tick(self, now: float) -> None:
        """See whether anything is due."""
        self._doubts.look_at_clock(now)
        if self._impatient_at is not None and now >= self._impatient_at:
            self._impatient_at = None
            self._tell_delay()
        if self.state == "seeking":
            if self._search.has_failed(now):
                self._end(self._search.make_error())
            elif self._search.begin_look(now):
                self.actions.append(Seek())
        elif self.state == "resuming":
            if now >= self._candidate_until:
                self._try_deputy(now)
        elif self.state == "joined" and not self.is_own:
            silent_s = now - self._heard_at
            if silent_s > self._node_timeout_s:
                self._lose(f"nothing was heard of it for {silent_s:.1f} s", now, is_dead=False)
            elif now - self._pinged_at >= PING_S:
                self._pinged_at = now
                self._say(Ping())

    # --- inside ---------------------------------------------------------------------------------

    def _tell_delay(self) -> None:
        """Let the user know for what this node waits before the first attempt, and how long."""
        if self.state == "seeking":
            self.news.append(self._search.explain_delay())
        elif (
            self.state == "joined"
            and self._generation < 0
            and not (self._is_waiting or self.is_own)
        ):
            # A coordinator says more.
            self.news.append(f"waiting for other nodes, {self._search.limit}")

    def _take_part(self, assigned: Assigned) -> None:
        self.assigned = self._part = assigned
        self.stop = self.decided = None
        self._generation, self._node_rank = assigned.generation, assigned.node_rank
        self._succession.begin(assigned)
        self.run_name, self.address = assigned.run_name, assigned.address
        self._failing, self._stopping, self._account = False, None, None
        self._ready, self._verdict, self._is_waiting = None, None, False
        self._num_failures = assigned.num_failures

    def _take_verdict(self, decided: Decided) -> None:
        is_restart = decided.action == "restart"
        if is_restart and (decided.generation != self._generation or self.has_ended):
            return
        if not self._is_decided:
            self._verdict = decided
            self._num_failures = decided.num_failures
        if self._account is None:
            self._stop_ranks("the attempt has been judged")
        if is_restart and self._ready is not None:
            self._say(self._ready)  # a new coordinator has decided what another had already
        else:
            self.decided = self._verdict
        if not is_restart:
            self._say(Heard())

    def _go(self) -> None:
        """End: all others know how the run has ended, or are out of reach."""
        self.state = "over"
        if not self.is_own:
            self.actions.append(LetGo())  # and so the coordinator knows that this node has gone

    def _lose(
        self, why: str, now: float, *, is_dead: bool, has_left: bool = False, is_there: bool = False
    ) -> None:
        """Go on without the coordinator: look for it, for its deputy, or be that."""
        if not is_dead:
            self._say(Forsake())
        self.actions.append(LetGo())
        self.is_own = False
        if self._generation < 0 and not self._is_waiting:
            self.state = "seeking"
            self.miss(f"{HAS_GONE}: {why}", now)
            return
        self.state = "resuming"
        self._succession.lose(why, now, is_dead=is_dead, has_left=has_left)
        self._stop_ranks(f"the coordinator was lost: {why}")
        if is_there:
            self._return(now)
        else:
            self._try_deputy(now)

    def _stop_ranks(self, reason: str) -> None:
        """Let the ranks of the attempt end, if there are any and they are not to end already."""
        if self.stop is None and self.decided is None and self.assigned is not None:
            self.stop = Stop(self._generation, reason)

    def _return(self, now: float) -> None:
        """Turn to the coordinator again."""
        self.actions.append(LetGo())
        self._succession.turn_back()
        self.state = "resuming"
        self._candidate_until = now + _DEPUTY_S
        self.actions.append(Return())

    def _try_deputy(self, now: float) -> None:
        """Turn to the next node that could coordinate; the last hope is to have been one."""
        self.actions.append(LetGo())
        if not self._succession.has_deputies:
            if self.has_ended:
                self._go()
                return
            # Nobody was lost where somebody was reached who only knew of another one.
            why = self._succession.why or self._search.why
            what = "another node" if self._generation >= 0 else "a node of the run"
            self._end(
                LauncherError(
                    f"This node has lost the coordinator of the run ({why}), and cannot reach"
                    f" {what} that takes its place."
                )
            )
            return
        deputy = self._succession.choose_next()
        self._candidate_until = now + _DEPUTY_S + self._node_timeout_s
        if deputy.member == self.join.member:
            assert self._part is not None
            self.actions.append(Serve(self._succession.make_past(self._part, self._num_failures)))
        else:
            self.actions.append(Reach(deputy))

    def _settled(self) -> Settled:
        assert self._account is not None
        return Settled(self._generation, {**self._account, "latency": self.latency_s})

    def _say(self, message: Message) -> None:
        if self.state == "joined":
            self.actions.append(Say(message))

    def _end(self, error: LauncherError) -> None:
        self._stop_ranks(error.message)
        self.error = error
        self.state = "over"
        self.actions.append(LetGo())
