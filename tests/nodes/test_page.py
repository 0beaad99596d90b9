"""The pages about several nodes, and about services: what they tell to type does what it says."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.conftest import ROOT, Completed, Running
from tests.engines import needs_torch
from tests.lab.lab import Lab
from tests.test_docs import blocks

HOW_TO = ROOT / "docs" / "how-to"

SAY_PLACE = """
import os
names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
print(*(os.environ[name] for name in names))
"""


def _type(
    lab: Lab, page: Path, folder: Path, environs: dict[str, dict[str, str]]
) -> list[dict[str, Completed]]:
    """Save what a page says, and type its commands on the hosts that it names, at the same time
    until one of them has the next command; return how they ended, by host.

    environs: of each host that the page may name; node0 is the first of the lab.
    """
    nodes = {f"node{number}": host for number, host in enumerate(lab.hosts)}
    names = {name: host.address for name, host in nodes.items()}
    for host in lab.hosts:
        host.set_names({**host.names, **names})
    path = os.pathsep.join((os.path.dirname(sys.executable), os.environ["PATH"]))
    done: list[dict[str, Completed]] = []
    running: dict[str, Running] = {}
    for language, rest, text in blocks(page):
        if rest.startswith("file="):
            (folder / rest.removeprefix("file=")).write_text(text)
        elif language == "sh":
            on = rest.removeprefix("on=").split(",")
            if running.keys() & set(on):
                done.append({name: each.finish() for name, each in running.items()})
                running = {}
            for name in on:
                env = {"PATH": path, **environs[name]}
                running[name] = nodes[name].start("bash", "-euo", "pipefail", "-c", text, env=env)
    return [*done, {name: each.finish() for name, each in running.items()}]


@needs_torch
def test_the_commands_for_several_nodes_run(lab: Lab, tmp_path: Path) -> None:
    done = _type(lab, HOW_TO / "several-nodes.md", tmp_path, {"node0": {}, "node1": {}})
    assert [(each.code, each.err) for run in done for each in run.values() if each.code] == []
    with_secret, by_rank, elastic = done
    # Whoever serves the control plane at the endpoint is node 0; its rank 0 prints.
    assert with_secret["node0"].lines == ["[h1:0] 4 ranks add up to 6"]
    assert "secret" not in with_secret["node0"].err + with_secret["node1"].err
    assert by_rank["node0"].lines == ["[h1:0] 3 ranks add up to 3"]
    assert elastic["node0"].lines[-1] == "[h1:0] 2 ranks add up to 1"
    for run in (by_rank, elastic):
        assert "secret" in run["node0"].err


def test_the_command_for_services_runs(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SAY_PLACE)
    service = {"MASTER_ADDR": "node0", "MASTER_PORT": "23456", "WORLD_SIZE": "2"}
    environs = {name: {**service, "RANK": name[-1]} for name in ("node0", "node1")}
    (run,) = _type(lab, HOW_TO / "services.md", tmp_path, environs)
    for node, done in enumerate(run.values()):
        assert done.code == 0, done.err
        ranks = range(8 * node, 8 * node + 8)
        assert [line.split("] ")[1] for line in done.lines] == [
            f"{rank} 16 node0 23456" for rank in ranks
        ]
