"""The page about ssh: what it tells to type does what it says."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, Completed
from tests.lab.lab import Lab
from tests.ssh.conftest import options_of
from tests.test_docs import blocks

pytestmark = pytest.mark.slow

PAGE = ROOT / "docs" / "how-to" / "ssh.md"
README = ROOT / "README.md"


@pytest.fixture
def typed(lab: Lab, ssh_config: Path, tmp_path: Path) -> list[Completed]:
    """Save what the page says, and type its commands on node1, and last that of the README."""
    names = {f"node{host.number}": host.address for host in lab.hosts}
    for host in lab.hosts:
        host.set_names({"localhost": "127.0.0.1", **names})
    # Known are the keys of the addresses.
    hosts = "".join(f"Host {name}\n  HostName {to}\n" for name, to in names.items())
    (tmp_path / "my_ssh_config").write_text(f"{hosts}Host *\n{options_of(ssh_config)}")
    path = os.pathsep.join((os.path.dirname(sys.executable), os.environ["PATH"]))
    env = {"PATH": path, "LAUNCHER_SSH": "ssh -F my_ssh_config"}
    done = []
    for language, rest, text in blocks(PAGE):
        if rest.startswith("file="):
            (tmp_path / rest.removeprefix("file=")).write_text(text)
        elif language == "sh":
            assert rest == "on=node1"
            argv = ("bash", "-euo", "pipefail", "-c", text)
            done.append(lab["h1"].run(*argv, env=env, timeout_s=60))
    (command,) = re.findall("`(python -m launcher --hosts [^`]+)`", README.read_text())
    (tmp_path / "train.py").write_text((tmp_path / "where.py").read_text())
    done.append(lab["h1"].run(*argv[:-1], command, env=env, timeout_s=60))
    return done


def test_the_commands_of_the_page_run(typed: list[Completed]) -> None:
    assert [(each.code, each.err) for each in typed if each.code] == []
    two_hosts, file, plan, other_ssh, exported, with_stdin, elastic, readme = typed
    assert two_hosts.lines == [
        f"[h{1 + i // 2}:{i}] rank {i} of 4 on h{1 + i // 2}" for i in range(4)
    ]
    assert with_stdin.lines == two_hosts.lines
    assert file.lines[-1] == "[h3:4] rank 4 of 5 on h3"
    assert plan.out.startswith("2 hosts, a launcher on each, started by ssh -F my_ssh_config\n")
    two = ["[h1:0] rank 0 of 2 on h1", "[h2:1] rank 1 of 2 on h2"]
    assert exported.lines == two
    assert other_ssh.lines == sorted(two * 2)
    assert [line.split(" of ")[1] for line in elastic.lines] == ["3 on h1", "3 on h2", "3 on h3"]
    assert readme.lines[-1] == "[h2:15] rank 15 of 16 on h2"
