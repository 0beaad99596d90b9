"""Ranks on several hosts find each other with torch, whatever their hosts call themselves."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.conftest import Completed
from tests.engines import needs_torch
from tests.lab.lab import Lab
from tests.nodes.conftest import PRELUDE

pytestmark = [pytest.mark.slow, needs_torch]

RunNodes = Callable[..., dict[str, Completed]]

# Gloo asks for its host's own name unless it is told an interface.
ALL_REDUCE = PRELUDE + (
    "import torch, torch.distributed as dist\n"
    "dist.init_process_group('gloo')\n"
    "x = torch.full((4,), float(RANK))\ndist.all_reduce(x)\n"
    "say(f'sum {x[0].item():g}')\n"
    "dist.destroy_process_group()\n"
)


def test_they_do_where_hosts_are_wrong_about_their_own_name_or_do_not_know_it(
    lab: Lab, run_nodes: RunNodes
) -> None:
    h1, h2, h3 = lab.hosts
    h1.set_names({**h1.names, "h1": "127.0.1.1"})  # as Debian has it
    h2.set_names({"localhost": "127.0.0.1", "h1": h1.address})
    h3.set_names({**h3.names, "h3": "127.0.0.1"})
    done = run_nodes(ALL_REDUCE, "--nproc-per-node", "1", hosts=("h1", "h2", "h3"))
    assert [one.code for one in done.values()] == [0, 0, 0], done
    assert [one.out.count("sum 3") for one in done.values()] == [1, 1, 1]


def test_they_do_with_ipv6_alone(lab: Lab, run_nodes: RunNodes) -> None:
    lab.use_ipv6()
    done = run_nodes(ALL_REDUCE, "--nproc-per-node", "2")
    assert [one.code for one in done.values()] == [0, 0], done
    assert [one.out.count("sum 6") for one in done.values()] == [2, 2]
