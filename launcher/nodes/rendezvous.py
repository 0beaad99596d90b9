"""The coordinator of a run's nodes, as a state machine: who has come, who is what, how it ends.

    gathering -> running -> ending -> gathering (a restart), or over

Nodes join until there are enough; all get their ranks at once. The first word of a failure, a
signal, a loss or a newcomer ends the attempt for all; when every node has told how it ended there,
one verdict for all follows. A node that has been lost is not waited for. Whoever is left after the
coordinator's own loss goes on in the ending of the same attempt, at another node (`resume`).

Pure: the clock is an argument, what is to be sent lies in `outbox`. The node that coordinates is a
node like the others, under the key `OWN`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from launcher.diagnosis.cause import is_secondary
from launcher.diagnosis.outcome import AttemptOutcome
from launcher.diagnosis.report import FailureReport, make_report
from launcher.exits import signal_name
from launcher.nodes import restart
from launcher.nodes.account import merge, read_account
from launcher.nodes.losses import Loss, Losses
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
)
from launcher.ranks import format_ranges

# The key of the coordinator's own node, which is not reached over a connection.
OWN = 0

# How many nodes are told to each as those that can take over.
_NUM_DEPUTIES = 8

# How long the others have, after a coordinator's loss, to notice it and to come to its successor:
# heartbeats and looks at the clock are up to a second apart, and lost packets come a second later.
RESUME_S = 3.0

# A coordinator that was stopped itself has heard by then of all that are still with it. And nobody
# is counted on for an attempt who has not been heard of for so long: heartbeats come each second.
DOUBT_S = 3.0
_FRESH_S = 2.5

# A node that lives must have told by then how its ranks ended, unless they may save something.
_SETTLE_S = 30.0

# How long the nodes wait for each other to hear how the run has ended.
_FAREWELL_S = 2.0

_LOST_CODE = 1
_USAGE_CODE = 2
_RENDEZVOUS_CODE = 3

# What it may take until the end of a connection is heard of: what failed so shortly before may have
# failed of it.
_AT_ONCE_S = 0.1

_LOOPBACK = ("127.", "::1")

# How many questions may wait for answers.
_MOST_QUESTIONS = 64

_NOT_THE_LARGER_PART = restart.Verdict(
    "give_up",
    "not restarted: no more than half of the nodes can be reached from here, and the others may go"
    " on without them",
)


class Rules(NamedTuple):
    """What holds for the whole run, by the options of the coordinator's node."""

    run_name: str
    min_nodes: int
    max_nodes: int
    policy: restart.RestartPolicy
    join_timeout_s: float = 600.0
    last_call_s: float = 30.0
    node_timeout_s: float = 6.0
    rescales_now: bool = True
    # What the workers are to find, where it is not ours to choose.
    master_addr: str = ""
    master_port: int = 0
    hostname: str = ""
    run_dir: str | None = None
    # Why others may not find the endpoint, or "".
    doubt: str = ""

    @property
    def is_elastic(self) -> bool:
        return self.min_nodes < self.max_nodes


class Route(NamedTuple):
    """The two ends of the connection over which a node has come."""

    # Its address, as the coordinator sees it; and the coordinator's, as the node has found it.
    of_node: str = ""
    of_coordinator: str = ""


class Past(NamedTuple):
    """What a successor knows of the run that it takes over."""

    generation: int
    num_nodes: int
    num_failures: int
    # The coordinator, and those that should have followed it but had gone, too; and the node ranks
    # of all that are known to have ended.
    losses: tuple[Loss, ...]
    dead: frozenset[int] = frozenset()


class _Node:
    """A node that is connected, or was in this attempt."""

    def __init__(self, join: Join, route: Route, number: int, now: float) -> None:
        self.join = join
        self.route = route
        # The order of arrival.
        self.number = number
        self.heard_at = now
        # The last attempt that it has been told of.
        self.generation = join.generation
        # Its node rank in the attempt that goes on or has been the last; -1 for a spare.
        self.rank = join.old_rank
        self.outcome: AttemptOutcome | None = None
        # Whether nothing has moved there for --hang-timeout.
        self.is_still = False
        # The signal for which it leaves a run that goes on; 0 while it does not.
        self.leaves_for = 0

    @property
    def is_near(self) -> bool:
        """Whether it is on the coordinator's host."""
        return not self.route.of_node or self.route.of_node.startswith(_LOOPBACK)


class Rendezvous:
    """The coordinator's state. Keys stand for connections; each method takes the time."""

    def __init__(self, rules: Rules, now: float, past: Past | None = None) -> None:
        """past: of a coordinator that was lost; then the attempt's ending is taken over."""
        self.rules = rules
        self.outbox: list[tuple[int, Message]] = []
        # Lines for the user of the coordinator's node.
        self.news: list[str] = []
        self._nodes: dict[int, _Node] = {}
        # The keys of nodes of the last attempt that have not told yet how it ended there, and of
        # those that cannot start another yet; the node ranks that nodes have brought with them.
        self._unsettled: set[int] = set()
        self._unready: set[int] = set()
        self._given_ranks: dict[int, int] = {}
        self._keys: dict[str, int] = {}
        self._num_joined = 0
        self._generation = past.generation if past else -1
        self._phase = "ending" if past else "gathering"
        self._since = now
        self._enough_at: float | None = None
        # How it has ended at nodes that were lost after they had told it, by node rank.
        self._left_outcomes: dict[int, AttemptOutcome] = {}
        # How many of the connected nodes have a rank in the last attempt.
        self._num_active = 0
        self._losses = Losses(past.num_nodes, past.losses) if past else Losses(0)
        self._losses.bury(past.dead if past else ())
        self._past = [restart.FailedAttempt(now, 0.0)] * (past.num_failures if past else 0)
        self._history: list[str] = []
        # How the run has ended, and who has not heard it yet; what nodes have brought along that
        # the lost coordinator had decided, and who of them knows that the run has ended.
        self._end: Decided | None = None
        self._unheard: set[int] = set()
        # Those of them whose connection broke, by the name of the member.
        self._absent: dict[str, int] = {}
        # Whether somebody may come yet who has lost the same coordinator.
        self._lingers = False
        # Until when nodes may come again whose connections broke, by the name of the member.
        self._expected: dict[str, float] = {}
        self._brought: Decided | None = None
        self._knowing: set[int] = set()
        # When this coordinator was heard to be awake; until when it does not trust what it knows.
        self._awake_at = now
        self._doubts_until = now
        self._signum = 0
        self._newcomers: tuple[str, ...] = ()
        self._own_address = ""
        # Number -> who has asked, and its own number for the question.
        self._questions: dict[int, tuple[int, int]] = {}
        self._num_questions = 0
        self._is_successor = past is not None

    @property
    def is_over(self) -> bool:
        return self._phase == "over"

    @property
    def keys(self) -> Collection[int]:
        """The keys of the nodes that take part or wait for a place."""
        return self._nodes.keys()

    @property
    def has_listeners(self) -> bool:
        """Whether nodes are here still, or must come again, to hear how the run has ended."""
        return self._lingers or bool(self._unheard) or any(key != OWN for key in self._nodes)

    def waits_for(self, key: int) -> bool:
        """Tell whether a node is still needed, or still to hear something."""
        return key in self._nodes and (key in self._unheard or not self.is_over)

    @property
    def generation(self) -> int:
        """The number of the attempt that goes on, or was the last; -1 before the first."""
        return self._generation

    def handle(self, key: int, message: Message, now: float, route: Route | None = None) -> None:
        """Take a message of the node behind a connection. route: with a `Join`."""
        self._look_at_clock(now)
        node = self._nodes.get(key)
        if isinstance(message, Join):
            self._join(key, message, route or Route(), now)
            return
        if node is None:
            if isinstance(message, (Heard, Leave)):
                self.outbox.append((key, Farewell()))
            return
        node.heard_at = now
        if isinstance(message, Ping):
            self.outbox.append((key, Pong()))
        elif isinstance(message, Ask):
            self._pass_on(key, message)
        elif isinstance(message, Answer):
            asker, number = self._questions.get(message.number, (-1, 0))
            if asker in self._nodes:
                self.outbox.append((asker, message._replace(number=number)))
        elif isinstance(message, Leave):
            self.outbox.append((key, Farewell()))
            self._remove(key, message.reason, now, is_dead=True)
        elif isinstance(message, Forsake):
            self._remove(key, "it has turned to another coordinator", now, is_dead=False)
        elif isinstance(message, Heard):
            self._note_heard(key)
        elif isinstance(message, Decided):
            self._adopt(key, message, now)
        elif isinstance(message, Ready):
            if message.generation == node.generation + 1:
                self._unready.discard(key)
                node.join = node.join._replace(
                    master_port=message.master_port, horovod=message.horovod
                )
                self._start_if_possible(now)
        elif isinstance(message, Stopping):
            if node.rank >= 0:  # in whichever attempt: the run is to stop
                self._stop(key, node, message, now)
        elif message.generation != self._generation or node.rank < 0:  # type: ignore[union-attr]
            return  # of an attempt that is over
        elif isinstance(message, Failing):
            what = "nothing moves" if message.is_hang else "a rank has failed"
            self._end_attempt(f"{what} on {self._name(node)}", now, is_hang=message.is_hang)
        elif isinstance(message, Still):
            node.is_still = message.is_still
            active = [other for _, other in self._active()]
            if all(other.is_still or other.outcome is not None for other in active):
                self._end_attempt("nothing moves on any node", now, is_hang=True)
        elif isinstance(message, Settled):
            self._settle(key, node, message, now)

    def door(self, key: int) -> tuple[str, int]:
        """Return the address and port at which a node listens as long as its supervisor lives."""
        node = self._nodes[key]
        return node.join.address or node.route.of_node, node.join.port

    def lose(self, key: int, why: str, now: float, *, is_dead: bool) -> None:
        """Take note that the connection of a node is closed; is_dead: its supervisor has ended.

        Else it will come again.
        """
        self._look_at_clock(now)
        # One that was stopped itself does not know what was while the other still lived.
        is_dead = is_dead and now >= self._doubts_until
        node = self._nodes.get(key)
        if node is not None and node.rank >= 0 and not is_dead:
            self._expected[node.join.member] = now + RESUME_S
        self._remove(key, why, now, is_dead=is_dead)

    def tick(self, now: float) -> None:
        """See whether anything is due."""
        self._look_at_clock(now)
        for key, node in list(self._nodes.items()):
            if key != OWN and now - node.heard_at > self.rules.node_timeout_s:
                silent = f"nothing was heard of it for {now - node.heard_at:.1f} s"
                goodbye = f"{silent.replace('it', 'this node')}: the others go on without it"
                self.outbox.append((key, Refused(goodbye, "", _LOST_CODE)))
                self._remove(key, silent, now, is_dead=False)
        if self._phase == "gathering":
            self._go_on_or_end(now)
            if self._phase == "gathering" and now - self._since >= self.rules.join_timeout_s:
                self._give_up_gathering()
        elif self._phase == "ending":
            waited_s = now - self._since
            if self._is_successor and waited_s >= RESUME_S:
                self._losses.count_missing([node.rank for _, node in self._active()], now)
            if waited_s >= _SETTLE_S and not self._signum:
                self._unsettled.clear()
        elif self._phase == "over" and now - self._since >= _FAREWELL_S:
            self._lingers = False
            if self._unheard:
                self._unheard.clear()
                self._part()
        self._decide_if_known(now)

    def _look_at_clock(self, now: float) -> None:
        """See whether this coordinator has been stopped itself, and others may have followed it.

        Then what it hears first is old: only after a while does it know who has left it.
        """
        if now - self._awake_at > self.rules.node_timeout_s / 2:
            self._doubts_until = now + DOUBT_S
        self._awake_at = now

    def _is_unsure(self, now: float) -> bool:
        """Tell whether it is not known yet who is left."""
        if self._expected and max(self._expected.values()) <= now:
            self._expected.clear()
        return now < self._doubts_until or bool(self._expected)

    # --- coming together ------------------------------------------------------------------------

    def _join(self, key: int, join: Join, route: Route, now: float) -> None:
        self._expected.pop(join.member, None)
        before = self._keys.get(join.member)
        if before is not None:
            self._remove(before, "it has come again", now, is_dead=False)
        resumes = join.generation >= 0
        refusal = self._find_refusal(join)
        if refusal is not None and not (resumes and self._end):
            self.outbox.append((key, refusal))
            self.news.append(f"{join.hostname} was refused: {refusal.message}")
            return
        node = _Node(join, route, self._num_joined, now)
        self._num_joined += 1
        self._nodes[key] = node
        self._keys[join.member] = key
        if join.node_rank >= 0:
            self._given_ranks[join.node_rank] = key
        if resumes:
            self._resume(key, node, now)
        if self._phase == "gathering":
            self._start_if_possible(now)
            if self._phase != "gathering" or self._generation < 0:
                return
        if node.rank < 0 and self._phase != "over":
            self._keep_waiting(key, node, now)

    def _resume(self, key: int, node: _Node, now: float) -> None:
        """Take in a node that has lost the last coordinator, be it late."""
        join = node.join
        num_unknown = max(0, join.num_failures - len(self._past))
        self._past += [restart.FailedAttempt(now, 0.0)] * num_unknown
        if self._end is not None:
            node.rank = -1
            self._unheard.discard(self._absent.pop(join.member, key))
            self._unheard.add(key)
            self.outbox.append((key, self._end))
            return
        self._unready.add(key)
        self.outbox.append((key, Pong()))  # so that it knows who coordinates
        is_takeover = self._is_successor and self._phase == "ending"
        if is_takeover and join.generation > self._generation:
            # The lost coordinator had begun another attempt, but not told all of it.
            self._generation, self._brought = join.generation, None
            self._losses.num_nodes = join.num_nodes
            self._unsettled.clear()
        is_same = join.generation == self._generation
        is_back = is_same and self._losses.find(node.rank)
        if is_takeover or is_back:
            self._num_active += 1
            self._left_outcomes.pop(node.rank, None)
            self._losses.bury(join.dead)
            if is_same:
                self._unsettled.add(key)
        else:
            node.rank = -1
        if self._phase == "gathering" or not (is_takeover or is_back):
            # It comes late: another attempt is decided, or goes on already.
            self._unsettled.discard(key)
            self._generation = max(self._generation, join.generation)
            again = join.generation, "restart", "", 0.0, _LOST_CODE, None, False, ""
            self.outbox.append((key, Decided(*again, len(self._past))))

    def _find_refusal(self, join: Join) -> Refused | None:
        """Return why a node cannot take part, or None."""
        rules = self.rules
        if self._phase == "over":
            return Refused("this run has ended already", "Start it again on all nodes.", 1)
        here = f"on {rules.hostname}"
        if (join.min_nodes, join.max_nodes) != (rules.min_nodes, rules.max_nodes):
            mine, theirs = _nodes_text(rules), _nodes_text(join)
            return Refused(
                f"--nnodes {theirs} on {join.hostname} contradicts --nnodes {mine} {here}",
                "Type the same number on all nodes.",
                _USAGE_CODE,
            )
        own = self._nodes.get(OWN)
        if own is None:
            return None
        for name, value in own.join.alike.items():
            other = join.alike.get(name, "")
            if other != value:
                return Refused(
                    f"{name} differs between the nodes: {other or 'none'} on {join.hostname},"
                    f" {value or 'none'} {here}",
                    "Use the same on all nodes.",
                    _USAGE_CODE,
                )
        if join.node_rank in self._given_ranks:
            taken = self._nodes[self._given_ranks[join.node_rank]].join
            return Refused(
                f"node rank {join.node_rank} is taken by {taken.hostname}; {join.hostname}"
                " has the same",
                "Give each node another --node-rank.",
                _USAGE_CODE,
            )
        return None

    def _pass_on(self, asker: int, question: Ask) -> None:
        """Ask all other nodes what one of them wants to know."""
        self._num_questions += 1
        self._questions[self._num_questions] = (asker, question.number)
        self._questions.pop(self._num_questions - _MOST_QUESTIONS, None)
        passed = question._replace(number=self._num_questions)
        self.outbox += [(key, passed) for key, _ in self._active() if key != asker]

    def _keep_waiting(self, key: int, node: _Node, now: float) -> None:
        """Let a newcomer in by a restart, where there is a place for it; else it waits."""
        has_place = self._phase == "running" and self._num_active < self.rules.max_nodes
        reason = "this node takes part after the next restart"
        if has_place and self.rules.rescales_now:
            reason = "all ranks start again, so that this node can take part"
        elif self._phase == "running" and not has_place:
            reason = self._full_text()
        self.outbox.append((key, Waiting(reason, self._deputies())))
        if has_place and self.rules.rescales_now:
            self._newcomers += (node.join.hostname,)
            self._end_attempt(f"{node.join.hostname} has come", now)

    def _start_if_possible(self, now: float) -> None:
        rules, is_first = self.rules, self._generation < 0
        if self._phase != "gathering" or len(self._nodes) < rules.min_nodes:
            self._enough_at = None
            return
        if self._enough_at is None:
            self._enough_at = now
        if self._unready or self._is_unsure(now):
            return  # their ranks of the last attempt still end
        is_called = is_first and now - self._enough_at < rules.last_call_s
        if len(self._nodes) < rules.max_nodes and is_called:
            return
        chosen = self._candidates()[: rules.max_nodes]
        if all(key == OWN or now - node.heard_at <= _FRESH_S for key, node in chosen):
            self._start(chosen, now)

    def _go_on_or_end(self, now: float) -> None:
        """Start the next attempt if all is ready for it, or end where others may go on, too."""
        if self._generation < 0 or self._is_unsure(now) or self._may_go_on():
            self._start_if_possible(now)
        else:
            self._end_smaller_part(now)

    def _candidates(self) -> list[tuple[int, _Node]]:
        """Return the nodes that can start, in the order of the ranks that they would have.

        Nodes that stay keep their order, and their rank where all before them stay, too: who comes
        fills the gaps.
        """
        ready = list(self._nodes.items())
        staying = sorted((item for item in ready if item[1].rank >= 0), key=lambda i: i[1].rank)
        coming = sorted(
            (item for item in ready if item[1].rank < 0),
            key=lambda item: (item[1].join.node_rank < 0, item[1].join.node_rank, item[1].number),
        )
        if not staying:
            return _by_given_rank(coming)
        ordered: list[tuple[int, _Node]] = []
        for item in staying:
            while coming and len(ordered) < item[1].rank:
                ordered.append(coming.pop(0))
            ordered.append(item)
        return [*ordered, *coming]

    def _start(self, chosen: list[tuple[int, _Node]], now: float) -> None:
        self._generation += 1
        self._phase, self._since = "running", now
        self._num_active = len(chosen)
        self._losses, self._signum, self._newcomers = Losses(len(chosen)), 0, ()
        self._is_successor, self._enough_at, self._brought = False, None, None
        self._left_outcomes.clear()
        self._unsettled = {key for key, _ in chosen}
        self._unready = set(self._unsettled)
        for node in self._nodes.values():
            node.rank, node.outcome, node.is_still = -1, None, False
        for rank, (_, node) in enumerate(chosen):
            node.rank, node.generation = rank, self._generation
        world_size = sum(node.join.num_workers for _, node in chosen)
        self._own_address = self._find_own_address()
        deputies = self._deputies()
        own_rank = self._nodes[OWN].rank
        first_rank = 0
        hostname_width = max(len(node.join.hostname) for _, node in chosen)
        for key, node in chosen:
            master_addr, master_port = self._master(node, chosen[0][1])
            assigned = Assigned(
                generation=self._generation,
                run_name=self.rules.run_name,
                node_rank=node.rank,
                num_nodes=len(chosen),
                first_rank=first_rank,
                world_size=world_size,
                master_addr=master_addr,
                master_port=master_port,
                address=self._address(node),
                num_failures=len(self._past),
                deputies=deputies,
                coordinator_rank=own_rank,
                hostname_width=hostname_width,
                coordinator_host=self.rules.hostname,
                horovod=chosen[0][1].join.horovod,
            )
            self.outbox.append((key, assigned))
            first_rank += node.join.num_workers
        for key, node in self._nodes.items():
            if node.rank < 0:
                self.outbox.append((key, Waiting(self._full_text(), deputies)))

    def _full_text(self) -> str:
        return f"all {self.rules.max_nodes} nodes are there; this one steps in when one is lost"

    def _find_own_address(self) -> str:
        """Return the coordinator's address as the nodes of other hosts have found it."""
        own = self._nodes.get(OWN)
        if own is not None and own.join.address:
            return own.join.address
        routes = [node.route for node in self._nodes.values() if node.route.of_coordinator]
        far = [route for route in routes if not route.of_node.startswith(_LOOPBACK)]
        return (far or routes or [Route("", "127.0.0.1")])[0].of_coordinator

    def _address(self, node: _Node) -> str:
        if node.join.address:
            return node.join.address
        return self._own_address if node.is_near else node.route.of_node

    def _master(self, node: _Node, first: _Node) -> tuple[str, int]:
        """Return where a node's workers find rank 0: the way on which the node has come, if so."""
        port = self.rules.master_port or first.join.master_port
        if self.rules.master_addr:
            return self.rules.master_addr, port
        if first.is_near and not node.is_near and not first.join.address:
            return node.route.of_coordinator, port
        return self._address(first), port

    def _deputies(self) -> tuple[Deputy, ...]:
        active = sorted(
            (node.rank, key, node) for key, node in self._nodes.items() if node.rank >= 0
        )
        return tuple(
            Deputy(node.join.member, node.join.hostname, self._address(node), node.join.port, rank)
            for rank, key, node in active
            if key != OWN
        )[:_NUM_DEPUTIES]

    def _give_up_gathering(self) -> None:
        here = sorted(self._nodes.values(), key=lambda node: node.number)
        names = ", ".join(node.join.hostname for node in here)
        given = {node.join.node_rank for node in here}
        missing = sorted(set(range(self.rules.max_nodes)) - given)
        whom = ""
        if -1 not in given and missing and not self.rules.is_elastic:
            whom = f"; node rank {format_ranges(missing)} is missing"
        text = (
            f"In {self.rules.join_timeout_s:g} s {len(here)} of {_nodes_text(self.rules)} nodes"
            f" have come ({names}){whom}."
        )
        hint = self.rules.doubt or (
            "Start the launcher on the others with the same --rdzv-endpoint or --master-addr, or"
            " give them more time: --rdzv-conf join_timeout=SECONDS"
        )
        for key in self._nodes:
            self.outbox.append((key, Refused(text, hint, _RENDEZVOUS_CODE)))
        self._phase = "over"

    # --- how an attempt ends --------------------------------------------------------------------

    def _end_attempt(self, reason: str, now: float, *, is_hang: bool = False) -> None:
        """Let all ranks end; the first reason counts."""
        if self._phase == "running":
            self._phase, self._since = "ending", now
            self._tell_all(Stop(self._generation, reason, is_hang=is_hang))

    def _stop(self, key: int, node: _Node, message: Stopping, now: float) -> None:
        """Let all ranks of all nodes know, once, that somebody has asked one of them to stop.

        Where the others are enough to go on, only that node leaves.
        """
        signum = message.signum
        if node.leaves_for or self._phase == "over":
            return
        if self._signum:
            if message.is_forced:
                self._tell_all(Stop(self._generation, "", signum, is_forced=True))
            return
        reason = f"{self._name(node)} received {signal_name(signum)}"
        if not message.is_for_all and self._may_leave(key):
            node.leaves_for = signum
            if self._phase == "gathering":
                self.news.append(f"{reason} and has left")
                self._dismiss(now)
            else:
                self._end_attempt(f"{reason} and leaves", now)
            return
        self._signum = signum
        if self._phase == "gathering":
            stopped = AttemptOutcome(self._generation, (), signum)
            self._announce(restart.Verdict("give_up", reason), None, stopped, now)
            return
        if self._phase == "running":
            self._phase, self._since = "ending", now
        self._tell_all(Stop(self._generation, reason, signum))

    def _may_leave(self, key: int) -> bool:
        """Tell whether the run can go on without a node that is asked to stop."""
        if self._is_successor and self._phase == "ending":
            return self.rules.is_elastic  # the others may be on their way; see `_count_leavers`
        staying = sum(not node.leaves_for for other, node in self._nodes.items() if other != key)
        return self.rules.is_elastic and staying >= self.rules.min_nodes

    def _count_leavers(self) -> None:
        """Stop the run where those that leave do not leave enough others behind."""
        leaving = [node for node in self._nodes.values() if node.leaves_for]
        if leaving and len(self._nodes) - len(leaving) < self.rules.min_nodes:
            self._signum = leaving[0].leaves_for
            for node in leaving:
                node.leaves_for = 0

    def _dismiss(self, now: float) -> None:
        """Let those go that leave, between two attempts; who coordinates says so to the others."""
        for key, node in self._active():
            if not node.leaves_for:
                continue
            outcome = node.outcome or AttemptOutcome(self._generation, ())
            code = restart.exit_code_of(outcome._replace(signum=node.leaves_for), None)
            self.outbox.append((key, Released(code)))
            if key == OWN:
                self._hand_over(f"it received {signal_name(node.leaves_for)}")
            else:
                self._forget(key)
        if OWN not in self._nodes:
            self._hand_over("it has left")
        self._start_if_possible(now)

    def _hand_over(self, why: str) -> None:
        """Leave the run, which goes on, to the others."""
        message = Leave(why, self._losses.dead)
        self.outbox.extend((key, message) for key in self._nodes if key != OWN)
        self._phase = "over"

    def _forget(self, key: int) -> _Node | None:
        node = self._nodes.pop(key, None)
        if node is not None:
            self._num_active -= node.rank >= 0
            self._given_ranks.pop(node.join.node_rank, None)
            self._keys.pop(node.join.member, None)
            if node.outcome is not None:
                self._left_outcomes[node.rank] = node.outcome
            self._unsettled.discard(key)
            self._unready.discard(key)
        return node

    def _settle(self, key: int, node: _Node, message: Settled, now: float) -> None:
        if self._phase not in ("running", "ending"):
            return
        try:
            dated = now - float(message.account.get("latency", 0.0))
            outcome = read_account(message.account, node.join.hostname, self._generation, dated)
        except ValueError as problem:
            outcome = AttemptOutcome(self._generation, (), node_failure=str(problem))
        node.outcome = outcome
        self._unsettled.discard(key)
        if not outcome.succeeded:
            self._end_attempt(f"a rank has failed on {self._name(node)}", now)
        self._decide_if_known(now)

    def _remove(self, key: int, why: str, now: float, *, is_dead: bool) -> None:
        node = self._forget(key)
        if node is None:
            return
        if key in self._unheard and not is_dead:
            self._absent[node.join.member] = key
        else:
            self._note_heard(key)
        if key == OWN and self._phase == "gathering":
            # Whoever has come looks for another coordinator, as if there had been none yet.
            self._nodes.clear()
            self._phase = "over"
            return
        if node.rank < 0 or self._phase == "over":
            if self._phase == "gathering":
                self.news.append(f"{node.join.hostname} has gone again: {why}")
                self._start_if_possible(now)
            return
        at = now - _AT_ONCE_S if is_dead else node.heard_at
        is_done = node.outcome is not None and node.outcome.succeeded
        has_left = node.leaves_for > 0
        loss = Loss(node.rank, node.join.hostname, why, at, is_dead, is_done, has_left)
        self._losses.add(loss)
        if not is_done:
            self._end_attempt(str(loss), now)
        if self._phase == "gathering":
            # Between two attempts nothing of it is left to end.
            self.news.append(str(loss))
            self._go_on_or_end(now)
            return
        self._decide_if_known(now)

    def _adopt(self, key: int, verdict: Decided, now: float) -> None:
        """Take over what the lost coordinator had decided, and told some of the nodes."""
        is_final = verdict.action != "restart"
        if self._phase == "over" or (not is_final and verdict.generation != self._generation):
            return
        if is_final:
            self._knowing.add(key)
        if self._brought is None or (is_final and not self._brought.is_reporter):
            self._brought = verdict
        self._unsettled.discard(key)
        if is_final and self._phase in ("gathering", "running"):
            self._end_attempt("the run has ended", now)
            self._decide(now)
        else:
            self._decide_if_known(now)

    def _decide_if_known(self, now: float) -> None:
        is_open = self._phase in ("running", "ending")
        if self._unsettled or not is_open or self._is_unsure(now):
            return
        if self._num_active + len(self._losses) >= self._losses.num_nodes:
            self._decide(now)  # else others are on their way to the successor of their coordinator

    def _decide(self, now: float) -> None:
        """Make one verdict of all accounts, and tell it to everybody."""
        active = self._active()
        self._losses.count_missing([node.rank for _, node in active], now)
        self._count_leavers()
        if self._brought is not None and not self._signum:
            if self._brought.action != "restart" or self._may_go_on():
                self._tell(self._brought, now)
            else:
                self._end_smaller_part(now)
            return
        outcome = self._merge([node for _, node in active])
        report = self._make_report(outcome)
        verdict = self._judge(outcome, report, now)
        if report is not None:
            if not self._is_free(report):
                self._past.append(restart.FailedAttempt(now, report.duration_s))
            self._history.append(report.attempt_summary())
            if verdict.action != "restart":
                report = report._replace(verdict=verdict.reason)
        self._announce(verdict, report, outcome, now)

    def _merge(self, active: list[_Node]) -> AttemptOutcome:
        """Return what has happened in the attempt over all nodes."""
        outcomes = [node.outcome for node in active if node.outcome is not None]
        outcomes += self._left_outcomes.values()
        outcome = merge(outcomes, self._generation)._replace(signum=self._signum or None)
        outcome = self._losses.blame(outcome)
        if outcome.succeeded:
            unknown = next((node for node in active if node.outcome is None), None)
            if unknown is not None:
                failure = f"{self._name(unknown)} has not told how its ranks ended"
                return outcome._replace(node_failure=failure)
            if not self._may_go_on():
                return outcome._replace(node_failure=f"the others were lost: {self._losses}")
        return outcome

    def _end_smaller_part(self, now: float) -> None:
        """End here what is left of the run between two attempts."""
        outcome = self._losses.blame(AttemptOutcome(self._generation, ()))
        report = self._make_report(outcome)
        self._announce(_NOT_THE_LARGER_PART, report, outcome, now)

    def _active(self) -> list[tuple[int, _Node]]:
        """Return the nodes of the attempt that are left, in the order of node rank."""
        active = [(key, node) for key, node in self._nodes.items() if node.rank >= 0]
        return sorted(active, key=lambda item: item[1].rank)

    def _make_report(self, outcome: AttemptOutcome) -> FailureReport | None:
        self._history.extend(outcome.replaced)
        if outcome.signum is not None or self._is_rescale(outcome) or outcome.succeeded:
            return None
        report = make_report(outcome, hostname=self.rules.hostname, run_dir=self.rules.run_dir)
        return report._replace(history=tuple(self._history))

    def _is_rescale(self, outcome: AttemptOutcome) -> bool:
        """Tell whether the attempt was only ended because nodes have come, or leave."""
        if not self._changes() or outcome.node_failure or outcome.hang:
            return False
        if outcome.succeeded and all(w.asked_to_stop_at is None for w in outcome.workers):
            return False  # it was over already
        return all(worker.failed_at is None or is_secondary(worker) for worker in outcome.workers)

    def _changes(self) -> list[str]:
        """Return who has come or leaves, in words."""
        leaving = [self._name(node) for _, node in self._active() if node.leaves_for]
        leaving += self._losses.leavers
        come = [f"{', '.join(self._newcomers)} has come"] if self._newcomers else []
        return [*come, *([f"{', '.join(leaving)} has left"] if leaving else [])]

    def _is_free(self, report: FailureReport) -> bool:
        """Tell whether an attempt's end costs none of --max-restarts: nodes come and go.

        One that is lost at the start of each attempt must not keep the others from an end.
        """
        is_loss = report.rank < 0 and self._losses.is_failure
        return is_loss and self.rules.is_elastic and report.duration_s > restart.STARTUP_S

    def _judge(
        self, outcome: AttemptOutcome, report: FailureReport | None, now: float
    ) -> restart.Verdict:
        is_rescale = report is None and self._is_rescale(outcome)
        if outcome.signum is not None or (outcome.succeeded and not is_rescale):
            return restart.decide(outcome, report, self._past, self.rules.policy, now, 0.0)
        if report is None:
            changes = ", and ".join(self._changes())
            verdict = restart.Verdict("restart", f"{changes}; starting all ranks again")
        elif self._is_free(report):
            verdict = restart.Verdict("restart")
        else:
            counted = outcome._replace(attempt=len(self._past))
            chance = self._generation * 37 % 101 / 100
            verdict = restart.decide(counted, report, self._past, self.rules.policy, now, chance)
        is_split = verdict.action == "restart" and not self._may_go_on()
        return _NOT_THE_LARGER_PART if is_split else verdict

    def _may_go_on(self) -> bool:
        """Tell whether no other part of the run can go on, too."""
        return self._losses.leave_larger_part(
            self._num_active, is_coordinators=not self._is_successor
        )

    def _announce(
        self,
        verdict: restart.Verdict,
        report: FailureReport | None,
        outcome: AttemptOutcome,
        now: float,
    ) -> None:
        """Tell all nodes what follows the attempt."""
        active = self._active()
        decided = Decided(
            self._generation,
            verdict.action,
            verdict.reason,
            verdict.delay_s,
            restart.exit_code_of(outcome, report),
            None if report is None else report.to_dict(),
            is_reporter=False,
            reporter=active[0][1].join.hostname if active else "",
            num_failures=len(self._past),
        )
        self._tell(decided, now)

    def _tell(self, decided: Decided, now: float) -> None:
        """Tell a verdict to all nodes that do not know it; the first of them shows the report."""
        self._since, self._enough_at = now, None
        is_shown = decided.is_reporter and bool(self._knowing)
        decided = decided._replace(is_reporter=False)
        if decided.action == "restart":
            self._phase = "gathering"
            for key, node in self._active():
                if not node.leaves_for:
                    self.outbox.append((key, decided._replace(generation=node.generation)))
            self._dismiss(now)
            return
        self._phase, self._end = "over", decided
        self._lingers = self._is_successor and self._losses.has_missing
        for key, node in self._active():
            if key not in self._knowing:
                told = decided._replace(generation=node.generation, is_reporter=not is_shown)
                self.outbox.append((key, told))
                is_shown = True
        spares = [key for key, node in self._nodes.items() if node.rank < 0]
        self.outbox.extend((key, decided) for key in spares if key not in self._knowing)
        self._unheard = set(self._nodes) - self._knowing
        if not self._unheard:
            self._part()

    def _note_heard(self, key: int) -> None:
        """Let all nodes go once each of them knows how the run has ended."""
        if key in self._unheard:
            self._unheard.discard(key)
            if not self._unheard:
                self._part()

    def _part(self) -> None:
        self.outbox.extend((key, Farewell()) for key in self._nodes)

    def _tell_all(self, message: Message) -> None:
        self.outbox.extend((key, message) for key, node in self._nodes.items() if node.rank >= 0)

    def _name(self, node: _Node) -> str:
        return f"node {node.rank} ({node.join.hostname})"


def _by_given_rank(nodes: list[tuple[int, _Node]]) -> list[tuple[int, _Node]]:
    """Return nodes with those that have a rank given at that place, as far as there are so many."""
    given = {node.join.node_rank: (key, node) for key, node in nodes if node.join.node_rank >= 0}
    free = [(key, node) for key, node in nodes if node.join.node_rank < 0]
    ordered: list[tuple[int, _Node]] = []
    for rank in range(len(nodes)):
        if rank in given:
            ordered.append(given.pop(rank))
        elif free:
            ordered.append(free.pop(0))
    return [*ordered, *(given[rank] for rank in sorted(given)), *free]


def _nodes_text(nodes: Rules | Join) -> str:
    low, high = nodes.min_nodes, nodes.max_nodes
    return str(low) if low == high else f"{low}:{high}"
