"""A node that comes again when the run has gone on without it."""

from __future__ import annotations

from launcher.nodes.messages import Decided
from tests.unit.nodes.test_leaving import join, make_run, of_kind, said, settle


def test_a_node_that_knows_of_a_later_attempt_does_not_change_the_number_of_ours() -> None:
    run = make_run(1)
    run.rules = run.rules._replace(max_nodes=2)
    late = join("late", generation=4, old_rank=1, num_nodes=2, min_nodes=1, max_nodes=1)
    run.handle(1, late, 1.0)
    assert of_kind(said(run), Decided)[1].action == "restart"
    settle(run, 0)
    assert of_kind(said(run), Decided)[0].action == "finish"
