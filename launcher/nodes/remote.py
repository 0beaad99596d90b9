"""The coordinator of a run with several nodes, as the supervisor of one of them sees it.

Binds the state of this node (member.py), and that of the coordinator where it is here
(rendezvous.py), to sockets and the loop. Whoever has the endpoint's address serves there: it is
bound first and asked later. Where another run has the endpoint already, its coordinator points the
nodes of this one to another port of the same host.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any

from launcher.diagnosis.outcome import AttemptOutcome
from launcher.diagnosis.report import FailureReport
from launcher.errors import RendezvousError
from launcher.events import Event, PeersStop, Signalled
from launcher.nodes.account import make_account
from launcher.nodes.coordinator import Elastic
from launcher.nodes.link import CONNECT_S, Link, Listener, connect, listen
from launcher.nodes.member import IS_STRANGER, LetGo, Member, Reach, Return, Say, Seek, Serve
from launcher.nodes.messages import Assigned, Join, Message, Pong, Relocate, Stop, Well
from launcher.nodes.probe import Probe
from launcher.nodes.rendezvous import Rendezvous
from launcher.nodes.restart import RestartPolicy, Verdict
from launcher.nodes.rules import OWN, Past, Route, Rules
from launcher.nodes.wire import Credentials, Moved, Refusal
from launcher.plan.nodes import Node, NodeGroup
from launcher.ranks import Assignment, Place
from launcher.system.loop import Loop
from launcher.system.network import Lookup, check_name, find_interface, reserve_port, resolve

TYPE_CHECKING = False
if TYPE_CHECKING:
    from launcher.horovod.service import HorovodService

# How often is looked whether something is due: at once while nobody is found yet.
_BUSY_TICK_S, _TICK_S = 0.05, 0.25

# How long a node waits at its end for the others to have heard the verdict, besides the time after
# which a silent coordinator is lost, and another node may ask for it.
_FAREWELL_S = 3.0

# How long the report of a failed run waits, so that it is the last on the screen.
_LAST_WORD_S = 0.5

# A successor tells those who look at the endpoint where the run goes on: this often, and again so
# soon where nobody is there yet, before enough have come for a run of their own.
_RELOCATE_S = 1.0
_SEEK_ENDPOINT_S = 0.1

# Refusals that another attempt would meet again, and what to do.
_FINAL_REFUSALS = {
    "secret": "Give all nodes the same: LAUNCHER_SECRET or --secret-file",
    "version": "Install the same launcher on all nodes.",
}

# A node whose coordinator is heard of so long after another node has said that it is lost.
_SURE_S = 1.0

_LOOPBACK = ("127.", "::1")

# The variable with the names that Slurm has for the nodes.
_SLURM_NAMES = "SLURM_STEP_NODELIST"

Address = tuple[Any, ...]


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


class _Question:
    """What somebody on this host has asked all nodes."""

    def __init__(self, expected: int, on_done: Callable[[list[tuple[str, str]]], None]) -> None:
        self.expected = expected
        self.on_done = on_done
        self.answers: list[tuple[str, str]] = []


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
        self._rules = rules
        self._loop = loop
        self._say = say
        self._claim_name = claim_name
        self._horovod = horovod
        self._credentials = Credentials(group.run_id, group.secret)
        self._reserved = reserve_port("0.0.0.0") if not group.master_port else None
        self._member = Member(
            self._make_join(), group.join_timeout_s, group.node_timeout_s, loop.clock()
        )
        self._rendezvous: Rendezvous | None = None
        self._listener: Listener | None = None
        # At the endpoint, where this node has given way to who coordinates already.
        self._signpost: Listener | None = None
        self._to_coordinator: Link | None = None
        self._links: dict[int, Link] = {}
        self._num_links = 0
        # Those that came before this node knew that it coordinates, with what they have said.
        self._early: list[tuple[Link, Message, float]] = []
        # Runs that are served at other ports of this host: tag -> their link and port.
        self._guests: dict[str, tuple[Link, int]] = {}
        self._moved: tuple[str, int] | None = None
        self._lookup: Lookup | None = None
        self._untried: list[Address] = []
        # The name that was typed for an address.
        self._typed: dict[Address, str] = {}
        # Of the endpoint, as the last look has found them.
        self._known_addresses: list[Address] = []
        self._attempt_ends_at: float | None = None
        # Where that leads to, in words.
        self._where = ""
        self._host_link: Link | None = None
        self._relocation: Link | None = None
        # Whether those have ended whose connections were closed: the coordinator; nodes, by key.
        self._probe: Probe | None = None
        self._probes: dict[int, Probe] = {}
        self._was_refused = False
        # Where this node has reached somebody; where the coordinator of its last attempt was.
        self._met: Address | None = None
        self._home: Address | None = None
        self._endpoint: Address | None = None
        self._tick_at: float | None = None
        self._has_begun = False
        self._told_stop: object = None
        # How a question of another node is answered; set by whoever can.
        self.answer_peer: Callable[[str], str] = lambda text: ""
        self._question: _Question | None = None
        self._num_questions = 0
        self._told_secret = False
        self._pong_at = 0.0

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
            if not self._group.master_port:
                before, self._reserved = self._reserved, reserve_port("0.0.0.0")
                if before is not None:
                    before.close()  # only now: the new one is another
            self._member.make_ready(self._master_port(), self._open_store())
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
        return self._make_assignment(self._member.assigned) if self._member.assigned else None

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
        """Wait a moment until the other nodes have shown their lines: the report comes last.

        They go when they have; only where the coordinator is here is that known.
        """
        ends_at = self._loop.clock() + _LAST_WORD_S
        while self._rendezvous is not None and self._rendezvous.has_listeners:
            if self._loop.clock() >= ends_at:
                break
            self._loop.set_timer(_nothing, 0.05)
            turn()
        self._loop.cancel_timer(_nothing)

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
        return self._make_verdict()

    def verdict(self) -> Verdict | None:
        """Return what was decided without this node, between two attempts, say."""
        return self._make_verdict() if self._member.decided is not None else None

    def ask(
        self, text: str, timeout_s: float, on_done: Callable[[list[tuple[str, str]]], None]
    ) -> None:
        """Ask all other nodes; `on_done` gets the hosts and answers that came in time."""
        self._end_question()
        expected = self._member.num_peers
        self._num_questions += 1
        self._question = _Question(expected, on_done)
        if expected:
            self._loop.set_timer(self._end_question, timeout_s)
            self._member.ask(self._num_questions, text)
            self._act()
        else:
            self._end_question()

    @property
    def peers(self) -> RemoteCoordinator:
        """Who is to know at once what concerns all nodes."""
        return self

    @property
    def stop(self) -> PeersStop | None:
        """Why the attempt that is under way is to end here, too; None as long as it is not."""
        return _as_event(self._member.stop) if self._member.stop else None

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
        for probe in self._probes.values():
            probe.cancel()
        self._let_go()
        if self._relocation is not None:
            self._relocation.close()
        if self._host_link is not None:
            self._host_link.close()
        for listener in filter(None, (self._listener, self._signpost)):
            listener.close()
        self._let_go_of_port()
        if self._horovod is not None:
            self._horovod.close()

    @property
    def has_listeners(self) -> bool:
        """Whether others may still need to hear from this node how the run has ended."""
        if self._rendezvous is not None and self._rendezvous.has_listeners:
            return True
        has_pending = self._to_coordinator is not None and self._to_coordinator.has_pending
        return self._member.state != "over" or has_pending

    # --- values ---------------------------------------------------------------------------------

    def _make_join(self) -> Join:
        return Join(
            member=os.urandom(8).hex(),
            hostname=self._node.hostname,
            num_workers=self._node.num_workers,
            node_rank=-1 if self._group.node_rank is None else self._group.node_rank,
            min_nodes=self._group.min_nodes,
            max_nodes=self._group.max_nodes,
            max_restarts=self._rules.policy.max_restarts,
            alike=self._node.alike,
            address=self._group.local_addr,
            port=0,
            master_port=self._master_port(),
            horovod=self._open_store(),
        )

    def _master_port(self) -> int:
        if self._reserved is None:
            return self._group.master_port
        return int(self._reserved.getsockname()[1])

    def _open_store(self) -> str:
        """Open a store for Horovod, in case that rank 0 is here; return its port and secret path.

        It listens at all addresses, because it is not known yet by which one the others come.
        """
        if self._horovod is None:
            return ""
        address, _ = self._horovod.open_store("0.0.0.0")
        return address.partition(":")[2]

    def _let_go_of_port(self) -> None:
        if self._reserved is not None:
            self._reserved.close()
            self._reserved = None

    def _make_assignment(self, assigned: Assigned) -> Assignment:
        if assigned.node_rank != 0:
            self._let_go_of_port()
            if self._horovod is not None:
                self._horovod.close()
        store = assigned.horovod
        places = tuple(
            place._replace(node_rank=assigned.node_rank, num_nodes=assigned.num_nodes)
            for place in self._node.places
        ) or tuple(
            Place(
                "launcher",
                rank=assigned.first_rank + local_rank,
                local_rank=local_rank,
                world_size=assigned.world_size,
                local_world_size=self._node.num_workers,
                node_rank=assigned.node_rank,
                num_nodes=assigned.num_nodes,
            )
            for local_rank in range(self._node.num_workers)
        )
        return Assignment(
            attempt=assigned.generation,
            places=places,
            master_addr=assigned.master_addr,
            master_port=assigned.master_port,
            horovod_addr=f"{assigned.master_addr}:{store}" if store else "",
            horovod_port=int(store.partition("/")[0]) if store else 0,
            run_name=assigned.run_name,
            interface=find_interface(assigned.address),
            hostname_width=assigned.hostname_width,
        )

    def _make_verdict(self) -> Verdict:
        decided = self._member.decided
        assert decided is not None
        report = FailureReport.from_json(decided.report) if decided.report else None
        return Verdict(
            decided.action,
            decided.reason,
            decided.delay_s,
            report,
            exit_code=decided.exit_code,
            reporter="" if decided.is_reporter else decided.reporter,
        )

    # --- what is to be done about connections ---------------------------------------------------

    def _act(self) -> None:
        """Carry out what the two states ask for, until neither asks for more."""
        member = self._member
        while member.actions or (self._rendezvous is not None and self._rendezvous.outbox):
            actions, member.actions = member.actions, []
            for action in actions:
                if isinstance(action, Say):
                    self._tell_coordinator(action.message)
                elif isinstance(action, Seek):
                    self._seek()
                elif isinstance(action, Reach):
                    self._let_go()
                    self._reach(action.deputy.host, action.deputy.port)
                elif isinstance(action, Return):
                    self._return()
                elif isinstance(action, Serve):
                    self._take_over(action.past)
                elif isinstance(action, LetGo):
                    self._let_go()
            self._send_outbox()
        self._answer_peers()
        self._tell_news()
        if member.stop is not None and member.stop is not self._told_stop:
            self._told_stop = member.stop
            self._loop.post(_as_event(member.stop))
        is_busy = member.state in ("seeking", "resuming")
        if member.state != "over" or self._rendezvous is not None:
            self._set_tick(_BUSY_TICK_S if is_busy else _TICK_S)

    def _send_outbox(self) -> None:
        if self._rendezvous is None:
            return
        outbox, self._rendezvous.outbox = self._rendezvous.outbox, []
        now = self._loop.clock()
        for key, message in outbox:
            if key == OWN:
                self._member.take(message, now)
            elif key in self._links:
                self._links[key].send(message)

    def _answer_peers(self) -> None:
        asked, self._member.asked = self._member.asked, []
        for question in asked:
            self._member.answer(question.number, self.answer_peer(question.text))
        answers, self._member.answers = self._member.answers, []
        for answer in answers:
            if self._question is not None and answer.number == self._num_questions:
                self._question.answers.append((answer.hostname, answer.text))
        if self._question and len(self._question.answers) >= self._question.expected:
            self._end_question()
        if asked:
            self._act()

    def _end_question(self) -> None:
        self._loop.cancel_timer(self._end_question)
        question, self._question = self._question, None
        if question is not None:
            question.on_done(question.answers)

    def _tell_news(self) -> None:
        news, self._member.news = self._member.news, []
        if self._rendezvous is not None:
            news += self._rendezvous.news
            self._rendezvous.news = []
        for line in news:
            self._say(line)

    def _tell_coordinator(self, message: Message) -> None:
        if self._rendezvous is not None and self._member.is_own:
            self._rendezvous.handle(OWN, message, self._loop.clock(), Route())
        elif self._to_coordinator is not None:
            self._to_coordinator.send(message)

    def _set_tick(self, delay_s: float) -> None:
        """Look at the clock in so many seconds, or sooner: no message must put it off."""
        at = self._loop.clock() + delay_s
        if self._tick_at is None or at < self._tick_at:
            self._tick_at = at
            self._loop.set_timer(self._tick, delay_s)

    def _tick(self) -> None:
        self._tick_at = None
        now = self._loop.clock()
        if self._attempt_ends_at is not None:
            self._look_at_attempt(self._attempt_ends_at, now)
        self._member.tick(now)
        if self._rendezvous is not None:
            self._rendezvous.tick(now)
        self._answer_early(now)
        self._act()

    # --- finding the coordinator ----------------------------------------------------------------

    def _seek(self) -> None:
        """Look up the endpoint's host; it may have several addresses, and names."""
        self._untried = []
        self._why = ""
        self._typed = {}
        self._hosts = [host.strip() for host in self._group.host.split(",") if host.strip()]
        self._look_up_next()

    def _look_up_next(self) -> None:
        if not self._hosts:
            self._known_addresses = list(self._untried) or self._known_addresses
            self._begin_to_reach()
            return
        host = self._hosts.pop(0)
        addresses, _ = resolve(host, self._group.port, is_numeric=True)
        if addresses:
            self._untried += addresses
            self._look_up_next()
            return
        self._member.note_obstacle(f"no name server says what {host} is")

        def note(found: list[Address], why: str) -> None:
            self._lookup = None
            self._untried += found
            self._typed.update(dict.fromkeys(found, host))
            if not found:
                self._why = f"the name {host} is not known here ({why})"
            self._look_up_next()
            self._act()

        self._lookup = Lookup(self._loop, host, self._group.port, note)

    def _begin_to_reach(self) -> None:
        """Serve at the endpoint if that is here; else ask there."""
        if self._group.is_host is not False and self._serve_here():
            return
        if not self._untried:
            self._member.miss(self._why or "the endpoint has no address", self._loop.clock())
            return
        self._reach_next()

    def _serve_here(self) -> bool:
        """Bind the endpoint; whether this node coordinates now."""
        self._endpoint = None
        for address in self._untried:
            try:
                listening = listen(self._widen(address))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    self._endpoint = address  # it is ours, and somebody serves there
                elif error.errno == errno.EACCES:
                    self._why = f"this user may not serve at port {address[1]}"
                continue
            self._note_loopback(address)
            self._begin_to_serve(listening)
            return True
        if self._group.is_host and self._endpoint is None:
            # Node 0 is told by number, and known to the others by an address that it has not.
            for anywhere in ("::", "0.0.0.0"):
                address = (anywhere, self._group.port, *((0, 0) if ":" in anywhere else ()))
                try:
                    listening = listen(address)
                except OSError as error:
                    self._why = f"port {self._group.port} cannot be served: {error.strerror}"
                    continue
                self._begin_to_serve(listening)
                return True
        return False

    def _note_loopback(self, address: Address) -> None:
        """Keep a doubt for the case that nobody comes: this may not be where the others look."""
        if str(address[0]).startswith(_LOOPBACK):
            host = self._typed.get(address, "")
            name = f"{host} means {address[0]} here" if host else str(address[0])
            doubt = (
                f"{name}: a loopback address, by which a node meets itself. Name one of them by an"
                " address that all reach: --rdzv-endpoint ADDRESS:PORT"
            )
            self._rules = self._rules._replace(doubt=doubt)

    def _widen(self, address: Address) -> Address:
        """Return the address to bind: all of this host where its name means loopback here only."""
        is_named = address[0] not in self._group.host and self._group.host != "localhost"
        if is_named and str(address[0]).startswith(_LOOPBACK):
            return ("::" if len(address) == 4 else "0.0.0.0", *address[1:])
        return address

    def _begin_to_serve(self, listening: Any) -> None:
        self._listener = self._make_listener(listening)
        self._serve(None)

    def _make_listener(self, listening: Any) -> Listener:
        def answer(greeting: dict[str, Any], link: Link) -> dict[str, object]:
            return self._answer(greeting, link, at_signpost=listener is self._signpost)

        listener = Listener(
            self._loop, listening, self._credentials, answer, self._hear_node, self._lose_node
        )
        return listener

    def _serve(self, past: Past | None) -> None:
        now = self._loop.clock()
        rules = self._rules
        if not rules.run_name:
            rules = rules._replace(run_name=self._claim_name())
        self._rules, self._moved = rules, None
        self._rendezvous = Rendezvous(rules, now, past)
        self._member.open(now, is_own=True)
        early, self._early = self._early, []
        for link, message, _ in early:
            self._hear_node(link, message)

    def _take_over(self, past: Past) -> None:
        first = past.losses[0]
        how = "has left" if first.has_left else "was lost"
        self._say(f"the coordinator {how} ({first.why}); this node coordinates the run now")
        # Rank 0 will be somewhere else.
        self._rules = self._rules._replace(run_name=self._member.run_name, master_addr="")
        self._serve(past)
        self._relocate()

    def _reach_next(self) -> None:
        if not self._untried:
            was_refused, self._was_refused = self._was_refused, False
            self._member.miss(self._why, self._loop.clock(), is_refused=was_refused)
            return
        address = self._untried.pop(0)
        self._reach_address(address)

    def _reach(self, host: str, port: int) -> None:
        addresses, self._why = resolve(host, port, is_numeric=True)
        self._untried = addresses[1:]
        if addresses:
            self._reach_address(addresses[0])
        else:
            self._member.miss(self._why, self._loop.clock())

    def _return(self) -> None:
        """Turn to where the coordinator of the last attempt was."""
        self._let_go()
        self._untried = []
        if self._home is not None:
            self._reach_address(self._home)
        else:
            self._member.miss(self._why, self._loop.clock())

    def _reach_address(self, address: Address) -> None:
        where = self._where = self._show(address)

        def meet(link: Link) -> None:
            self._meet(link, address)

        def lose(link: Link, error: Exception) -> None:
            self._leave_link(link, address, error)

        try:
            link = connect(
                self._loop, address, self._credentials, meet, self._hear_coordinator, lose
            )
        except OSError as error:
            self._was_refused = isinstance(error, ConnectionRefusedError)
            self._why = f"{where} cannot be reached: {_reason(error)}"
            self._reach_next()
            return
        self._to_coordinator = link
        self._attempt_ends_at = self._loop.clock() + CONNECT_S
        self._why = f"{where} does not answer (the connection timed out)"
        self._member.note_obstacle(self._why)

    def _meet(self, link: Link, address: Address) -> None:
        """Begin to talk to a coordinator that has proved that it is one of this run."""
        self._attempt_ends_at = None
        self._met = address
        self._make_own_listener(link.ends[1])
        self._member.open(self._loop.clock())
        self._act()

    def _make_own_listener(self, address: str) -> None:
        """Listen where the others reach this node, for the case that it is to take over."""
        if self._listener is not None:
            return
        addresses, _ = resolve(address, 0, is_numeric=True)
        try:
            self._listener = self._make_listener(listen(addresses[0]))
        except (OSError, IndexError):
            return
        self._member.join = self._member.join._replace(port=self._listener.port)

    def _look_at_attempt(self, ends_at: float, now: float) -> None:
        """See how far a connection has come that is to lead to the coordinator."""
        link = self._to_coordinator
        if link is not None and link.is_connected:
            self._why = f"what is at {self._where} {IS_STRANGER}"
            self._member.note_obstacle(self._why)
        if now < ends_at:
            return
        self._attempt_ends_at = None
        if link is not None:
            link.close()
            self._to_coordinator = None
        self._reach_next()

    def _leave_link(self, link: Link, address: Address, error: Exception) -> None:
        """Take note that the connection to a coordinator, or to what was to be one, is closed."""
        if link is not self._to_coordinator:
            return
        self._to_coordinator = None
        self._attempt_ends_at = None
        if isinstance(error, Moved):
            self._untried = []
            self._reach(error.host, error.port)
        elif link.is_open:

            def note(is_dead: bool) -> None:
                self._probe = None
                self._member.close(_ending(error, is_dead), self._loop.clock(), is_dead=is_dead)
                self._act()

            self._probe = Probe(self._loop, address, note)
        else:
            self._was_refused = isinstance(error, ConnectionRefusedError)
            self._why = self._explain(self._show(address), error)
            is_taken = isinstance(error, Refusal) and error.kind == "run"
            if isinstance(error, Refusal) and error.kind in _FINAL_REFUSALS:
                text = f"{self._why[0].upper()}{self._why[1:]}."
                self._member.error = RendezvousError(text, hint=_FINAL_REFUSALS[error.kind])
            elif is_taken and self._endpoint is not None and self._serve_as_guest():
                pass
            else:
                self._reach_next()
        self._act()

    def _show(self, address: Address) -> str:
        """Return an address in words, with the name that was typed for it."""
        if address in self._typed:
            return f"{self._typed[address]}:{address[1]} ({address[0]})"
        host = f"[{address[0]}]" if len(address) == 4 else str(address[0])
        return f"{host}:{address[1]}"

    def _explain(self, where: str, error: Exception) -> str:
        if not isinstance(error, Refusal):
            return f"{where} cannot be reached: {_reason(error)}"
        if error.kind == "secret":
            return f"the launcher at {where} has another secret"
        if error.kind == "version":
            return f"the launcher at {where} is of another version (protocol {error.detail})"
        return f"at {where} another run is served, with another --rdzv-id"

    def _serve_as_guest(self) -> bool:
        """Serve at another port of this host, and let the run that has the endpoint point there."""
        assert self._endpoint is not None
        address = self._widen(self._endpoint)
        listening = listen((address[0], 0, *address[2:]))
        port = int(listening.getsockname()[1])

        def lose(link: Link, error: Exception) -> None:
            self._return_to_endpoint()

        try:
            self._host_link = connect(
                self._loop,
                self._endpoint,
                self._credentials,
                lambda link: None,
                lambda link, message: None,
                lose,
                guest_port=port,
            )
        except OSError:
            listening.close()
            return False
        self._begin_to_serve(listening)
        return True

    def _return_to_endpoint(self) -> None:
        """Have the endpoint for this run, now that the other one has ended."""
        self._host_link = None
        if self._endpoint is None or self._listener is None or self._rendezvous is None:
            return
        try:
            listening = listen(self._widen(self._endpoint))
        except OSError:
            return
        self._listener.listen_also(listening)

    # --- as the coordinator ---------------------------------------------------------------------

    def _answer(
        self, greeting: dict[str, Any], link: Link, *, at_signpost: bool
    ) -> dict[str, object]:
        """Answer what somebody has said who may be of this run or another."""
        tag = greeting.get("run")
        if tag == self._credentials.tag:
            return {"moved": list(self._moved)} if self._moved and at_signpost else {}
        if isinstance(greeting.get("guest"), int) and isinstance(tag, str):
            other_end, our_end = link.ends
            if other_end != our_end:  # only a process of this host has its end of this host
                return {"refused": "guest"}
            link.is_guest = True
            self._guests[tag] = (link, greeting["guest"])
            return {"welcome": 1}
        guest = self._guests.get(str(tag))
        if guest is not None and not guest[0].is_closed:
            return {"moved": [link.ends[1], guest[1]]}
        return {"refused": "run"}

    def _hear_node(self, link: Link, message: Message) -> None:
        now = self._loop.clock()
        if isinstance(message, Relocate):
            self._give_way(message)
            return
        if self._rendezvous is None:
            self._early.append((link, message, now))
            return
        if link.key == OWN:  # which no connection has
            self._num_links += 1
            link.key = self._num_links
            self._links[link.key] = link
        route = Route(*link.ends) if isinstance(message, Join) else None
        self._rendezvous.handle(link.key, message, now, route)
        self._act()

    def _lose_node(self, link: Link, error: Exception) -> None:
        self._early = [item for item in self._early if item[0] is not link]
        rendezvous = self._rendezvous
        if rendezvous is None or self._links.pop(link.key, None) is None:
            return

        def note(is_dead: bool) -> None:
            self._probes.pop(link.key, None)
            why = _ending(error, is_dead)
            rendezvous.lose(link.key, why, self._loop.clock(), is_dead=is_dead)
            self._act()

        if rendezvous.waits_for(link.key):
            self._probes[link.key] = Probe(self._loop, rendezvous.door(link.key), note)
        else:
            note(is_dead=True)

    def _answer_early(self, now: float) -> None:
        """Tell those who have lost the coordinator that it is well, if so."""
        for link, message, came_at in list(self._early):
            if isinstance(message, Join) and self._pong_at > came_at + _SURE_S:
                link.send(Well())
                self._early = [item for item in self._early if item[0] is not link]

    def _relocate(self) -> None:
        """Tell whoever looks for the run at the endpoint, for a place in it, where it goes on."""
        if self._rendezvous is None or self._listener is None or self._rendezvous.is_over:
            return
        self._loop.set_timer(self._relocate, _RELOCATE_S)
        if self._relocation is not None:
            self._relocation.close()
            self._relocation = None
        if not self._known_addresses:
            return
        here = Relocate(self._member.address, self._listener.port)

        def tell(link: Link) -> None:
            link.send(here)

        def forget(link: Link, error: Exception) -> None:
            if self._relocation is link:
                self._relocation = None
                self._loop.set_timer(self._relocate, _SEEK_ENDPOINT_S)

        try:
            self._relocation = connect(
                self._loop, self._known_addresses[0], self._credentials, tell, _ignore, forget
            )
        except OSError:
            pass

    def _give_way(self, there: Relocate) -> None:
        """Leave the coordination to the node that has it: this one has only just begun."""
        if self._rendezvous is None and self._signpost is not None:
            self._moved = (there.host, there.port)
        if self._rendezvous is None or self._rendezvous.generation >= 0:
            return
        self._moved = (there.host, there.port)
        # Those that this node may have to follow it are not to be shown away.
        self._signpost, self._listener = self._listener, None
        self._rendezvous = None
        for link in self._links.values():
            link.close()
        self._links.clear()
        self._let_go()
        self._member.is_own = False
        self._member.state = "seeking"
        self._reach(there.host, there.port)
        self._act()

    # --- as any node ----------------------------------------------------------------------------

    def _hear_coordinator(self, link: Link, message: Message) -> None:
        if link is not self._to_coordinator:
            return
        if isinstance(message, Pong):
            self._pong_at = self._loop.clock()
        if not isinstance(message, Well):
            self._home = self._met
        self._member.take(message, self._loop.clock())
        self._act()

    def _let_go(self) -> None:
        self._attempt_ends_at = None
        if self._probe is not None:
            self._probe.cancel()
            self._probe = None
        if self._lookup is not None:
            self._lookup.cancel()
            self._lookup = None
        if self._to_coordinator is not None:
            self._to_coordinator.close()
            self._to_coordinator = None


def _as_event(stop: Stop) -> PeersStop:
    return PeersStop(stop.reason, stop.signum, stop.is_hang, stop.is_forced)


def _nothing() -> None:
    pass


def _ignore(link: Link, message: Message) -> None:
    pass


def _ending(error: Exception, is_dead: bool) -> str:
    if is_dead:
        return "its launcher has ended (the connection was closed)"
    return f"the connection to it broke ({_reason(error)})"


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return text[:1].lower() + text[1:]
