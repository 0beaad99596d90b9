"""The commands of docs/how-to/slurm.md, from top to bottom, on a cluster of three hosts."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, wait_until
from tests.lab.lab import Lab
from tests.test_docs import blocks

pytestmark = pytest.mark.slow

PAGE = ROOT / "docs" / "how-to" / "slurm.md"
TRAIN = "import os, sys\nopen(f'rank_{os.environ[\"RANK\"]}_{os.getpid()}', 'w').close()\n"


def test_the_commands_of_the_page_run(lab: Lab, tmp_path: Path) -> None:
    path = os.pathsep.join((os.path.dirname(sys.executable), os.environ["PATH"], "/usr/sbin"))
    env = {"SLURM_CONF": str(lab.start_slurm()), "PATH": path}
    (tmp_path / "train.py").write_text(TRAIN)
    for host in lab.hosts:  # the page has another network
        host.run("ip", "address", "add", f"10.0.0.{host.number}/24", "dev", "eth0")
        host.is_changed = True
    num_run = 0
    for language, rest, text in blocks(PAGE):
        if rest.startswith("file="):
            (tmp_path / rest.removeprefix("file=")).write_text(text)
        elif language == "sh" and rest == "on=slurm":
            num_run += 1
            done = lab["h1"].run("bash", "-euo", "pipefail", "-c", text, env=env, timeout_s=60.0)
            assert done.code == 0, f"{text}\n{done.out}\n{done.err}"

            def all_came() -> bool:
                """Also those of a job that nobody has waited for."""
                left = lab["h1"].run("squeue", "--noheader", env=env).out
                return not left and len({p.name[:6] for p in tmp_path.glob("rank_*")}) >= 4

            wait_until(all_came, text)
            for said in tmp_path.glob("rank_*"):
                said.unlink()
    assert num_run > 5
