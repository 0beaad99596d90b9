"""The coordinator of a run's nodes, as a state machine: what follows from what they say.

    gathering -> running -> ending -> gathering (a restart), or over

Nodes join until there are enough; all get their ranks at once. The first word of a failure, a
signal, a loss or a newcomer ends the attempt for all; when every node has told how it ended there,
one verdict for all follows. A node that has been lost is not waited for. Whoever is left after the
coordinator's own loss goes on in the ending of the same attempt, at another node (`resume`).

Pure: the clock is an argument, what is to be sent lies in `outbox`. The node that coordinates is a
node like the others, under the key `OWN`. Who is here is on the roster (roster.py), when they start
is known to gathering.py, how an attempt ends to ending.py, and what follows to judge.py.
"""

from __future__ import annotations

from collections.abc import Collection

from launcher.exits import signal_name
from launcher.nodes.audience import Audience
from launcher.nodes.ending import Ending
from launcher.nodes.gathering import Gathering
from launcher.nodes.judge import Judge, Judgement
from launcher.nodes.layout import Layout
from launcher.nodes.losses import Losses
from launcher.nodes.messages import (
    Answer,
    Ask,
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
    Settled,
    Still,
    Stop,
    Stopping,
    Waiting,
)
from launcher.nodes.questions import Questions
from launcher.nodes.rivals import Rivals
from launcher.nodes.roster import Entry, Roster
from launcher.nodes.rules import LOST_CODE, OWN, RESUME_S, Past, Route, Rules

# A node that lives must have told by then how its ranks ended, unless they may save something.
_SETTLE_S = 30.0

# How long the nodes wait for each other to hear how the run has ended.
_FAREWELL_S = 2.0


class Rendezvous:
    """The coordinator's state. Keys stand for connections; each method takes the time."""

    def __init__(self, rules: Rules, now: float, past: Past | None = None) -> None:
        """past: of a coordinator that was lost; then the attempt's ending is taken over."""
        self.rules = rules
        self.outbox: list[tuple[int, Message]] = []
        # Lines for the user of the coordinator's node.
        self.news: list[str] = []
        self._phase = "ending" if past else "gathering"
        self._since = now
        self._roster = Roster(rules.node_timeout_s, now)
        self._gathering = Gathering(rules, self._roster)
        self._layout = Layout(rules, self._roster, past.address if past else "")
        self._ending = _take_over(past) if past else Ending(-1, Losses(0), is_taken_over=False)
        self._judge = Judge(rules, past.num_failures if past else 0, now)
        self._audience = Audience(self._roster)
        self._questions = Questions()
        self._rivals = Rivals(self._roster)

    @property
    def is_over(self) -> bool:
        return self._phase == "over"

    @property
    def keys(self) -> Collection[int]:
        """The keys of the nodes that take part or wait for a place."""
        return self._roster.keys

    @property
    def has_listeners(self) -> bool:
        """Whether nodes are here still, or must come again, to hear how the run has ended."""
        return self._audience.is_waiting or any(key != OWN for key in self._roster.keys)

    def waits_for(self, key: int) -> bool:
        """Tell whether a node is still needed, or still to hear something."""
        return key in self._roster and (self._audience.lacks(key) or not self.is_over)

    @property
    def generation(self) -> int:
        """The number of the attempt that goes on, or was the last; -1 before the first."""
        return self._ending.generation

    def door(self, key: int) -> tuple[str, int]:
        """Return the address and port at which a node listens as long as its supervisor lives."""
        node = self._roster[key]
        return node.launcher_host, node.join.port

    def handle(self, key: int, message: Message, now: float, route: Route | None = None) -> None:
        """Take a message of the node behind a connection. route: with a `Join`."""
        self._roster.doubts.look_at_clock(now)
        if isinstance(message, Join):
            self._join(key, message, route or Route(), now)
        else:
            self._take(key, message, now)
        self._answer_rivals(now)

    def _take(self, key: int, message: Message, now: float) -> None:
        """Take a message of a node that has joined."""
        node = self._roster.get(key)
        if node is None:
            if isinstance(message, (Heard, Leave)):
                self._send(key, Farewell())
            elif isinstance(message, Ping) and key in self._rivals:
                self._send(key, Pong())
            return
        node.heard_at = now
        if isinstance(message, Ping):
            self._send(key, Pong())
        elif isinstance(message, Ask):
            passed = self._questions.pass_on(key, message)
            self.outbox += [(other, passed) for other, _ in self._roster.active if other != key]
        elif isinstance(message, Answer):
            self._bring_back(message)
        elif isinstance(message, Leave):
            self._send(key, Farewell())
            self._remove(key, message.reason, now, is_dead=True)
        elif isinstance(message, Forsake):
            self._remove(key, "it has turned to another coordinator", now, is_dead=False)
        elif isinstance(message, Heard):
            self.outbox += self._audience.note_heard(key)
        elif isinstance(message, Decided):
            self._adopt(key, message, now)
        elif isinstance(message, Ready):
            self._note_ready(key, node, message, now)
        elif isinstance(message, Stopping):
            if not node.is_spare:  # in whichever attempt: the run is to stop
                self._stop(key, node, message, now)
        elif isinstance(message, (Failing, Still, Settled)):
            self._hear_of_attempt(key, node, message, now)

    def _hear_of_attempt(
        self, key: int, node: Entry, message: Failing | Still | Settled, now: float
    ) -> None:
        """Take what a node says about an attempt, if it is the one that goes on or was the last."""
        if message.generation != self.generation or node.is_spare:
            return
        if isinstance(message, Failing):
            what = "nothing moves" if message.is_hang else "a rank has failed"
            self._end_attempt(f"{what} on {node}", now, is_hang=message.is_hang)
        elif isinstance(message, Still):
            if self._ending.note_still(key, is_still=message.is_still):
                self._end_attempt("nothing moves on any node", now, is_hang=True)
        elif self._phase in ("running", "ending"):
            outcome = self._ending.settle(key, node, message, now)
            if not outcome.succeeded:
                self._end_attempt(f"a rank has failed on {node}", now)
            self._decide_if_known(now)

    def lose(self, key: int, why: str, now: float, *, is_dead: bool) -> None:
        """Take note that the connection of a node is closed; is_dead: its supervisor has ended.

        Else it will come again.
        """
        self._roster.doubts.look_at_clock(now)
        # One that was stopped itself does not know what was while the other still lived.
        is_dead = is_dead and not self._roster.doubts.last(now)
        node = self._roster.get(key)
        if node is not None and not node.is_spare and not is_dead:
            self._roster.expect(node.join.member, now + RESUME_S)
        self._rivals.forget(key)
        self._remove(key, why, now, is_dead=is_dead)
        self._answer_rivals(now)

    def find_absent(self, now: float) -> list[Deputy]:
        """Return the nodes that have not come yet to this successor of their coordinator.

        They may have ended with it. None where that cannot be found out any more.
        """
        is_open = self._phase == "ending" and self._ending.is_taken_over
        return self._ending.find_absent(self._roster.active_ranks, now) if is_open else []

    def bury(self, absent: Deputy, why: str, now: float) -> None:
        """Take note that the supervisor of a node that has not come yet has ended."""
        self._roster.doubts.look_at_clock(now)
        if absent in self.find_absent(now) and not self._roster.doubts.last(now):
            self._ending.bury(absent, why, now)
            self._decide_if_known(now)

    def tick(self, now: float) -> None:
        """See whether anything is due."""
        self._roster.doubts.look_at_clock(now)
        for key, node in list(self._roster.items):
            if key != OWN and now - node.heard_at > self.rules.node_timeout_s:
                silent = f"nothing was heard of it for {now - node.heard_at:.1f} s"
                goodbye = f"{silent.replace('it', 'this node')}: the others go on without it"
                self._send(key, Refused(goodbye, "", LOST_CODE))
                self._remove(key, silent, now, is_dead=False)
        waited_s = now - self._since
        if self._phase == "gathering":
            self._go_on_or_end(now)
            if self._phase == "gathering":
                self._wait_for_others(waited_s)
        elif self._phase == "ending":
            if self._ending.is_taken_over and waited_s >= RESUME_S:
                self._ending.losses.count_missing(self._roster.active_ranks, now)
            if waited_s >= _SETTLE_S and not self._ending.signum:
                self._ending.wait_for_nobody()
        elif self._phase == "over" and waited_s >= _FAREWELL_S:
            self.outbox += self._audience.give_up()
        self._decide_if_known(now)
        self._answer_rivals(now)

    # --- who comes ------------------------------------------------------------------------------

    def _join(self, key: int, join: Join, route: Route, now: float) -> None:
        self._roster.welcome(join.member)
        before = self._roster.find_key(join.member)
        if before is not None:
            self._remove(before, "it has come again", now, is_dead=False)
        resumes = join.generation >= 0
        refusal = self._find_refusal(join)
        if refusal is not None and not (resumes and self._audience.end):
            if self._has_to_wait(key, join, route, now):
                return
            self._send(key, refusal)
            self._gathering.note_refusal(refusal)
            self.news.append(f"{join.hostname} was refused: {refusal.message}")
            return
        if resumes and self.generation < 0 and self._phase == "gathering":
            # Its run had another coordinator here, and goes on at the one that follows that.
            self._send(key, Leave("another launcher has its place", was_lost=True))
            return
        node = self._roster.add(key, join, route, now)
        if resumes:
            self._resume(key, node, now)
        if self._phase == "gathering":
            self._start_if_possible(now)
            if self._phase != "gathering" or self.generation < 0:
                return
        if node.is_spare and self._phase != "over":
            self._keep_waiting(key, node, now)

    def _has_to_wait(self, key: int, join: Join, route: Route, now: float) -> bool:
        """Tell whether it has to be found out first that who has this node's rank is there."""
        holder = None if self.is_over else self._rivals.take_in(key, join, route, now)
        if holder is None:
            return False
        self._send(holder, Pong())  # a host that has started anew refuses that at once
        return True

    def _answer_rivals(self, now: float) -> None:
        """Take in, or refuse, those of whom it is known by now whether their rank is free."""
        for key, join, route in self._rivals.take_settled(is_over=self.is_over):
            self._join(key, join, route, now)

    def _find_refusal(self, join: Join) -> Refused | None:
        if self._phase == "over":
            return Refused("this run has ended already", "Start it again on all nodes.", LOST_CODE)
        return self._gathering.find_refusal(join)

    def _resume(self, key: int, node: Entry, now: float) -> None:
        """Take in a node that has lost the last coordinator, be it late."""
        join = node.join
        self._judge.learn(join.num_failures, now)
        if self._audience.end is not None:
            node.rank = -1
            self._audience.come_late(key, join.member)
            self._send(key, self._audience.end)
            return
        self._gathering.wait_for(key)
        self._send(key, Pong())  # so that it knows who coordinates
        is_takeover = self._ending.is_taken_over and self._phase == "ending"
        has_part = self._ending.take_back(key, node, is_takeover=is_takeover)
        if has_part:
            self._roster.count()
        else:
            node.rank = -1
        if self._phase == "gathering" or not has_part:
            # It comes late: another attempt is decided, or goes on already.
            self._ending.turn_down(key, node)
            if self._phase == "gathering":
                self._ending.generation = self._ending.next_generation - 1
            self._send(key, self._judge.tell_latecomer(join.generation))

    def _keep_waiting(self, key: int, node: Entry, now: float) -> None:
        """Let a newcomer in by a restart, where there is a place for it; else it waits."""
        is_running = self._phase == "running"
        reason = self._gathering.explain_waiting(is_running=is_running)
        self._send(key, Waiting(reason, self._layout.deputies))
        if is_running and self._gathering.has_place and self.rules.rescales_now:
            self._ending.note_newcomer(node.join.hostname)
            self._end_attempt(f"{node.join.hostname} has come", now)

    # --- an attempt begins ----------------------------------------------------------------------

    def _note_ready(self, key: int, node: Entry, message: Ready, now: float) -> None:
        if message.generation == node.generation + 1:
            self._gathering.note_ready(key)
            node.join = node.join._replace(master_port=message.master_port, horovod=message.horovod)
            self._start_if_possible(now)

    def _start_if_possible(self, now: float) -> None:
        if self._phase != "gathering":
            return
        chosen = self._gathering.choose(now, is_first=self.generation < 0)
        if not chosen:
            return
        self._phase, self._since = "running", now
        keys, generation = [key for key, _ in chosen], self._ending.next_generation
        self._ending = Ending(generation, Losses(len(keys)), keys, is_taken_over=False)
        self._roster.seat(chosen, generation)
        self.outbox += self._layout.assign(chosen, generation, self._judge.num_failures)
        if spares := self._roster.spares:
            waiting = Waiting(self._gathering.explain_spare(), self._layout.deputies)
            self.outbox += [(key, waiting) for key in spares]

    def _go_on_or_end(self, now: float) -> None:
        """Start the next attempt if all is ready for it, or end where others may go on, too."""
        if self.generation < 0 or self._roster.is_unsure(now) or self._may_go_on():
            self._start_if_possible(now)
        else:
            self._end_smaller_part(now)

    def _wait_for_others(self, waited_s: float) -> None:
        """Let the user know for what all wait, and end where it has been in vain."""
        if waited_s >= self.rules.join_timeout_s:
            self._send_all(self._gathering.explain_failure())
            self._phase = "over"
        elif delay := self._gathering.explain_delay(waited_s):
            self.news.append(delay)

    def _may_go_on(self) -> bool:
        """Tell whether no other part of the run can go on, too."""
        return self._ending.may_go_on(self._roster.num_active)

    # --- an attempt ends ------------------------------------------------------------------------

    def _end_attempt(self, reason: str, now: float, *, is_hang: bool = False) -> None:
        """Let all ranks end; the first reason counts."""
        if self._phase == "running":
            self._phase, self._since = "ending", now
            self._tell_all(Stop(self.generation, reason, is_hang=is_hang))

    def _remove(self, key: int, why: str, now: float, *, is_dead: bool) -> None:
        node = self._forget(key)
        if node is None:
            return
        if self._audience.lacks(key) and not is_dead:
            self._audience.be_absent(key, node.join.member)
        else:
            self.outbox += self._audience.note_heard(key)
        if key == OWN and self._phase == "gathering":
            # Whoever has come looks for another coordinator, as if there had been none yet.
            self._roster.clear()
            self._phase = "over"
            return
        if node.is_spare or self._phase == "over":
            if self._phase == "gathering":
                self.news.append(f"{node.join.hostname} has gone again: {why}")
                self._start_if_possible(now)
            return
        loss = self._ending.lose(node, why, now, is_dead=is_dead)
        if not loss.is_done:
            self._end_attempt(str(loss), now)
        if self._phase == "gathering":
            # Between two attempts nothing of it is left to end.
            self.news.append(str(loss))
            self._go_on_or_end(now)
            return
        self._decide_if_known(now)

    def _forget(self, key: int) -> Entry | None:
        node = self._roster.forget(key)
        if node is not None:
            self._ending.part_with(key, node)
            self._gathering.note_ready(key)
        return node

    def _adopt(self, key: int, verdict: Decided, now: float) -> None:
        """Take over what the lost coordinator had decided, and told some of the nodes."""
        is_final = verdict.action != "restart"
        if self._phase == "over" or (not is_final and verdict.generation != self.generation):
            return
        if is_final:
            self._audience.note_knowing(key)
        self._ending.bring(key, verdict)
        if is_final and self._phase in ("gathering", "running"):
            self._end_attempt("the run has ended", now)
            self._decide(now)
        else:
            self._decide_if_known(now)

    def _decide_if_known(self, now: float) -> None:
        is_open = self._phase in ("running", "ending")
        is_known = is_open and self._ending.is_known(self._roster.num_active)
        if is_known and not self._roster.is_unsure(now):
            self._decide(now)

    def _decide(self, now: float) -> None:
        """Make one verdict of all accounts, and tell it to everybody."""
        ending = self._ending
        ending.losses.count_missing(self._roster.active_ranks, now)
        self._count_leavers()
        brought = ending.brought
        if brought is None or (ending.signum and brought.action == "restart"):
            nodes = [node for _, node in self._roster.active]
            self._announce(self._judge.judge(ending, nodes, now), now)
        elif brought.action != "restart" or self._may_go_on():
            self._tell(brought, now)
        else:
            self._end_smaller_part(now)

    def _end_smaller_part(self, now: float) -> None:
        """End here what is left of the run between two attempts."""
        nodes = [node for _, node in self._roster.active]
        self._announce(self._judge.judge_smaller_part(self._ending, nodes), now)

    # --- who leaves -----------------------------------------------------------------------------

    def _stop(self, key: int, node: Entry, message: Stopping, now: float) -> None:
        """Let all ranks of all nodes know, once, that somebody has asked one of them to stop.

        Where the others are enough to go on, only that node leaves.
        """
        signum = message.signum
        if node.leaves_for or self._phase == "over":
            return
        if self._ending.signum:
            if message.is_forced and not self._ending.is_forced:
                self._ending.is_forced = True
                self._tell_all(Stop(self.generation, "", signum, is_forced=True))
            return
        reason = f"{node} received {signal_name(signum)}"
        if not message.is_for_all and self._may_leave():
            self._roster.let_leave(key, signum)
            if self._phase == "gathering":
                self.news.append(f"{reason} and has left")
                self._dismiss(now)
            else:
                self._end_attempt(f"{reason} and leaves", now)
            return
        self._ending.signum = signum
        if self._phase == "gathering":
            self._announce(self._judge.judge_stop(signum, reason, self._ending), now)
            return
        if self._phase == "running":
            self._phase, self._since = "ending", now
        self._tell_all(Stop(self.generation, reason, signum))

    def _may_leave(self) -> bool:
        """Tell whether the run can go on without another node that is asked to stop."""
        if self._ending.is_taken_over and self._phase == "ending":
            return self.rules.is_elastic  # the others may be on their way; see `_count_leavers`
        return self.rules.is_elastic and self._roster.can_spare(1, self.rules.min_nodes)

    def _count_leavers(self) -> None:
        """Stop the run where those that leave do not leave enough others behind."""
        leaving = self._roster.leavers
        if leaving and not self._roster.can_spare(0, self.rules.min_nodes):
            self._ending.signum = leaving[0][1].leaves_for
            self._roster.let_stay()

    def _dismiss(self, now: float) -> None:
        """Let those go that leave, between two attempts; who coordinates says so to the others."""
        for key, node in self._roster.leavers:
            self._send(key, self._judge.release(node, self._ending))
            self._ending.losses.bury([node.rank])
            if key == OWN:
                self._hand_over(f"it received {signal_name(node.leaves_for)}")
            else:
                self._forget(key)
        if OWN not in self._roster:
            self._hand_over("it has left")
        self._start_if_possible(now)

    def _hand_over(self, why: str) -> None:
        """Leave the run, which goes on, to the others."""
        message = Leave(why, self._ending.losses.dead)
        self.outbox += [(key, message) for key in self._roster.keys if key != OWN]
        self._phase = "over"

    # --- what is told ---------------------------------------------------------------------------

    def _announce(self, judgement: Judgement, now: float) -> None:
        """Tell all nodes what follows the attempt."""
        nodes = [node for _, node in self._roster.active]
        self._tell(self._judge.put_in_words(judgement, self._ending, nodes), now)

    def _tell(self, decided: Decided, now: float) -> None:
        """Tell a verdict to all nodes that do not know it."""
        self._since = now
        if decided.action == "restart":
            self._phase = "gathering"
            self._gathering.begin()
            decided = decided._replace(is_reporter=False)
            for key, node in self._roster.active:
                if not node.leaves_for:
                    self._send(key, decided._replace(generation=node.generation))
            self._dismiss(now)
        else:
            self._phase = "over"
            lingers = self._ending.is_taken_over and self._ending.losses.has_missing
            self.outbox += self._audience.gather(decided, lingers=lingers)

    def _bring_back(self, answer: Answer) -> None:
        answered = self._questions.bring_back(answer)
        if answered is not None and answered[0] in self._roster:
            self.outbox.append(answered)

    def _send(self, key: int, message: Message) -> None:
        self.outbox.append((key, message))

    def _send_all(self, message: Message) -> None:
        self.outbox += [(key, message) for key in self._roster.keys]

    def _tell_all(self, message: Message) -> None:
        """Send a message to the nodes of the attempt."""
        nodes = self._roster.items
        self.outbox += [(key, message) for key, node in nodes if not node.is_spare]


def _take_over(past: Past) -> Ending:
    """Return the ending of the attempt in which a coordinator was lost."""
    ending = Ending(past.generation, Losses(past.num_nodes, past.losses), is_taken_over=True)
    ending.losses.bury(past.dead)
    ending.expect(past.absent, past.absent_until)
    return ending
