"""What stands between nodes and a run is said within `join_timeout`, with the command to type next.

Nothing that cannot be meant ends with 0.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Completed, Script, wait_until
from tests.lab.lab import Lab
from tests.nodes.conftest import PORT, PRELUDE, StartNode, StartNodes

pytestmark = pytest.mark.slow

JOIN_S = 1.5
CONF = ("--rdzv-conf", f"join_timeout={JOIN_S:g}")
RENDEZVOUS, USAGE = 3, 2

# What a busy machine may add.
SLACK_S = 10.0

# A program that takes connections, and says nothing.
DEAF = """
import socket
connections = []
server = socket.create_server(("0.0.0.0", {port}))
while True:
    connections.append(server.accept())
"""

RunNodes = Callable[..., dict[str, Completed]]


# What stands behind an endpoint -> its address, what h1's firewall does there, the words for it.
UNREACHABLE = {
    "nobody": ("h1:29400", "", ["h1:29400 (10.77.0.1)", "connection refused", "ss -ltn"]),
    "a firewall that is silent": ("h1:29401", "DROP", ["h1:29401", "timed out", "firewall"]),
    "a firewall that refuses": ("h1:29402", "REJECT", ["h1:29402", "refused"]),
    "a firewall that resets": (
        "h1:29403",
        "REJECT --reject-with tcp-reset",
        ["h1:29403", "refused"],
    ),
    "no way": ("192.0.2.1:29400", "", ["192.0.2.1:29400", "network is unreachable"]),
    "a name that nobody knows": ("nowhere.example", "", ["nowhere.example is not known here"]),
    "another program": ("h1:29404", "", ["h1:29404", "does not answer as a launcher does"]),
    "a host without power": ("h3:29400", "", ["h3:29400 (10.77.0.3)"]),
}


def test_an_endpoint_that_cannot_be_reached_is_named_with_what_stands_in_the_way(
    lab: Lab, start_node: StartNode, script: Script
) -> None:
    script(PRELUDE)
    lab["h3"].power_off()
    lab["h1"].start(sys.executable, "-c", DEAF.format(port=29404))
    wait_until(lambda: lab["h1"].listens(29404), "a program listens")
    nodes = {}
    for case, (endpoint, rule, _) in UNREACHABLE.items():
        if rule:
            port = endpoint.partition(":")[2]
            lab["h1"].filter(f"INPUT -p tcp --dport {port} -j {rule}")
        argv = ("--nnodes", "2", "--rdzv-endpoint", endpoint, *CONF, "script.py")
        nodes[case] = start_node("h2", *argv)
    for case, node in nodes.items():
        done = node.finish()
        assert done.code == RENDEZVOUS, (case, done)
        assert done.seconds < JOIN_S + SLACK_S, (case, done)
        said = done.err.lower()
        assert "traceback" not in said
        for words in UNREACHABLE[case][2]:
            assert words in said, (case, done.err)


def test_a_name_server_that_does_not_answer(
    lab: Lab, start_node: StartNode, script: Script
) -> None:
    script(PRELUDE)
    lab["h2"].set_nameserver("10.77.0.77")
    argv = ("--nnodes", "2", "--rdzv-endpoint", "nowhere.example", *CONF, "script.py")
    done = start_node("h2", *argv).finish()
    assert done.code == RENDEZVOUS
    assert done.seconds < JOIN_S + SLACK_S
    assert "no name server says what nowhere.example is" in done.err


def test_the_wrong_port_ends_both_and_both_say_why(run_nodes: RunNodes) -> None:
    only = {"h2": ("--rdzv-endpoint", "h1:29401")}
    done = run_nodes(PRELUDE, *CONF, only=only)
    assert {name: one.code for name, one in done.items()} == {"h1": RENDEZVOUS, "h2": RENDEZVOUS}
    assert "1 of 2 nodes have come (h1)" in done["h1"].err
    assert "h1:29401 (10.77.0.1)" in done["h2"].err and "refused" in done["h2"].err


def test_one_that_never_comes_is_named_by_its_rank(run_nodes: RunNodes) -> None:
    only = {"h1": ("--node-rank", "0"), "h3": ("--node-rank", "2")}
    done = run_nodes(PRELUDE, *CONF, hosts=("h1", "h3"), nnodes="3", only=only)
    for one in done.values():
        assert one.code == RENDEZVOUS
        assert "2 of 3 nodes have come (h1, h3); node rank 1 is missing" in one.err
        assert "attempt 0" not in one.out


def test_without_ranks_those_are_named_that_came(run_nodes: RunNodes) -> None:
    done = run_nodes(PRELUDE, *CONF, nnodes="3")
    for one in done.values():
        assert one.code == RENDEZVOUS
        assert "2 of 3 nodes have come (h1, h2)" in one.err


def test_a_rank_that_two_nodes_have_is_named_with_both(start_nodes: StartNodes, lab: Lab) -> None:
    same = dict.fromkeys(("h1", "h2"), ("--node-rank", "1"))
    job = start_nodes(PRELUDE, *CONF, only=same)
    done = job.finish()
    assert sorted(one.code for one in done.values()) == [USAGE, RENDEZVOUS], job.show()
    (refused,) = [one.err for one in done.values() if one.code == USAGE]
    assert "node rank 1" in refused and "h1" in refused and "h2" in refused
    assert "--node-rank" in refused


def refusal(done: dict[str, Completed]) -> str:
    """Return what the second node said: it was refused, and the first one waited in vain."""
    codes = {name: one.code for name, one in done.items()}
    assert codes["h2"] == USAGE and codes["h1"] in (USAGE, RENDEZVOUS), done
    assert "h2 was refused" in done["h1"].err, "the first node says who was refused"
    assert done["h1"].code == USAGE or "nodes have come (h1). Refused: " in done["h1"].err
    assert not any("attempt 0" in one.out for one in done.values())
    return done["h2"].err


@pytest.fixture
def second_differs(start_nodes: StartNodes, lab: Lab) -> Callable[..., str]:
    """Start a node on h1, then one on h2 with these options instead; return what that one says."""

    def run(*options: str, text: str = PRELUDE, name: str = "script.py", **how: str) -> str:
        job = start_nodes(PRELUDE, *CONF, hosts=("h1",), nnodes="2")
        wait_until(lambda: lab["h1"].listens(PORT), "h1 waits for the others")
        other = start_nodes(text, *CONF, *options, hosts=("h2",), nnodes="2", name=name, env=how)
        job.nodes["h2"] = other["h2"]
        return refusal(job.finish())

    return run


def test_another_number_of_nodes(second_differs: Callable[..., str]) -> None:
    said = second_differs("--nnodes", "3")
    assert "--nnodes 3 on h2 contradicts --nnodes 2 on h1" in said


def test_another_script(second_differs: Callable[..., str]) -> None:
    said = second_differs(name="other.py")
    assert "other.py" in said and "script.py" in said and "h1" in said


def test_another_version_of_torch(second_differs: Callable[..., str], tmp_path: Path) -> None:
    folder = tmp_path / "older" / "torch-1.13.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 1.13.0\n")
    (tmp_path / "older" / "torch").mkdir()
    (tmp_path / "older" / "torch" / "__init__.py").write_text("")
    (tmp_path / "older" / "torch" / "version.py").write_text("__version__ = '1.13.0'\n")
    said = second_differs(PYTHONPATH=f"{tmp_path / 'older'}:{Path(__file__).parents[2]}")
    assert "torch" in said and "1.13.0" in said


def test_another_secret_says_nothing_of_either(
    run_nodes: RunNodes, lab: Lab, start_nodes: StartNodes
) -> None:
    job = start_nodes(PRELUDE, *CONF, hosts=("h1",), nnodes="2")
    other = start_nodes(PRELUDE, *CONF, hosts=("h2",), nnodes="2", env={"LAUNCHER_SECRET": "no"})
    job.nodes["h2"] = other["h2"]
    done = job.finish()
    assert done["h2"].code in (USAGE, RENDEZVOUS) and done["h1"].code == RENDEZVOUS, job.show()
    assert "secret" in done["h2"].err and "LAUNCHER_SECRET" in done["h2"].err
    assert "hush" not in job.show()


def test_a_node_without_the_secret(start_nodes: StartNodes) -> None:
    job = start_nodes(PRELUDE, *CONF, hosts=("h1",), nnodes="2")
    other = start_nodes(PRELUDE, *CONF, hosts=("h2",), nnodes="2", env={"LAUNCHER_SECRET": None})
    job.nodes["h2"] = other["h2"]
    done = job.finish()
    assert 0 not in {one.code for one in done.values()}, job.show()
    assert "secret" in done["h2"].err


def test_another_version_of_the_launcher(lab: Lab, start_nodes: StartNodes, script: Script) -> None:
    old = (
        "import launcher.nodes.wire as wire\nwire.PROTOCOL_VERSION += 1\n"
        "import sys\nfrom launcher.cli import main\nsys.exit(main())\n"
    )
    script(old, "old.py")
    job = start_nodes(PRELUDE, *CONF, hosts=("h1",), nnodes="2")
    wait_until(lambda: lab["h1"].listens(PORT), "h1 waits for the others")
    argv = ("--nnodes", "2", "--rdzv-endpoint", "h1:29400", *CONF, "script.py")
    env = {"LAUNCHER_SECRET": "hush"}
    job.nodes["h2"] = lab["h2"].start(sys.executable, "old.py", *argv, env=env)
    done = job.finish()
    assert 0 not in {one.code for one in done.values()}, job.show()
    assert "version" in done["h2"].err, job.show()


def test_an_endpoint_that_every_node_has_at_home_makes_no_runs_of_one(
    start_nodes: StartNodes,
) -> None:
    endpoints = ("localhost:29400", "127.0.0.1:29401")
    for job in [start_nodes(PRELUDE, *CONF, endpoint=endpoint) for endpoint in endpoints]:
        for name, one in job.finish().items():
            assert one.code == RENDEZVOUS, job.show()
            assert f"1 of 2 nodes have come ({name})" in one.err
            assert "loopback" in one.err, one.err


def test_a_name_of_another_host_that_leads_home_is_said_to(lab: Lab, run_nodes: RunNodes) -> None:
    lab["h2"].set_names({**lab["h2"].names, "h1": "127.0.1.1"})
    done = run_nodes(PRELUDE, *CONF)
    assert {one.code for one in done.values()} == {RENDEZVOUS}, done
    assert "127.0.1.1" in done["h2"].err and "loopback" in done["h2"].err


def test_the_address_of_the_master_may_not_be_another_ones(run_nodes: RunNodes) -> None:
    """Both are node 0, each at home: none of them may train alone."""
    done = run_nodes(PRELUDE, *CONF, "--node-rank", "0", "--master-addr", "localhost", endpoint="")
    assert 0 not in {one.code for one in done.values()}, done


def test_two_numbers_of_nodes_at_one_time_train_nobody_alone(run_nodes: RunNodes) -> None:
    """Under torchrun, `--nnodes 3` beside `--nnodes 2` may."""
    only = {"h2": ("--nnodes", "3")}
    done = run_nodes(PRELUDE, *CONF, only=only, hosts=("h1", "h2", "h3"), nnodes="2")
    ended_well = [name for name, one in done.items() if one.code == 0]
    assert ended_well in ([], ["h1", "h3"]), done
    assert done["h2"].code != 0


def test_an_occupied_port_that_is_no_launchers(lab: Lab, run_nodes: RunNodes) -> None:
    lab["h1"].start(sys.executable, "-c", DEAF.format(port=PORT))
    wait_until(lambda: lab["h1"].listens(PORT), "somebody else has the port")
    done = run_nodes(PRELUDE, *CONF)
    for one in done.values():
        assert one.code == RENDEZVOUS, done
        assert "what is at h1:29400 (10.77.0.1) does not answer as a launcher does" in one.err
        assert "Choose another port" in one.err
