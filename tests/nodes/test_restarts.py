"""`--max-restarts` over several nodes: all start again together, and count together."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from tests.conftest import Completed
from tests.engines import needs_torch
from tests.nodes.conftest import PRELUDE, find_report

pytestmark = pytest.mark.slow

RunNodes = Callable[..., dict[str, Completed]]
BY_RANK = {host: ("--node-rank", str(number)) for number, host in enumerate(("h1", "h2"))}
AT_ONCE = ("--restart-backoff", "0")

SAY_MASTER = PRELUDE + "say('master ' + os.environ['MASTER_PORT'])\n"


def test_the_count_is_the_same_on_all_nodes_whichever_of_them_fails(run_nodes: RunNodes) -> None:
    # Attempts 0 and 2 end on node 0, attempt 1 ends on node 1.
    text = SAY_MASTER + (
        "meet()\nif RANK == ATTEMPT % 2:\n    sys.exit(10 + ATTEMPT)\nsignal.pause()\n"
    )
    done = run_nodes(text, "--max-restarts", "2", *AT_ONCE, only=BY_RANK)
    assert {one.code for one in done.values()} == {12}
    assert "FAILED: rank 0 " in find_report(done)
    ports = []
    for rank, (name, one) in enumerate(done.items()):
        said = re.findall(r"attempt (\d): rank (\d) of 2 on", one.out)
        assert said == [(str(attempt), str(rank)) for attempt in range(3)], name
        ports.append(re.findall(r"master (\d+)", one.out))
    # One port for an attempt, and never one that another attempt has had.
    assert ports[0] == ports[1] and len(set(ports[0])) == 3


def test_all_end_with_0_after_a_restart_that_helped(run_nodes: RunNodes) -> None:
    text = PRELUDE + "meet()\nsys.exit(7 if RANK == 1 and ATTEMPT < 2 else 0)\n"
    done = run_nodes(text, "--max-restarts", "5", *AT_ONCE, only=BY_RANK)
    assert {one.code for one in done.values()} == {0}, done
    assert all("FAILED" not in one.err for one in done.values())
    assert all(re.findall(r"attempt \d", one.out)[-1] == "attempt 2" for one in done.values())


def test_what_cannot_heal_is_not_tried_again(run_nodes: RunNodes) -> None:
    done = run_nodes("import no_such_module\n", "--max-restarts", "5", only=BY_RANK)
    assert {one.code for one in done.values()} == {1}
    assert "another attempt would meet the same ModuleNotFoundError" in find_report(done)


# torchrun's nodes shut the rendezvous when they stop their ranks for a restart, so the next attempt
# finds it closed (pytorch/pytorch#123678); and a store that survives a collective has the addresses
# of ranks that are gone. Asked for: that a restart works, and goes on doing so.
@needs_torch
def test_ranks_that_have_talked_to_each_other_start_again_and_talk_again(
    run_nodes: RunNodes,
) -> None:
    text = PRELUDE + (
        "import torch, torch.distributed as dist\n"
        "dist.init_process_group('gloo')\n"
        "x = torch.ones(1)\ndist.all_reduce(x)\nassert x.item() == WORLD_SIZE\n"
        "say(f'reduced {ATTEMPT}')\nmeet()\n"
        "if RANK == ATTEMPT % 2 and ATTEMPT < 3:\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        "dist.barrier()\ndist.destroy_process_group()\n"
    )
    done = run_nodes(text, "--max-restarts", "3", *AT_ONCE, only=BY_RANK)
    assert {one.code for one in done.values()} == {0}, done
    for one in done.values():
        assert re.findall(r"reduced (\d)", one.out) == ["0", "1", "2", "3"], done
