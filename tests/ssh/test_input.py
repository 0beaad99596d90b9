"""A pipe or a file as stdin of a launch over ssh: it is for one rank, where that is asked for."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from tests.conftest import Script, command
from tests.lab.lab import Lab
from tests.lab.pipe import EMPTY, READ, check_that_nobody_waits, check_that_one_reads
from tests.ssh.conftest import RunOverSsh, StartOverSsh

pytestmark = pytest.mark.slow

# The one that is fed begins late.
READ_LATE = f"""
import os, time
if os.environ["RANK"] == "2":
    time.sleep(0.5)
{READ}"""


def test_a_pipe_goes_to_the_rank_that_is_named(
    start_over_ssh: StartOverSsh, script: Script
) -> None:
    options = ("--hosts", "h1:2,h2:2", "--stdin-rank", "2")
    running = start_over_ssh(*options, script(READ_LATE), stdin=subprocess.PIPE)
    check_that_one_reads(running, 2)


def test_a_file_is_left_for_who_reads_it_next(
    lab: Lab, ssh_config: Path, script: Script, tmp_path: Path
) -> None:
    (tmp_path / "hosts").write_text("first\nsecond\n")
    words = shlex.join(map(str, command("--hosts", "h1,h2", script(READ))))
    env = {"LAUNCHER_SSH": f"ssh -F {ssh_config}"}
    loop = f"while read -r host; do echo begin $host; {words}; done < hosts"
    done = lab["h1"].run("sh", "-c", loop, env=env)
    assert done.code == 0, done.err
    assert [line for line in done.lines if "begin" in line] == ["begin first", "begin second"]
    assert done.out.count(EMPTY) == 4


def test_a_rank_that_reads_nothing_keeps_nobody(
    start_over_ssh: StartOverSsh, script: Script
) -> None:
    running = start_over_ssh(
        "--hosts", "h2:1", "--stdin-rank", "0", script("print('done')"), stdin=subprocess.PIPE
    )
    check_that_nobody_waits(running)


def test_a_rank_that_no_host_has_is_an_error(run_over_ssh: RunOverSsh, script: Script) -> None:
    done = run_over_ssh("--hosts", "h1:2,h2:2", "--stdin-rank", "4", script(READ))
    assert done.code == 2
    assert "--stdin-rank 4" in done.err
    assert "must be below 4, the world size" in done.err
