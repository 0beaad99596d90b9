"""The commands of docs/how-to/mpi.md for several hosts, from top to bottom, over ssh."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.engines import MPI_SETTINGS, needs_mpirun
from tests.lab.lab import Lab
from tests.test_docs import blocks

pytestmark = [needs_mpirun, pytest.mark.slow]

PAGE = ROOT / "docs" / "how-to" / "mpi.md"
TRAIN = 'import os\nprint("rank", os.environ["RANK"], "of", os.environ["WORLD_SIZE"])\n'

# The page's names are those of the lab's hosts.
SSH_CONFIG = """\
Host node*
  User root
  IdentityFile {folder}/user_key
  UserKnownHostsFile /dev/null
  StrictHostKeyChecking no
  BatchMode yes
  LogLevel ERROR
"""

# What a login gives on hosts where the launcher is installed.
AGENT = """\
#!/bin/sh
host=$1
shift
exec ssh -F {config} "$host" "export PATH='{path}' PYTHONPATH='{root}'; $*"
"""


@pytest.mark.skipif(shutil.which("ssh") is None, reason="ssh is not installed")
def test_the_commands_of_the_page_run(lab: Lab, tmp_path: Path) -> None:
    config = tmp_path / "ssh_config"
    config.write_text(SSH_CONFIG.format(folder=lab.start_sshd().parent))
    path = os.pathsep.join((os.path.dirname(sys.executable), os.environ["PATH"]))
    agent = tmp_path / "agent"
    agent.write_text(AGENT.format(config=config, path=path, root=ROOT))
    agent.chmod(0o755)
    names = {f"node{host.number}": host.address for host in lab.hosts}
    for host in lab.hosts:
        host.set_names({"localhost": "127.0.0.1", **names})
    env = {**MPI_SETTINGS, "OMPI_MCA_plm_rsh_agent": str(agent), "PATH": path}
    (tmp_path / "train.py").write_text(TRAIN)
    num_run = 0
    for language, rest, text in blocks(PAGE):
        if rest.startswith("file="):
            (tmp_path / rest.removeprefix("file=")).write_text(text)
        elif language == "sh" and rest == "on=mpirun":
            num_run += 1
            done = lab["h1"].run("bash", "-euo", "pipefail", "-c", text, env=env, timeout_s=60.0)
            assert done.code == 0, f"{text}\n{done.out}\n{done.err}"
            assert "rank 2 of " in done.out or "--dry-run" in text
    assert num_run > 3
