"""`python -m launcher.ctl` on any of the hosts is about all nodes of a run."""

from __future__ import annotations

import re
import sys

import pytest

from tests.conftest import Completed
from tests.lab.lab import Lab
from tests.nodes.conftest import WAITING, StartNodes

pytestmark = pytest.mark.slow

CTL = (sys.executable, "-m", "launcher.ctl")


@pytest.mark.parametrize("nnodes", ["2", "1:2"])
def test_every_command_reaches_the_ranks_of_all_nodes(
    lab: Lab, start_nodes: StartNodes, nnodes: str
) -> None:
    job = start_nodes(WAITING, "--rdzv-conf", "last_call_timeout=5", nnodes=nnodes)
    job.wait_for_ranks(2)

    def ctl(host: str, *args: str) -> Completed:
        done = lab[host].run(*CTL, *args)
        assert done.code == 0, done
        return done

    for host in ("h1", "h2"):
        listed = ctl(host, "ps").out
        assert "2/2 ranks running on 2 nodes" in listed, listed
        stacks = ctl(host, "stacks").out
        for rank in (0, 1):
            # It looks for a file again and again: at a line of the script, or in what that calls.
            assert re.search(rf"h{rank + 1}:\nrank {rank}: is .*script\.py:\d", stacks), stacks
    # Also of an elastic run, which the other node could go on with.
    ctl("h2", "stop")
    assert job.codes() == {"h1": 143, "h2": 143}, job.show()
