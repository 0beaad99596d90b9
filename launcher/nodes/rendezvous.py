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
from launcher.nodes.messages import (
    Answer,
    Ask,
    Assigned,
    Decided,
    Deputy,
    Failing,
    Join,
    Leave,
    Message,
    Ping,
    Pong,
    Ready,
    Refused,
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
# heartbeats and looks at the clock are up to a second apart.
RESUME_S = 1.5

# A node that lives must have told by then how its ranks ended.
_SETTLE_S = 30.0

_LOST_CODE = 1
_USAGE_CODE = 2
_RENDEZVOUS_CODE = 3

# What it may take until the end of a connection is heard of: what failed so shortly before may have
# failed of it.
_AT_ONCE_S = 0.1

_LOOPBACK = ("127.", "::1")

# How many questions may wait for answers.
_MOST_QUESTIONS = 64

# How many lost nodes a report names.
_MOST_LOSSES = 5

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
    # Why others may not find the endpoint, and what to type, or "".
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
    # The lost coordinator's node.
    node_rank: int
    hostname: str
    why: str
    is_dead: bool
    has_left: bool = False


class _Node:
    """A node that is connected, or was in this attempt."""

    def __init__(self, join: Join, route: Route, number: int, now: float) -> None:
        self.join = join
        self.route = route
        # The order of arrival.
        self.number = number
        self.heard_at = now
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


class _Loss(NamedTuple):
    """A node that was lost in this attempt."""

    rank: int
    hostname: str
    why: str
    at: float
    # Whether it is certain that none of its ranks goes on: its connection was closed.
    is_dead: bool
    # Whether that was announced: no failure.
    has_left: bool = False

    def __str__(self) -> str:
        where = f" ({self.hostname})" if self.hostname else ""
        return f"node {self.rank}{where} was lost: {self.why}"


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
        self._num_joined = 0
        self._generation = past.generation if past else -1
        self._phase = "ending" if past else "gathering"
        self._since = now
        self._enough_at: float | None = None
        self._num_nodes = past.num_nodes if past else 0
        self._losses: list[_Loss] = []
        # Nodes that have ended before the others, all of whose ranks had succeeded.
        self._num_gone = 0
        self._past = [restart.FailedAttempt(now, 0.0)] * (past.num_failures if past else 0)
        self._history: list[str] = []
        self._signum = 0
        self._newcomers: tuple[str, ...] = ()
        self._own_address = ""
        # Number -> who has asked, and its own number for the question.
        self._questions: dict[int, tuple[int, int]] = {}
        self._num_questions = 0
        self._is_successor = past is not None
        if past is not None:
            loss = _Loss(past.node_rank, past.hostname, past.why, now, past.is_dead, past.has_left)
            self._losses.append(loss)

    @property
    def is_over(self) -> bool:
        return self._phase == "over"

    @property
    def keys(self) -> Collection[int]:
        """The keys of the nodes that take part or wait for a place."""
        return self._nodes.keys()

    @property
    def generation(self) -> int:
        """The number of the attempt that goes on, or was the last; -1 before the first."""
        return self._generation

    def handle(self, key: int, message: Message, now: float, route: Route | None = None) -> None:
        """Take a message of the node behind a connection. route: with a `Join`."""
        node = self._nodes.get(key)
        if isinstance(message, Join):
            self._join(key, message, route or Route(), now)
            return
        if node is None:
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
            self._remove(key, message.reason, now, is_dead=True)
        elif isinstance(message, Ready):
            if message.generation == self._generation + 1:
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

    def lose(self, key: int, why: str, now: float) -> None:
        """Take note that the connection of a node is closed: its supervisor has ended."""
        self._remove(key, why, now, is_dead=True)

    def tick(self, now: float) -> None:
        """See whether anything is due."""
        for key, node in list(self._nodes.items()):
            if key != OWN and now - node.heard_at > self.rules.node_timeout_s:
                silent = f"nothing was heard of it for {now - node.heard_at:.1f} s"
                goodbye = f"{silent.replace('it', 'this node')}: the others go on without it"
                self.outbox.append((key, Refused(goodbye, "", _LOST_CODE)))
                self._remove(key, silent, now, is_dead=False)
        if self._phase == "gathering":
            self._start_if_possible(now)
            if self._phase == "gathering" and now - self._since >= self.rules.join_timeout_s:
                self._give_up_gathering()
        elif self._phase == "ending":
            patience_s = RESUME_S if self._is_successor else _SETTLE_S
            if now - self._since >= patience_s:
                self._decide(now)

    # --- coming together ------------------------------------------------------------------------

    def _join(self, key: int, join: Join, route: Route, now: float) -> None:
        refusal = self._find_refusal(join)
        if refusal is not None:
            self.outbox.append((key, refusal))
            self.news.append(f"{join.hostname} was refused: {refusal.message}")
            return
        node = _Node(join, route, self._num_joined, now)
        self._num_joined += 1
        self._nodes[key] = node
        if join.node_rank >= 0:
            self._given_ranks[join.node_rank] = key
        if join.generation != self._generation or self._phase != "ending":
            node.rank = -1
        else:
            self._unsettled.add(key)
            self._unready.add(key)
            if join.is_dead and self._is_successor:
                self._losses[0] = self._losses[0]._replace(is_dead=True)
        if self._phase == "gathering":
            self._start_if_possible(now)
            if self._phase != "gathering" or self._generation < 0:
                return
        if node.rank < 0 and self._phase != "over":
            self._keep_waiting(key, node, now)

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
        active = sum(other.rank >= 0 for other in self._nodes.values())
        has_place = self._phase == "running" and active < self.rules.max_nodes
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
        if self._unready:
            return  # their ranks of the last attempt still end
        is_called = is_first and now - self._enough_at < rules.last_call_s
        if len(self._nodes) >= rules.max_nodes or not is_called:
            self._start(self._candidates()[: rules.max_nodes], now)

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
        self._num_nodes = len(chosen)
        self._losses, self._num_gone, self._signum, self._newcomers = [], 0, 0, ()
        self._is_successor, self._enough_at = False, None
        self._unsettled = {key for key, _ in chosen}
        self._unready = set(self._unsettled)
        for node in self._nodes.values():
            node.rank, node.outcome, node.is_still = -1, None, False
        for rank, (_, node) in enumerate(chosen):
            node.rank = rank
        world_size = sum(node.join.num_workers for _, node in chosen)
        self._own_address = self._find_own_address()
        deputies = self._deputies()
        own_rank = self._nodes[OWN].rank
        first_rank = 0
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
            Deputy(node.join.member, node.join.hostname, self._address(node), node.join.port)
            for _, key, node in active
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
        hint = (
            "Start the launcher on the others with the same --rdzv-endpoint or --master-addr, or"
            " give them more time: --rdzv-conf join_timeout=SECONDS"
        )
        if len(here) == 1 and self.rules.doubt:
            hint = self.rules.doubt
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
            verdict = restart.Verdict("give_up", reason)
            stopped = AttemptOutcome(self._generation, (), signum)
            self._announce(verdict, None, stopped)
            self._phase = "over"
            return
        self._phase, self._since = "ending", now
        self._tell_all(Stop(self._generation, reason, signum))

    def _may_leave(self, key: int) -> bool:
        """Tell whether the run can go on without a node that is asked to stop."""
        staying = sum(not node.leaves_for for other, node in self._nodes.items() if other != key)
        return self.rules.is_elastic and staying >= self.rules.min_nodes

    def _dismiss(self, now: float) -> None:
        """Let those go that leave, between two attempts; who coordinates says so to the others."""
        for key, node in self._active():
            if not node.leaves_for:
                continue
            outcome = node.outcome or AttemptOutcome(self._generation, ())
            code = restart.exit_code_of(outcome._replace(signum=node.leaves_for), None)
            goodbye = Decided(self._generation, "leave", "", 0.0, code, None, is_reporter=False)
            self.outbox.append((key, goodbye))
            if key == OWN:
                why = f"it received {signal_name(node.leaves_for)}"
                self.outbox.extend((other, Leave(why)) for other in self._nodes if other != OWN)
                self._phase = "over"
            else:
                self._forget(key)
        self._start_if_possible(now)

    def _forget(self, key: int) -> _Node | None:
        node = self._nodes.pop(key, None)
        if node is not None:
            self._given_ranks.pop(node.join.node_rank, None)
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
        has_left = node.leaves_for > 0
        loss = _Loss(node.rank, node.join.hostname, why, at, is_dead, has_left)
        if node.outcome is None or not node.outcome.succeeded:
            self._losses.append(loss)
            self._end_attempt(str(loss), now)
        else:
            self._num_gone += 1  # it had done its part
        if self._phase == "gathering":
            # Between two attempts nothing of it is left to end.
            self.news.append(str(loss))
            if self._may_go_on():
                self._start_if_possible(now)
            else:
                self._announce(_NOT_THE_LARGER_PART, None, AttemptOutcome(self._generation, ()))
                self._phase = "over"
            return
        self._decide_if_known(now)

    def _decide_if_known(self, now: float) -> None:
        if self._unsettled or self._phase not in ("running", "ending"):
            return
        active = sum(node.rank >= 0 for node in self._nodes.values())
        if active + len(self._losses) + self._num_gone >= self._num_nodes:
            self._decide(now)  # else others are on their way to the successor of their coordinator

    def _decide(self, now: float) -> None:
        """Make one verdict of all accounts, and tell it to everybody."""
        self._count_missing(now)
        active = self._active()
        outcomes = [node.outcome for _, node in active if node.outcome is not None]
        outcome = merge(outcomes, self._generation)._replace(signum=self._signum or None)
        outcome = self._blame_losses(outcome)
        report = self._make_report(outcome)
        verdict = self._judge(outcome, report, now)
        if report is not None:
            if not self._is_free(report):
                self._past.append(restart.FailedAttempt(now, report.duration_s))
            self._history.append(report.attempt_summary())
            if verdict.action != "restart":
                report = report._replace(verdict=verdict.reason)
        self._since, self._enough_at = now, None
        self._phase = "gathering" if verdict.action == "restart" else "over"
        own = self._nodes.get(OWN)
        if self._phase == "over" or own is None or not own.leaves_for:
            self._announce(verdict, report, outcome)  # else who takes over judges all of it
        if self._phase == "gathering":
            self._dismiss(now)

    def _active(self) -> list[tuple[int, _Node]]:
        """Return the nodes of the attempt that are left, in the order of node rank."""
        active = [(key, node) for key, node in self._nodes.items() if node.rank >= 0]
        return sorted(active, key=lambda item: item[1].rank)

    def _count_missing(self, now: float) -> None:
        """Count those as lost that did not come to the successor of their coordinator."""
        here = {node.rank for node in self._nodes.values()} | {loss.rank for loss in self._losses}
        num_missing = self._num_nodes - self._num_gone - len(here - {-1})
        for rank in sorted(set(range(self._num_nodes)) - here)[: max(0, num_missing)]:
            self._losses.append(_Loss(rank, "", "it did not come", now, is_dead=False))

    def _blame_losses(self, outcome: AttemptOutcome) -> AttemptOutcome:
        """Make a node's loss the failure, unless a rank had failed by itself before."""
        losses = [loss for loss in self._losses if not loss.has_left]
        if not losses:
            return outcome
        lost_at = losses[0].at
        for worker in outcome.workers:
            if worker.failed_at and worker.failed_at < lost_at and not is_secondary(worker):
                return outcome
        failure = "; ".join(map(str, losses[:_MOST_LOSSES]))
        if len(losses) > _MOST_LOSSES:
            failure += f" and {len(losses) - _MOST_LOSSES} more"
        return outcome._replace(node_failure=failure)

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
        leaving += [f"node {loss.rank} ({loss.hostname})" for loss in self._losses if loss.has_left]
        come = [f"{', '.join(self._newcomers)} has come"] if self._newcomers else []
        return [*come, *([f"{', '.join(leaving)} has left"] if leaving else [])]

    def _is_free(self, report: FailureReport) -> bool:
        """Tell whether an attempt's end costs none of --max-restarts: nodes come and go.

        One that is lost at the start of each attempt must not keep the others from an end.
        """
        is_loss = report.rank < 0 and bool(self._losses)
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
        """Tell whether no other part of the run can go on, too: at a tie the coordinator's part.

        Nodes whose end is certain are in no part.
        """
        dead = sum(loss.is_dead for loss in self._losses)
        here = sum(node.rank >= 0 for node in self._nodes.values())
        living = self._num_nodes - self._num_gone - dead
        return 2 * here > living or (2 * here == living and not self._is_successor)

    def _announce(
        self, verdict: restart.Verdict, report: FailureReport | None, outcome: AttemptOutcome
    ) -> None:
        active = self._active()
        if verdict.action == "restart":
            active = [item for item in active if not item[1].leaves_for]
        reporter = active[0][1].join.hostname if active else ""
        decided = Decided(
            self._generation,
            verdict.action,
            verdict.reason,
            verdict.delay_s,
            restart.exit_code_of(outcome, report),
            None if report is None else report.to_dict(),
            is_reporter=False,
            reporter=reporter,
        )
        for number, (key, _) in enumerate(active):
            self.outbox.append((key, decided._replace(is_reporter=number == 0)))
        if verdict.action != "restart":
            spares = [key for key, node in self._nodes.items() if node.rank < 0]
            self.outbox.extend((key, decided) for key in spares)

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
