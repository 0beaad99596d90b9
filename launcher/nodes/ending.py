"""How an attempt ends at its nodes: who has told it, who was lost, why it was ended. Pure.

There is one for each attempt, and one for what a successor takes over of a lost coordinator's last.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from launcher.diagnosis.cause import is_secondary
from launcher.diagnosis.outcome import AttemptOutcome
from launcher.nodes.account import merge, read_account
from launcher.nodes.losses import Loss, Losses
from launcher.nodes.messages import Decided, Deputy, Settled
from launcher.nodes.roster import Entry

# What it may take until the end of a connection is heard of: what failed so shortly before may have
# failed of it.
_AT_ONCE_S = 0.1


class Ending:
    """What is known of one attempt's end."""

    def __init__(
        self, generation: int, losses: Losses, keys: Collection[int] = (), *, is_taken_over: bool
    ) -> None:
        """keys: of its nodes. is_taken_over: whether a coordinator was lost in it."""
        # The number of the attempt; -1 before the first.
        self.generation = generation
        # The highest number of an attempt that a node knows of which has come too late for it.
        self._known_generation = generation
        self.losses = losses
        self.is_taken_over = is_taken_over
        # Those that may have ended with a lost coordinator; until when that can be said of them.
        self._absent: tuple[Deputy, ...] = ()
        self._absent_until = 0.0
        # The signal for which it ends; 0 for none.
        self.signum = 0
        # What a lost coordinator had decided, and told some of the nodes.
        self.brought: Decided | None = None
        self._newcomers: tuple[str, ...] = ()
        # The keys of its nodes that have not told yet how it ended there.
        self._unsettled = set(keys)
        # The keys of its nodes where something moves, and where it has not ended.
        self._moving = set(keys)
        # Whether all were told that nobody is to wait for ranks that take their time.
        self.is_forced = False
        # How it has ended at nodes that were lost after they had told it, by node rank.
        self._left_outcomes: dict[int, AttemptOutcome] = {}

    def note_newcomer(self, hostname: str) -> None:
        """Take note of a node for which all ranks start again."""
        self._newcomers += (hostname,)

    # --- who has told how it ended --------------------------------------------------------------

    def bring(self, key: int, verdict: Decided) -> None:
        """Take over what the lost coordinator had decided, and told this node."""
        is_final = verdict.action != "restart"
        if self.brought is None or (is_final and not self.brought.is_reporter):
            self.brought = verdict
        self._unsettled.discard(key)

    def wait_for_nobody(self) -> None:
        """Judge by what has been told so far."""
        self._unsettled.clear()

    def note_still(self, key: int, *, is_still: bool) -> bool:
        """Return whether nothing moves at any node: at this one nothing has, or something does."""
        if is_still:
            self._moving.discard(key)
        else:
            self._moving.add(key)
        return not self._moving

    def settle(self, key: int, node: Entry, message: Settled, now: float) -> AttemptOutcome:
        """Return how it has ended at a node, by its account; now: when that came."""
        try:
            dated = now - float(message.account.get("latency", 0.0))
            outcome = read_account(message.account, node.join.hostname, self.generation, dated)
        except (ValueError, TypeError, OverflowError):
            failure = f"{node} has told what is no account of an attempt"
            outcome = AttemptOutcome(self.generation, (), node_failure=failure)
        node.outcome = outcome
        self._unsettled.discard(key)
        self._moving.discard(key)
        return outcome

    def part_with(self, key: int, node: Entry) -> None:
        """Keep what a node has told that is not here any more."""
        if node.outcome is not None:
            self._left_outcomes[node.rank] = node.outcome
        self._unsettled.discard(key)
        self._moving.discard(key)

    def lose(self, node: Entry, why: str, now: float, *, is_dead: bool) -> Loss:
        """Return the loss of a node that had a part in the attempt, and take note of it."""
        at = now - _AT_ONCE_S if is_dead else node.heard_at
        is_done = node.outcome is not None and node.outcome.succeeded
        has_left = node.leaves_for > 0
        loss = Loss(node.rank, node.join.hostname, why, at, is_dead, is_done, has_left)
        self.losses.add(loss)
        return loss

    def expect(self, absent: tuple[Deputy, ...], until: float) -> None:
        """Take note of who must come to the successor of a lost coordinator, unless it has ended.

        until: when they could have gone on without that one, and ended well.
        """
        self._absent, self._absent_until = absent, until

    def find_absent(self, here: Collection[int], now: float) -> list[Deputy]:
        """Return who has not come yet: `here` are the node ranks that have."""
        if now >= self._absent_until:
            return []
        known = {*here, *self.losses.dead}
        absent = [each for each in self._absent if each.node_rank not in known]
        return [each for each in absent if each.node_rank not in self.losses]

    def bury(self, absent: Deputy, why: str, now: float) -> None:
        """Take note that somebody will not come, as it has ended."""
        self.losses.add(Loss(absent.node_rank, absent.hostname, why, now, is_dead=True))

    def take_back(self, key: int, node: Entry, *, is_takeover: bool) -> bool:
        """Let a node that has come again tell it once more, if it has a part in it.

        is_takeover: whether all nodes come, because the coordinator was lost.
        """
        join = node.join
        if is_takeover and join.generation > self.generation:
            # The lost coordinator had begun another attempt, but not told all of it.
            self.generation, self.brought = join.generation, None
            self._absent = ()  # they may have other ranks there
            self.losses.num_nodes = join.num_nodes
            self._unsettled.clear()
        is_same = join.generation == self.generation
        is_back = is_same and self.losses.find(node.rank)
        if not (is_takeover or is_back):
            return False
        self._left_outcomes.pop(node.rank, None)
        self.losses.bury(join.dead)
        if is_same:
            self._unsettled.add(key)
        return True

    @property
    def next_generation(self) -> int:
        """The number of the next attempt: higher than any that a node has had a part in."""
        return max(self.generation, self._known_generation) + 1

    def turn_down(self, key: int, node: Entry) -> None:
        """Expect nothing of a node that comes too late, but its next attempt is a later one."""
        self._unsettled.discard(key)
        self._known_generation = max(self._known_generation, node.join.generation)

    def is_known(self, num_here: int) -> bool:
        """Tell whether all have told it that are not lost; num_here: how many of its nodes are.

        Others may be on their way to the successor of their coordinator.
        """
        return not self._unsettled and num_here + len(self.losses) >= self.losses.num_nodes

    # --- what that means ------------------------------------------------------------------------

    def merge(self, nodes: Sequence[Entry], *, may_go_on: bool) -> AttemptOutcome:
        """Return what has happened over all nodes; `nodes` are those of it that are left."""
        outcomes = [node.outcome for node in nodes if node.outcome is not None]
        outcomes += self._left_outcomes.values()
        outcome = merge(outcomes, self.generation)._replace(signum=self.signum or None)
        outcome = self.losses.blame(outcome)
        if outcome.succeeded:
            unknown = next((node for node in nodes if node.outcome is None), None)
            if unknown is not None:
                failure = f"{unknown} has not told how its ranks ended"
                return outcome._replace(node_failure=failure)
            if not may_go_on:
                return outcome._replace(node_failure=f"the others were lost: {self.losses}")
        return outcome

    def changes(self, nodes: Iterable[Entry]) -> list[str]:
        """Return who has come or leaves, in words; `nodes` are those of it that are left."""
        leaving = [str(node) for node in nodes if node.leaves_for]
        leaving += self.losses.leavers
        come = [f"{', '.join(self._newcomers)} has come"] if self._newcomers else []
        return [*come, *([f"{', '.join(leaving)} has left"] if leaving else [])]

    def is_rescale(self, outcome: AttemptOutcome, nodes: Iterable[Entry]) -> bool:
        """Tell whether it was only ended because nodes have come, or leave."""
        if not self.changes(nodes) or outcome.node_failure or outcome.hang:
            return False
        if outcome.succeeded and all(w.asked_to_stop_at is None for w in outcome.workers):
            return False  # it was over already
        return all(worker.failed_at is None or is_secondary(worker) for worker in outcome.workers)

    def may_go_on(self, num_here: int) -> bool:
        """Tell whether no other part of the run can go on, too."""
        return self.losses.leave_larger_part(num_here, is_coordinators=not self.is_taken_over)
