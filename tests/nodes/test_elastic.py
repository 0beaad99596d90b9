"""`--nnodes MIN:MAX`: nodes that are lost, leave, come and come again.

Much of this is what users of torchrun have asked for: see the sources at the tests.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conftest import Running, wait_until
from tests.engines import needs_torch
from tests.lab.lab import Lab
from tests.nodes.conftest import PRELUDE, SOON_S, WAITING, Job, StartNodes, find_report, kill

pytestmark = pytest.mark.slow

ALL = ("h1", "h2", "h3")
NODE_TIMEOUT_S = 2
OPTIONS = (
    *("--max-restarts", "5", "--restart-backoff", "0", "--node-timeout", str(NODE_TIMEOUT_S)),
    *("--rdzv-conf", "last_call_timeout=0.5,join_timeout=20"),
)
# Where all are to be there from the start, however busy the machine is.
WITH_ALL = ("--rdzv-conf", "last_call_timeout=20,join_timeout=20")


def add(job: Job, start_nodes: StartNodes, host: str, nnodes: str, *options: str) -> Running:
    """Start a node that comes later, or comes again; what an earlier one has said is forgotten."""
    job.nodes[host] = start_nodes(WAITING, *OPTIONS, *options, hosts=(host,), nnodes=nnodes)[host]
    return job[host]


def start_elastic(
    start_nodes: StartNodes, nnodes: str, hosts: Sequence[str], *options: str, text: str = WAITING
) -> Job:
    """Start so many nodes, and wait until all their ranks run; the first is node 0."""
    patience = WITH_ALL if nnodes.endswith(str(len(hosts))) else ()
    job = start_nodes(text, *OPTIONS, *patience, *options, hosts=hosts, nnodes=nnodes)
    job.wait_for_ranks(len(hosts))
    return job


def places(job: Job, attempt: int, hosts: Sequence[str]) -> dict[str, int]:
    """Return the rank of each host in an attempt."""
    found = {}
    for host in hosts:
        for line in job[host].out.splitlines():
            if f"attempt {attempt}: rank " in line:
                found[host] = int(line.partition(f"attempt {attempt}: rank ")[2].split()[0])
    return found


def end_well(job: Job, hosts: Sequence[str]) -> None:
    """Let the ranks end; all launchers on these hosts must end with 0."""
    job.end()
    codes = {host: job[host].finish().code for host in hosts}
    assert codes == dict.fromkeys(hosts, 0), job.show()


def test_a_run_starts_with_those_that_have_come_and_takes_newcomers_at_once(
    start_nodes: StartNodes,
) -> None:
    job = start_elastic(start_nodes, "2:3", ("h1", "h2"))
    before = places(job, 0, ("h1", "h2"))
    add(job, start_nodes, "h3", "2:3")
    job.wait_for_ranks(3, attempt=1)
    # Those that were there keep their ranks.
    assert places(job, 1, ALL) == {**before, "h3": 2}
    end_well(job, ALL)


def test_a_newcomer_waits_for_the_next_restart_where_that_was_asked_for(
    start_nodes: StartNodes, tmp_path: Path
) -> None:
    text = PRELUDE + (
        "if RANK == 1 and ATTEMPT == 0:\n    wait('fail')\n    sys.exit(3)\nwait('end')\n"
    )
    job = start_elastic(start_nodes, "2:3", ("h1", "h2"), "--rescale", "next", text=text)
    job.nodes["h3"] = start_nodes(text, *OPTIONS, "--rescale", "next", hosts=("h3",), nnodes="2:3")[
        "h3"
    ]
    job["h3"].wait_for("after the next restart")
    assert "attempt 1" not in job.show()
    (tmp_path / "fail").touch()
    job.wait_for_ranks(3, attempt=1)
    end_well(job, ALL)


@pytest.mark.parametrize("lost", ["h1", "h3"])
def test_when_a_launcher_dies_the_others_go_on_without_it_and_take_it_back(
    start_nodes: StartNodes, lost: str
) -> None:
    """Also that of the node where all have met.

    Asked for in pytorch/pytorch#67616: one agent's failure must not be everybody's;
    in #182221: who is left goes on, also when that makes it rank 0;
    in intelligent-machine-learning/dlrover#450: also when it is the node with the rendezvous.
    """
    others = tuple(host for host in ALL if host != lost)
    job = start_elastic(start_nodes, "2:3", ALL)
    before = places(job, 0, others)
    kill(job[lost])
    began = time.monotonic()
    job.wait_for_ranks(2, attempt=1, hosts=others)
    assert time.monotonic() - began < SOON_S
    # dlrover#450, too: ranks are not shuffled, the order of those that stay is what it was.
    after = places(job, 1, others)
    assert sorted(after, key=after.__getitem__) == sorted(before, key=before.__getitem__)
    job[lost].finish()
    # It comes again; whoever has the endpoint now, it is found.
    add(job, start_nodes, lost, "2:3")
    job.wait_for_ranks(3, attempt=2)
    assert places(job, 2, others) == after
    end_well(job, ALL)


def test_the_last_one_goes_on_when_all_others_die_at_one_moment(start_nodes: StartNodes) -> None:
    """It has their word for it that they have ended: their hosts refuse connections."""
    job = start_elastic(start_nodes, "1:3", ALL)
    last = next(host for host, rank in places(job, 0, ALL).items() if rank == 1)
    for host in ALL:
        if host != last:
            kill(job[host])
    job.wait_for_ranks(1, attempt=1, hosts=(last,))
    end_well(job, (last,))


@pytest.mark.parametrize("lost", ["h1", "h2"])
def test_a_node_that_falls_silent_means_a_restart_of_the_others(
    lab: Lab, start_nodes: StartNodes, lost: str
) -> None:
    """Asked for in pytorch/pytorch#111646: a heartbeat that is missing leads to a new rendezvous,
    not to ranks that wait half an hour for the one that is gone; there, too, with a command that is
    not Python.
    """
    others = tuple(host for host in ALL if host != lost)
    say = 'echo "attempt $TORCHELASTIC_RESTART_COUNT: rank $RANK of $WORLD_SIZE on $(hostname)"'
    program = ("--no-python", "sh", "-c", f"{say}; while [ ! -e end ]; do sleep 0.05; done")
    job = start_nodes("", *OPTIONS, *WITH_ALL, hosts=ALL, nnodes="1:3", program=program)
    job.wait_for_ranks(3)
    lab[lost].power_off()
    began = time.monotonic()
    job.wait_for_ranks(2, attempt=1, hosts=others)
    assert time.monotonic() - began < NODE_TIMEOUT_S + SOON_S
    end_well(job, others)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_node_that_is_asked_to_stop_leaves_and_comes_again(
    start_nodes: StartNodes, signum: int
) -> None:
    """Asked for in pytorch/pytorch#67742 and #147064: after SIGTERM or Ctrl-C at one of the nodes
    the others go on at once with fewer ranks, and take it back, again and again; no restart is
    used up by it.
    """
    job = start_elastic(start_nodes, "1:2", ("h1", "h2"), "--max-restarts", "1")
    for attempt in (1, 3):
        job["h2"].send(signum)
        job.wait_for_ranks(1, attempt=attempt, hosts=("h1",))
        assert job["h2"].finish().code == 128 + signum, job.show()
        add(job, start_nodes, "h2", "1:2", "--max-restarts", "1")
        job.wait_for_ranks(2, attempt=attempt + 1)
        assert places(job, attempt + 1, ("h1", "h2")) == {"h1": 0, "h2": 1}
    end_well(job, ("h1", "h2"))


def test_the_node_where_all_have_met_may_leave_too(start_nodes: StartNodes, tmp_path: Path) -> None:
    """Asked for by the same authors: the run does not end with the node of its endpoint."""
    job = start_elastic(start_nodes, "1:2", ("h1", "h2"))
    job["h1"].send(signal.SIGTERM)
    job.wait_for_ranks(1, attempt=1, hosts=("h2",))
    assert job["h1"].finish().code == 143, job.show()
    # What is in the run's folder is not its own to tidy.
    assert list(tmp_path.glob("runs/*/errors/attempt_0")), "the run goes on there"
    end_well(job, ("h2",))


def test_a_signal_ends_all_where_too_few_would_be_left(start_nodes: StartNodes) -> None:
    job = start_elastic(start_nodes, "2:3", ("h1", "h2"))
    job["h2"].send(signal.SIGTERM)
    assert job.codes() == {"h1": 143, "h2": 143}, job.show()


@pytest.mark.parametrize("nnodes", ["2", "1:2"])
def test_a_node_too_many_waits_and_steps_in_for_one_that_is_lost(
    start_nodes: StartNodes, nnodes: str
) -> None:
    """Asked for in pytorch/pytorch#114097: redundant hosts, there before one is needed."""
    job = start_elastic(start_nodes, nnodes, ("h1", "h2"))
    add(job, start_nodes, "h3", nnodes)
    job["h3"].wait_for("steps in when one is lost")
    assert "attempt 1" not in job.show()
    kill(job["h2"])
    began = time.monotonic()
    job.wait_for_ranks(2, attempt=1, hosts=("h1", "h3"))
    assert time.monotonic() - began < SOON_S
    end_well(job, ("h1", "h3"))


def test_a_spare_that_is_not_needed_ends_with_the_run(start_nodes: StartNodes) -> None:
    job = start_elastic(start_nodes, "1:2", ("h1", "h2"))
    add(job, start_nodes, "h3", "1:2")
    job["h3"].wait_for("steps in when one is lost")
    end_well(job, ALL)


def test_with_too_few_left_all_end_with_the_loss_as_the_reason(start_nodes: StartNodes) -> None:
    job = start_elastic(start_nodes, "2:3", ("h1", "h2"))
    kill(job["h2"])
    job["h2"].finish()
    # It waits for another as long as for the first ones; one that comes then is welcome.
    add(job, start_nodes, "h3", "2:3")
    job.wait_for_ranks(2, attempt=1, hosts=("h1", "h3"))
    end_well(job, ("h1", "h3"))


def test_in_a_partition_only_the_larger_part_goes_on(lab: Lab, start_nodes: StartNodes) -> None:
    job = start_elastic(start_nodes, "1:3", ALL)
    lab["h1"].unplug()  # with the coordinator
    job.wait_for_ranks(2, attempt=1, hosts=("h2", "h3"))
    alone = job["h1"].finish()
    assert alone.code == 1, job.show()
    assert "attempt 1" not in alone.out
    assert "no more than half of the nodes can be reached" in alone.err
    end_well(job, ("h2", "h3"))


def test_of_two_nodes_that_cannot_see_each_other_only_the_coordinators_goes_on(
    lab: Lab, start_nodes: StartNodes
) -> None:
    job = start_elastic(start_nodes, "1:2", ("h1", "h2"))
    lab["h2"].unplug()
    job.wait_for_ranks(1, attempt=1, hosts=("h1",))
    alone = job["h2"].finish()
    assert alone.code == 1, job.show()
    assert "attempt 1" not in alone.out
    end_well(job, ("h1",))


def test_a_failure_counts_but_nodes_that_come_and_go_do_not_make_it_another_one(
    start_nodes: StartNodes, tmp_path: Path
) -> None:
    """Asked for in pytorch/pytorch#147064: --max-restarts counts also where nodes come and go."""
    text = PRELUDE + "wait(f'fail{ATTEMPT}')\nsys.exit(20 + ATTEMPT if RANK == 0 else 0)\n"
    one = ("--max-restarts", "1")
    job = start_elastic(start_nodes, "1:2", ("h1",), *one, text=text)
    job.nodes["h2"] = start_nodes(text, *OPTIONS, *one, hosts=("h2",), nnodes="1:2")["h2"]
    job.wait_for_ranks(2, attempt=1)
    for attempt in (1, 2):
        job.wait_for_ranks(2, attempt=attempt)
        (tmp_path / f"fail{attempt}").touch()
    done = job.finish()
    assert {ended.code for ended in done.values()} == {22}, job.show()
    assert "all 1 restarts are used up" in find_report(done)


@needs_torch
def test_ranks_talk_to_each_other_after_each_change(start_nodes: StartNodes) -> None:
    """Also where a node becomes the first one, and has torch's store (pytorch/pytorch#182221)."""
    text = PRELUDE + (
        "import torch, torch.distributed as dist\n"
        "dist.init_process_group('gloo')\n"
        "x = torch.ones(1)\ndist.all_reduce(x)\nsay(f'attempt {ATTEMPT} sum {x.item():g}')\n"
        "wait('end')\ndist.destroy_process_group()\n"
    )
    job = start_elastic(start_nodes, "2:3", ("h1", "h2"), text=text)
    job["h1"].wait_for("attempt 0 sum 2")
    job.nodes["h3"] = start_nodes(text, *OPTIONS, hosts=("h3",), nnodes="2:3")["h3"]
    job["h1"].wait_for("attempt 1 sum 3")
    kill(job["h1"])
    for host in ("h2", "h3"):
        job[host].wait_for("attempt 2 sum 2")
    end_well(job, ("h2", "h3"))


def test_nothing_is_left_on_a_host_whose_launcher_was_lost(
    lab: Lab, start_nodes: StartNodes
) -> None:
    job = start_elastic(start_nodes, "1:2", ("h1", "h2"))
    kill(job["h1"])
    wait_until(lambda: not lab["h1"].processes(), "no rank is left on h1", SOON_S)
    job.wait_for_ranks(1, attempt=1, hosts=("h2",))
    end_well(job, ("h2",))
