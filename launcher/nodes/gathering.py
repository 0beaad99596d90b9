"""How nodes come together for an attempt: who may take part, when there are enough, who starts.

Before the first attempt some more time is given to those who may still come; before later ones
it is waited for the ranks of the last attempt, which still end. Pure.
"""

from __future__ import annotations

from launcher.nodes.messages import Join, Refused
from launcher.nodes.roster import Entry, Roster
from launcher.nodes.rules import OWN, PATIENCE_S, RENDEZVOUS_CODE, USAGE_CODE, Rules
from launcher.ranks import format_ranges

# Nobody is counted on for an attempt who has not been heard of for so long: heartbeats come each
# second.
_FRESH_S = 2.5


class Gathering:
    """Since when there are enough nodes, and who of them is not ready yet."""

    def __init__(self, rules: Rules, roster: Roster) -> None:
        self._rules = rules
        self._roster = roster
        self._enough_at: float | None = None
        # The keys of those whose ranks of the last attempt have not ended yet.
        self._unready: set[int] = set()
        # What was said to those that cannot take part, and to the user of what is waited for.
        self._refusals: dict[str, None] = {}
        self._has_told = False

    def begin(self) -> None:
        """Count the time from the next look on: an attempt has been judged."""
        self._enough_at = None
        self._has_told = False

    def note_refusal(self, refusal: Refused) -> None:
        """Take note that a node cannot take part, for those who wait for it in vain."""
        self._refusals[refusal.message] = None

    def wait_for(self, key: int) -> None:
        """Start no attempt before a node has said that it is ready."""
        self._unready.add(key)

    def note_ready(self, key: int) -> None:
        """Take note that a node is ready, or has gone."""
        self._unready.discard(key)

    def choose(self, now: float, *, is_first: bool) -> list[tuple[int, Entry]]:
        """Return the nodes that start an attempt now, in the order of rank; none while they wait.

        is_first: no attempt was before.
        """
        rules = self._rules
        if len(self._roster) < rules.min_nodes:
            self._enough_at = None
            return []
        if self._enough_at is None:
            self._enough_at = now
        if self._unready or self._roster.is_unsure(now):
            return []  # their ranks of the last attempt still end
        is_called = is_first and now - self._enough_at < rules.last_call_s
        if len(self._roster) < rules.max_nodes and is_called:
            return []
        chosen = self._roster.rank_next()[: rules.max_nodes]
        if not all(key == OWN or now - node.heard_at <= _FRESH_S for key, node in chosen):
            return []
        self._enough_at = None
        self._unready = {key for key, _ in chosen}
        return chosen

    def find_refusal(self, join: Join) -> Refused | None:
        """Return why a node cannot take part, or None."""
        rules = self._rules
        here = f"on {rules.hostname}"
        if (join.min_nodes, join.max_nodes) != (rules.min_nodes, rules.max_nodes):
            mine, theirs = _nodes_text(rules), _nodes_text(join)
            return Refused(
                f"--nnodes {theirs} on {join.hostname} contradicts --nnodes {mine} {here}",
                "Type the same number on all nodes.",
                USAGE_CODE,
            )
        own = self._roster.get(OWN)
        if own is None:
            return None
        for name, value in own.join.alike.items():
            other = join.alike.get(name, "")
            if other != value:
                return Refused(
                    f"{name} differs between the nodes: {other or 'none'} on {join.hostname},"
                    f" {value or 'none'} {here}",
                    "Use the same on all nodes.",
                    USAGE_CODE,
                )
        taken = self._roster.find_given(join.node_rank)
        if taken is not None:
            return Refused(
                f"node rank {join.node_rank} is taken by {taken.join.hostname}; {join.hostname}"
                " has the same",
                "Give each node another --node-rank.",
                USAGE_CODE,
            )
        return None

    @property
    def has_place(self) -> bool:
        """Whether the attempt that goes on could have another node."""
        return self._roster.num_active < self._rules.max_nodes

    def explain_waiting(self, *, is_running: bool) -> str:
        """Return why a node has no part yet; is_running: whether an attempt goes on."""
        if not is_running:
            return "this node takes part after the next restart"
        if not self.has_place:
            return self.explain_spare()
        if self._rules.rescales_now:
            return "all ranks start again, so that this node can take part"
        return "this node takes part after the next restart"

    def explain_spare(self) -> str:
        """Return why a node has no part in an attempt that begins."""
        return f"all {self._rules.max_nodes} nodes are there; this one steps in when one is lost"

    def explain_delay(self, waited_s: float) -> str:
        """Return, once, what the user is to know where too few nodes have come for long; or ""."""
        rules = self._rules
        if self._has_told or waited_s < PATIENCE_S or len(self._roster) >= rules.min_nodes:
            return ""
        self._has_told = True
        limit = f"{rules.join_timeout_s:g} s (--rdzv-conf join_timeout=SECONDS)"
        return f"{self._count()}; waiting for others, at most {limit}"

    def explain_failure(self) -> Refused:
        """Return what those are told who have waited in vain for the others."""
        rules = self._rules
        refused = "".join(f" Refused: {text}." for text in self._refusals)
        hint = rules.doubt or (
            "Start the launcher on the others with the same --rdzv-endpoint or --master-addr, or"
            " give them more time: --rdzv-conf join_timeout=SECONDS"
        )
        text = f"In {rules.join_timeout_s:g} s {self._count()}.{refused}"
        return Refused(text, hint, RENDEZVOUS_CODE)

    def _count(self) -> str:
        """Return how many nodes have come, who they are, and the ranks of the others if known."""
        rules = self._rules
        here = sorted(self._roster.nodes, key=lambda node: node.number)
        names = ", ".join(node.join.hostname for node in here)
        given = {node.join.node_rank for node in here}
        missing = sorted(set(range(rules.max_nodes)) - given)
        whom = ""
        if -1 not in given and missing and not rules.is_elastic:
            whom = f"; node rank {format_ranges(missing)} is missing"
        return f"{len(here)} of {_nodes_text(rules)} nodes have come ({names}){whom}"


def _nodes_text(nodes: Rules | Join) -> str:
    low, high = nodes.min_nodes, nodes.max_nodes
    return str(low) if low == high else f"{low}:{high}"
