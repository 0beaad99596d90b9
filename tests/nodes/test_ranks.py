"""One command on each of several hosts: who has which rank, and what the workers find in their
environment.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Completed
from tests.lab.lab import Lab
from tests.nodes.conftest import ENDPOINT, PRELUDE, WAITING, StartNode, StartNodes

pytestmark = pytest.mark.slow

RunNodes = Callable[..., dict[str, Completed]]

NAMES = (
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK"),
    *("GROUP_RANK", "GROUP_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID"),
    *("TORCHELASTIC_RESTART_COUNT", "LAUNCHER_SECRET"),
)
SAY_ALL = (
    "import json, os\n"
    f"values = {{name: os.environ.get(name) for name in {NAMES!r}}}\n"
    "print(json.dumps(values | {'host': os.uname().nodename}))\n"
)


def variables(done: Mapping[str, Completed]) -> list[dict[str, Any]]:
    """Return what each rank found, in the order of ranks; all launchers must have ended with 0."""
    assert {name: one.code for name, one in done.items()} == dict.fromkeys(done, 0), done
    found = []
    for name, one in done.items():
        for line in one.out.splitlines():
            values = json.loads(line[line.index("{") :])
            assert values["host"] == name
            found.append(values)
    return sorted(found, key=lambda values: int(values["RANK"]))


def column(found: list[dict[str, Any]], name: str) -> list[Any]:
    return [values[name] for values in found]


def test_ranks_go_by_arrival_and_every_rank_knows_its_place(run_nodes: RunNodes) -> None:
    sizes = {"h1": "1", "h2": "3", "h3": "2"}
    done = run_nodes(
        SAY_ALL,
        *("--rdzv-id", "mine"),
        hosts=tuple(sizes),
        only={host: ("--nproc-per-node", size) for host, size in sizes.items()},
    )
    found = variables(done)
    assert column(found, "RANK") == ["0", "1", "2", "3", "4", "5"]
    assert {*column(found, "WORLD_SIZE")} == {"6"}
    assert {*column(found, "GROUP_WORLD_SIZE")} == {"3"}
    assert {*column(found, "TORCHELASTIC_RESTART_COUNT")} == {"0"}
    assert {*column(found, "TORCHELASTIC_RUN_ID")} == {"mine"}
    assert {*column(found, "LAUNCHER_SECRET")} == {None}
    for values in found:
        assert values["GROUP_RANK"] == values["NODE_RANK"]
        assert values["LOCAL_WORLD_SIZE"] == sizes[values["host"]]
    # The ranks of a node follow each other; whoever has the endpoint is node 0.
    hosts = list(dict.fromkeys(column(found, "host")))
    assert sorted(hosts) == list(sizes) and hosts[0] == "h1"
    expected = [
        (host, str(node_rank), str(local_rank))
        for node_rank, host in enumerate(hosts)
        for local_rank in range(int(sizes[host]))
    ]
    assert [(v["host"], v["NODE_RANK"], v["LOCAL_RANK"]) for v in found] == expected
    # An address that all have reached, not a name that somebody might not know.
    assert {*column(found, "MASTER_ADDR")} == {"10.77.0.1"}
    assert len({*column(found, "MASTER_PORT")}) == 1


def test_ranks_that_are_given_count_also_where_another_node_has_the_endpoint(
    run_nodes: RunNodes,
) -> None:
    ranks = {"h1": "2", "h2": "0", "h3": "1"}
    only = {host: ("--node-rank", rank) for host, rank in ranks.items()}
    found = variables(run_nodes(SAY_ALL, hosts=tuple(ranks), only=only))
    assert column(found, "host") == ["h2", "h3", "h1"]
    assert {*column(found, "MASTER_ADDR")} == {"10.77.0.2"}


def test_a_master_that_is_given_reaches_the_workers_as_it_was_typed(start_node: StartNode) -> None:
    nodes = {}
    for rank, host in enumerate(("h1", "h2")):
        master = ("--master-addr", "h1", "--master-port", "31234")
        body = ("--nnodes", "2", "--node-rank", str(rank), *master, "--no-python")
        nodes[host] = start_node(
            host, *body, "sh", "-c", 'echo "$RANK $WORLD_SIZE $MASTER_ADDR $MASTER_PORT"'
        )
    done = {host: node.finish() for host, node in nodes.items()}
    said = [re.sub(r"^\[.*?\] *", "", one.out) for one in done.values()]
    assert said == ["0 2 h1 31234\n", "1 2 h1 31234\n"], done


def test_variables_of_torchruns_options_do_the_same(
    lab: Lab, start_node: StartNode, script: Any
) -> None:
    script(SAY_ALL)
    nodes = {}
    for rank, host in enumerate(("h1", "h2")):
        env = {"PET_NNODES": "2", "PET_NODE_RANK": str(rank), "PET_MASTER_ADDR": "10.77.0.1"}
        nodes[host] = start_node(host, "script.py", env={**env, "PET_MASTER_PORT": "31234"})
    found = variables({host: node.finish() for host, node in nodes.items()})
    assert column(found, "host") == ["h1", "h2"]
    assert {*column(found, "MASTER_ADDR")} == {"10.77.0.1"}
    assert {*column(found, "MASTER_PORT")} == {"31234"}


def test_the_second_port_is_shown_before_anything_starts(
    start_node: StartNode, script: Any
) -> None:
    script("")
    options = ("--nnodes", "2", "--node-rank", "1", "--master-addr", "h1")
    for more, port in ((("--master-port", "31234"), 31235), (("--control-port", "30000"), 30000)):
        done = start_node("h2", *options, *more, "--dry-run", "script.py").finish()
        assert done.code == 0
        assert f"h1:{port}" in done.out, done.out


def test_lines_of_ranks_say_on_which_host_they_are(run_nodes: RunNodes) -> None:
    done = run_nodes("print('hello')\n")
    for rank, (host, one) in enumerate(done.items()):
        assert (one.code, one.err) == (0, "")
        assert one.out == f"[{host}:{rank}] hello\n"


def test_a_name_that_leads_to_loopback_at_home_is_an_address_for_the_others(
    lab: Lab, run_nodes: RunNodes
) -> None:
    for host in lab.hosts:  # as Debian has it
        host.set_names({**host.names, host.name: "127.0.1.1"})
    found = variables(run_nodes(SAY_ALL, hosts=("h1", "h2", "h3")))
    assert {*column(found, "WORLD_SIZE")} == {"3"}
    assert {*column(found, "MASTER_ADDR")} == {"10.77.0.1"}


def test_hosts_without_names_meet_by_their_addresses(lab: Lab, run_nodes: RunNodes) -> None:
    for host in lab.hosts:  # not even their own
        host.set_names({"localhost": "127.0.0.1"})
    found = variables(run_nodes(SAY_ALL, endpoint="10.77.0.1:29400"))
    assert {*column(found, "MASTER_ADDR")} == {"10.77.0.1"}


@pytest.mark.parametrize("endpoint", [ENDPOINT, "[fd77::1]:29400"])
def test_hosts_with_nothing_but_ipv6_meet(lab: Lab, run_nodes: RunNodes, endpoint: str) -> None:
    lab.use_ipv6()
    found = variables(run_nodes(SAY_ALL, endpoint=endpoint))
    assert {*column(found, "MASTER_ADDR")} == {"fd77::1"}


def test_an_address_for_the_others_can_be_given(lab: Lab, run_nodes: RunNodes) -> None:
    lab["h2"].run("ip", "addr", "add", "10.77.0.22/24", "dev", "eth0")
    lab["h2"].is_changed = True
    only = {"h2": ("--node-rank", "0", "--local-addr", "10.77.0.22"), "h1": ("--node-rank", "1")}
    found = variables(run_nodes(SAY_ALL, only=only))
    assert {*column(found, "MASTER_ADDR")} == {"10.77.0.22"}


def test_two_runs_with_different_ids_use_one_endpoint(start_nodes: StartNodes) -> None:
    first = start_nodes(WAITING, "--rdzv-id", "a")
    first.wait_for_ranks(2)
    other = start_nodes(PRELUDE, "--rdzv-id", "b", hosts=("h2", "h1"), name="other.py")
    other.wait_for_ranks(2)
    assert other.codes() == {"h1": 0, "h2": 0}, other.show()
    # The end of one does not end the other.
    first.end()
    assert first.codes() == {"h1": 0, "h2": 0}, first.show()
    assert "attempt 1" not in first.show()


def test_the_first_run_at_an_endpoint_may_end_before_the_second(
    start_nodes: StartNodes, tmp_path: Path
) -> None:
    first = start_nodes(PRELUDE + "wait('first')\n", "--rdzv-id", "a", name="first.py")
    first.wait_for_ranks(2)
    other = start_nodes(WAITING, "--rdzv-id", "b", hosts=("h2", "h1"))
    other.wait_for_ranks(2)
    (tmp_path / "first").touch()
    assert first.codes() == {"h1": 0, "h2": 0}, first.show()
    other.end()
    assert other.codes() == {"h1": 0, "h2": 0}, other.show()


def test_without_a_secret_one_line_says_so(run_nodes: RunNodes) -> None:
    done = run_nodes(PRELUDE, env={"LAUNCHER_SECRET": None})
    lines = {
        name: [li for li in one.err.splitlines() if "secret" in li] for name, one in done.items()
    }
    assert [one.code for one in done.values()] == [0, 0]
    assert any(lines.values()) and all(len(said) <= 1 for said in lines.values()), done
