"""The coordinator of a run with several nodes, as the supervisor of one of them sees it.

Carries out what the state of this node asks for (member.py), on the way to its coordinator (way.py)
or as that coordinator (serving.py), and tells the supervisor what has come of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from launcher.diagnosis.outcome import AttemptOutcome
from launcher.events import Event, PeersStop, Signalled
from launcher.nodes.account import make_account
from launcher.nodes.coordinator import Elastic
from launcher.nodes.endpoint import Endpoint
from launcher.nodes.member import LetGo, Member, Reach, Return, Say, Seek, Serve
from launcher.nodes.messages import Heard, Join, Message, Relocate
from launcher.nodes.parts import make_assignment, make_event, make_verdict
from launcher.nodes.questions import Inquiry
from launcher.nodes.restart import RestartPolicy, Verdict
from launcher.nodes.rules import Past, Rules
from launcher.nodes.serving import Serving
from launcher.nodes.stores import Stores
from launcher.nodes.way import Way
from launcher.nodes.wire import Credentials
from launcher.plan.nodes import Node, NodeGroup
from launcher.ranks import Assignment
from launcher.system.loop import Loop
from launcher.system.network import check_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from launcher.horovod.service import HorovodService

# How often is looked whether something is due: at once while nobody is found yet.
_BUSY_TICK_S, _TICK_S = 0.05, 0.25

# How long a node waits at its end for the others to have heard the verdict, besides the time after
# which a silent coordinator is lost, and another node may ask for it.
_FAREWELL_S = 3.0

# How long the report of a failed run waits, so that it is the last on the screen; and longer where
# others are known to have something to say in front of it.
_LAST_WORD_S = 0.5
_LAST_WORDS_S = 3.0

# The variable with the names that Slurm has for the nodes.
_SLURM_NAMES = "SLURM_STEP_NODELIST"


def open_remote(
    group: NodeGroup,
    node: Node,
    policy: RestartPolicy,
    loop: Loop,
    say: Callable[[str], None],
    claim_name: Callable[[], str],
    horovod: HorovodService | None = None,
) -> RemoteCoordinator:
    """Return the coordinator of the run that these nodes make up, as it was asked for.

    RendezvousError where Slurm's name of the first node leads nowhere.
    """
    if group.sources.get("host") == _SLURM_NAMES:
        check_name(group.host)  # known to all nodes, or as a rule to none: then nobody need wait
    rules = Rules(
        run_name="",
        min_nodes=group.min_nodes,
        max_nodes=group.max_nodes,
        policy=policy,
        join_timeout_s=group.join_timeout_s,
        last_call_s=group.last_call_s,
        node_timeout_s=group.node_timeout_s,
        rescales_now=group.rescales_now,
        master_addr=group.master_addr,
        master_port=group.master_port,
        hostname=node.hostname,
    )
    # One of them says it, where they have numbers. What an engine's ranks print is theirs alone.
    if not group.secret and not group.node_rank and not node.places:
        say(
            f"the nodes of this run have no secret: whoever reaches {group.host} port {group.port}"
            " can take part (set LAUNCHER_SECRET on all nodes, or --secret-file)"
        )
    return RemoteCoordinator(group, node, rules, loop, say, claim_name, horovod)


class RemoteCoordinator:
    """Answers `join` and `settle` as all nodes of the run have agreed."""

    # Workers that are lost end the attempt.
    elastic: Elastic | None = None

    def __init__(
        self,
        group: NodeGroup,
        node: Node,
        rules: Rules,
        loop: Loop,
        say: Callable[[str], None],
        claim_name: Callable[[], str],
        horovod: HorovodService | None,
    ) -> None:
        """say: prints a line for the user. claim_name: names the run, where this node coordinates.

        The name in `rules` is empty until then.
        """
        self._group = group
        self._node = node
        self._loop = loop
        self._say = say
        credentials = Credentials(group.run_id, group.secret)
        self._stores = Stores(group.master_port, horovod)
        self._member = Member(
            _make_join(group, node, rules, self._stores),
            group.join_timeout_s,
            group.node_timeout_s,
            loop.clock(),
        )
        self._endpoint = Endpoint(group, loop, self._member.note_obstacle, self._act)
        self._serving = Serving(
            *(loop, credentials, rules, self._member, self._endpoint, claim_name),
            act=self._act,
            on_relocate=self._give_way,
        )
        self._way = Way(
            *(loop, credentials, self._member, self._endpoint.show),
            on_meet=self._serving.listen_at,
            on_taken=self._serving.serve_as_guest,
            act=self._act,
        )
        self._inquiry = Inquiry(loop, self._member)
        self._tick_at: float | None = None
        self._has_begun = False
        self._told_stop: object = None
        # How a question of another node is answered; set by whoever can.
        self.answer_peer: Callable[[str], str] = lambda text: ""
        # Says what is to stand in front of the report of a failed run, wherever that is shown.
        self.last_words: Callable[[], None] | None = None

    # --- what the supervisor asks ---------------------------------------------------------------

    def join(self, attempt: int, turn: Callable[[], bool]) -> Assignment | None:
        """Return this node's part in the next attempt; `turn` lets the loop go on once.

        None when there is none: `turn` returns False, or the run has ended.

        Raises RendezvousError, EnvironmentMismatch or LauncherError where there is no run for this
        node.
        """
        self.begin_to_join()
        while not self.has_part:
            if not turn():
                return None
        return self.part()

    def begin_to_join(self) -> None:
        """Ask for a part in the next attempt."""
        if not self._has_begun:
            self._has_begun = True
            self._member.begin()
        else:
            self._stores.renew()
            self._member.make_ready(self._stores.master_port, self._stores.open_for_horovod())
        self._act()

    @property
    def has_part(self) -> bool:
        """Whether it is known what this node's part is, be it that there is none."""
        member = self._member
        return bool(member.assigned or member.decided or member.error)

    def part(self) -> Assignment | None:
        """Return this node's part once it is known; see `join`."""
        if self._member.error is not None:
            raise self._member.error
        assigned = self._member.assigned
        if assigned is None:
            return None
        if assigned.node_rank != 0:
            self._stores.close()
        return make_assignment(assigned, self._node)

    def settle(self, outcome: AttemptOutcome, turn: Callable[[], object]) -> Verdict:
        """Tell how the attempt has ended here, and return what all nodes are to do."""
        self.begin_to_settle(outcome)
        while not self.is_settled:
            turn()
        verdict = self.settled_verdict()
        if verdict.report is not None and verdict.action != "restart" and not verdict.reporter:
            self._let_others_speak(turn)
        return verdict

    def _let_others_speak(self, turn: Callable[[], object]) -> None:
        """Wait a moment until the other nodes have shown their lines: the report comes last."""
        limit_s = _LAST_WORD_S if self.last_words is None else _LAST_WORDS_S
        ends_at = self._loop.clock() + limit_s
        while self.has_speakers:
            if self._loop.clock() >= ends_at:
                break
            self._loop.set_timer(_nothing, 0.05)
            turn()
        self._loop.cancel_timer(_nothing)

    @property
    def has_speakers(self) -> bool:
        """Whether other nodes may have something to show that belongs in front of the report.

        They go when they have shown it; only where the coordinator is here is that known. Elsewhere
        it is known that all have said their last words, when this node may go.
        """
        return self._serving.has_listeners or self._member.state != "over"

    def begin_to_settle(self, outcome: AttemptOutcome) -> None:
        """Tell how the attempt has ended here, unless it is decided already what follows."""
        if self._member.decided is None:
            self._member.settle(make_account(outcome, self._loop.clock()))
            self._act()

    @property
    def is_settled(self) -> bool:
        """Whether it is known what all nodes are to do."""
        return self._member.decided is not None or self._member.error is not None

    def settled_verdict(self) -> Verdict:
        """Return what all nodes are to do, once it is known; see `settle`."""
        if self._member.error is not None:
            raise self._member.error
        verdict = self.verdict()
        assert verdict is not None
        return verdict

    def verdict(self) -> Verdict | None:
        """Return what was decided without this node, between two attempts, say."""
        return make_verdict(self._member.decided) if self._member.decided is not None else None

    def ask(
        self, text: str, timeout_s: float, on_done: Callable[[list[tuple[str, str]]], None]
    ) -> None:
        """Ask all other nodes; `on_done` gets the hosts and answers that came in time."""
        self._inquiry.begin(text, timeout_s, on_done)
        self._act()

    @property
    def peers(self) -> RemoteCoordinator:
        """Who is to know at once what concerns all nodes."""
        return self

    @property
    def stop(self) -> PeersStop | None:
        """Why the attempt that is under way is to end here, too; None as long as it is not."""
        return make_event(self._member.stop) if self._member.stop else None

    def report_failure(self, *, is_hang: bool = False) -> None:
        """Let the other nodes know at once that a rank has failed here, or that nothing moves."""
        self._member.fail(is_hang=is_hang)
        self._act()

    def report_still(self, is_still: bool) -> None:
        """Let the coordinator know whether nothing has moved here for too long."""
        self._member.tell_still(is_still=is_still)
        self._act()

    def report_signal(
        self, signum: int, *, is_for_all: bool = False, is_forced: bool = False
    ) -> None:
        """Let the other nodes know that a signal asks to stop: this node, or the whole run."""
        self._member.stop_all(signum, is_for_all=is_for_all, is_forced=is_forced)
        self._act()

    def close(self) -> None:
        """Leave; where this node coordinates, see that all have heard how it ended."""
        self.begin_to_close()
        ends_at = self._loop.clock() + self.farewell_s
        is_hurried = False

        def note(event: Event) -> None:
            nonlocal is_hurried
            is_hurried = is_hurried or isinstance(event, Signalled)

        while self.has_listeners and not is_hurried and self._loop.clock() < ends_at:
            self._loop.set_timer(_nothing, 0.1)
            self._loop.turn(note)
        self._loop.cancel_timer(_nothing)
        self.close_now()

    @property
    def farewell_s(self) -> float:
        """How long to wait at the end, at the most, while there are listeners."""
        return self._group.node_timeout_s + _FAREWELL_S

    def begin_to_close(self) -> None:
        """Leave, unless it is known how the run has ended."""
        if not self._member.has_ended:
            self._member.leave("it has left")
            self._act()

    def close_now(self) -> None:
        """Close all connections, whoever still listens."""
        self._loop.cancel_timer(self._tick)
        self._let_go()
        self._serving.close()
        self._stores.close()

    @property
    def has_listeners(self) -> bool:
        """Whether others may still need to hear from this node how the run has ended."""
        return self._serving.has_listeners or self._member.state != "over" or self._way.has_pending

    # --- what the states ask for ----------------------------------------------------------------

    def _act(self) -> None:
        """Carry out what the two states ask for, until neither asks for more."""
        member = self._member
        while member.actions or self._serving.has_outbox:
            actions, member.actions = member.actions, []
            for action in actions:
                if isinstance(action, Say):
                    if isinstance(action.message, Heard):
                        self._say_last_words()
                    self._tell_coordinator(action.message)
                elif isinstance(action, Seek):
                    self._endpoint.look_up(self._serve_or_ask)
                elif isinstance(action, Reach):
                    self._let_go()
                    self._way.turn_to(action.deputy.host, action.deputy.port)
                elif isinstance(action, Return):
                    self._way.turn_back()
                elif isinstance(action, Serve):
                    self._take_over(action.past)
                elif isinstance(action, LetGo):
                    self._let_go()
            self._serving.send_outbox()
        self._answer_peers()
        self._tell_news()
        if member.stop is not None and member.stop is not self._told_stop:
            self._told_stop = member.stop
            self._loop.post(make_event(member.stop))
        is_busy = member.state in ("seeking", "resuming")
        if member.state != "over" or self._serving.coordinates:
            self._set_tick(_BUSY_TICK_S if is_busy else _TICK_S)
        if member.next_look_at is not None:
            self._set_tick(max(0.0, member.next_look_at - self._loop.clock()))

    def _say_last_words(self) -> None:
        """Speak before the coordinator hears that this node is ready for the report."""
        verdict = self._member.decided
        if self.last_words is not None and verdict is not None and verdict.report is not None:
            self.last_words()

    def _tell_coordinator(self, message: Message) -> None:
        if self._serving.coordinates and self._member.is_own:
            self._serving.handle_own(message)
        else:
            self._way.send(message)

    def _serve_or_ask(self) -> None:
        """Serve at the endpoint if that is here; else ask there."""
        listening = self._endpoint.bind()
        if listening is not None:
            self._serving.serve(listening)
        else:
            self._way.try_all(self._endpoint.addresses, self._endpoint.why)

    def _take_over(self, past: Past) -> None:
        first = past.losses[0]
        how = "has left" if first.has_left else "was lost"
        self._say(f"the coordinator {how} ({first.why}); this node coordinates the run now")
        self._serving.take_over(past)

    def _give_way(self, there: Relocate) -> None:
        """Take part where the run goes on, which was begun here in vain."""
        self._let_go()
        self._member.step_down()
        self._way.turn_to(there.host, there.port)
        self._act()

    def _let_go(self) -> None:
        self._endpoint.cancel()
        self._way.let_go()

    def _answer_peers(self) -> None:
        asked, self._member.asked = self._member.asked, []
        for question in asked:
            self._member.answer(question.number, self.answer_peer(question.text))
        answers, self._member.answers = self._member.answers, []
        self._inquiry.take(answers)
        if asked:
            self._act()

    def _tell_news(self) -> None:
        news, self._member.news = self._member.news, []
        for line in [*news, *self._serving.take_news()]:
            self._say(line)

    def _set_tick(self, delay_s: float) -> None:
        """Look at the clock in so many seconds, or sooner: no message must put it off."""
        at = self._loop.clock() + delay_s
        if self._tick_at is None or at < self._tick_at:
            self._tick_at = at
            self._loop.set_timer(self._tick, delay_s)

    def _tick(self) -> None:
        self._tick_at = None
        now = self._loop.clock()
        self._way.tick(now)
        self._member.tick(now)
        self._serving.tick(now)
        self._serving.answer_early(self._way.pong_at)
        self._act()


def _make_join(group: NodeGroup, node: Node, rules: Rules, stores: Stores) -> Join:
    """Return what a node tells of itself."""
    return Join(
        member=os.urandom(8).hex(),
        hostname=node.hostname,
        num_workers=node.num_workers,
        node_rank=-1 if group.node_rank is None else group.node_rank,
        min_nodes=group.min_nodes,
        max_nodes=group.max_nodes,
        max_restarts=rules.policy.max_restarts,
        alike=node.alike,
        address=group.local_addr,
        port=0,
        master_port=stores.master_port,
        horovod=stores.open_for_horovod(),
    )


def _nothing() -> None:
    pass
