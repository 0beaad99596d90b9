"""A launch over ssh as its user sees it: which ranks run where, with what, and what they print."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, Script
from tests.lab.lab import Lab
from tests.ssh.conftest import RunOverSsh, StartOverSsh, find_process, options_of

pytestmark = pytest.mark.slow

WHERE = """
import os, socket
print(socket.gethostname(), *(os.environ[name] for name in (
    "RANK", "LOCAL_RANK", "WORLD_SIZE", "NODE_RANK")), os.getcwd())
"""


def test_each_host_runs_its_ranks_in_the_folder_of_the_command(
    run_over_ssh: RunOverSsh, script: Script, tmp_path: Path
) -> None:
    done = run_over_ssh("--hosts", "h1:2,h2:1,h3:2", script(WHERE))
    assert done.code == 0, done.err
    assert done.lines == [
        f"[h1:0] h1 0 0 5 0 {tmp_path}",
        f"[h1:1] h1 1 1 5 0 {tmp_path}",
        f"[h2:2] h2 2 0 5 1 {tmp_path}",
        f"[h3:3] h3 3 0 5 2 {tmp_path}",
        f"[h3:4] h3 4 1 5 2 {tmp_path}",
    ]
    assert done.err == ""


def test_hosts_come_from_a_file_and_take_the_number_that_it_does_not_say(
    run_over_ssh: RunOverSsh, script: Script, tmp_path: Path
) -> None:
    (tmp_path / "hosts.txt").write_text("# two\nh2 slots=1\nh3\n")
    done = run_over_ssh("--hostfile", "hosts.txt", "--nproc-per-node", "2", script("print('here')"))
    assert done.lines == ["[h2:0] here", "[h3:1] here", "[h3:2] here"], done.err


def test_one_host_alone_may_be_another_one(run_over_ssh: RunOverSsh, script: Script) -> None:
    done = run_over_ssh("--engine", "ssh", "--hosts", "root@h3:2", script(WHERE))
    assert [line.split()[:2] for line in done.lines] == [["[0]", "h3"], ["[1]", "h3"]], done.err


def test_ranks_talk_to_each_other_over_the_hosts(run_over_ssh: RunOverSsh, script: Script) -> None:
    pytest.importorskip("torch")
    name = script(
        "import launcher, torch\n"
        "ctx = launcher.init()\n"
        'print(ctx.all_reduce(torch.tensor(float(ctx.rank)), "sum").item())\n'
    )
    done = run_over_ssh("--hosts", "h1,h2,h3", name)
    assert done.lines == ["[h1:0] 3.0", "[h2:1] 3.0", "[h3:2] 3.0"], done.err


def test_prefixes_are_as_wide_as_the_longest_name(
    lab: Lab, run_over_ssh: RunOverSsh, script: Script
) -> None:
    lab["h2"].run("hostname", "h2-with-gpus")
    lab["h2"].is_changed = True
    done = run_over_ssh("--hosts", "h1,h2", script("print('here')"))
    assert done.lines == ["[          h1:0] here", "[h2-with-gpus:1] here"], done.err


def test_both_streams_come_back_apart_and_in_whole_lines(
    run_over_ssh: RunOverSsh, script: Script
) -> None:
    name = script(
        "import sys\n"
        "for i in range(2000):\n"
        "    print('o' * 60, i)\n"
        "    print('e' * 60, i, file=sys.stderr)\n"
    )
    done = run_over_ssh("--hosts", "h1:2,h2:2", name)
    for text, letter in ((done.out, "o"), (done.err, "e")):
        lines = text.splitlines()
        assert len(lines) == 4 * 2000
        whole = re.compile(rf"\[h\d:\d\] {letter}{{60}} \d+")
        assert [line for line in lines if not whole.fullmatch(line)] == []
        of_rank_3 = [line for line in lines if line.startswith("[h2:3]")]
        assert [int(line.split()[-1]) for line in of_rank_3] == list(range(2000))


VARIABLES = """
import os
print(*(os.environ.get(name) for name in (
    "NCCL_DEBUG", "HF_TOKEN", "MINE", "OTHER", "HIS", "CUDA_VISIBLE_DEVICES", "PET_NNODES",
    "LAUNCHER_SECRET", "LAUNCHER_QUIET")))
"""


def test_variables_that_matter_go_along_and_those_of_a_machine_stay(
    run_over_ssh: RunOverSsh, script: Script
) -> None:
    env = {"NCCL_DEBUG": "WARN", "HF_TOKEN": "word", "MINE": "a b;$c'd\"", "OTHER": "not asked"}
    env |= {"CUDA_VISIBLE_DEVICES": "7", "PET_NNODES": "2"}
    done = run_over_ssh("--hosts", "h1,h2", "--export", "MINE,HIS=1=2", script(VARIABLES), env=env)
    told = "WARN word a b;$c'd\" None 1=2 None None None None"
    assert done.lines == [f"[h1:0] {told}", f"[h2:1] {told}"], done.err


def test_no_command_on_any_host_holds_a_secret(
    lab: Lab, start_over_ssh: StartOverSsh, script: Script, tmp_path: Path
) -> None:
    name = script("import time; print('up', flush=True); time.sleep(60)")
    env = {"LAUNCHER_SECRET": "our-secret", "HF_TOKEN": "our-token"}
    running = start_over_ssh("--hosts", "h1,h2", name, env=env)
    running.wait_for("up", 2)
    lines = [line for host in lab.hosts for line in host.processes().values()]
    assert len(lines) > 8
    assert [line for line in lines if "our-" in line] == []


def test_a_failure_on_one_host_ends_all_with_its_code_and_one_report_which_is_last(
    run_over_ssh: RunOverSsh, script: Script
) -> None:
    name = script(
        "import os, sys, time\n"
        "if os.environ['RANK'] == '2':\n"
        "    sys.exit('no way')\n"
        "time.sleep(60)\n"
    )
    done = run_over_ssh("--hosts", "h1:2,h2:1", name)
    assert done.code == 1
    own = [line for line in done.err.splitlines() if not line.startswith("[h2:2]")]
    assert own[0].startswith("FAILED: rank 2 (pid "), own
    assert " on h2): " in own[0]
    assert [line for line in own if not line.startswith(("FAILED:", "  "))] == []
    assert done.seconds < 20


def test_a_failed_attempt_is_announced_once_and_the_next_one_succeeds(
    run_over_ssh: RunOverSsh, script: Script
) -> None:
    name = script(
        "import os\n"
        "if os.environ['TORCHELASTIC_RESTART_COUNT'] == '0' and os.environ['RANK'] == '1':\n"
        "    raise SystemExit(5)\n"
        "print('well')\n"
    )
    done = run_over_ssh("--hosts", "h1,h2", "--max-restarts", "1", name)
    assert done.code == 0
    assert done.err.count("starting all ranks again") == 1
    assert "[h2:1] well" in done.lines


def test_the_first_host_is_found_by_the_address_that_ssh_has_reached(
    lab: Lab, run_over_ssh: RunOverSsh, ssh_config: Path, script: Script, tmp_path: Path
) -> None:
    # The name `first` is one of ssh's configuration: no host can look it up.
    config = tmp_path / "config"
    alias = "Host first\n  HostName h2\nHost *\n"
    config.write_text(alias + options_of(ssh_config))
    done = run_over_ssh(
        "--hosts", "first,h3", script(WHERE), env={"LAUNCHER_SSH": f"ssh -F {config}"}
    )
    assert [line.split()[1] for line in done.lines] == ["h2", "h3"], done.err


def test_addresses_may_be_of_ipv6(lab: Lab, run_over_ssh: RunOverSsh, script: Script) -> None:
    lab.use_ipv6()
    done = run_over_ssh("--hosts", "[fd77::1]:1,[fd77::2]:1", script("print('here')"))
    assert done.lines == ["[h1:0] here", "[h2:1] here"], done.err


def test_without_ssh_the_launchers_own_machine_is_a_host_like_another(
    lab: Lab, run_over_ssh: RunOverSsh, script: Script
) -> None:
    done = run_over_ssh("--hosts", "h1:2", script(WHERE), ssh="/nowhere")
    assert [line.split()[:2] for line in done.lines] == [["[0]", "h1"], ["[1]", "h1"]], done.err


def test_a_dry_run_shows_the_hosts_and_reaches_none(
    run_over_ssh: RunOverSsh, script: Script, tmp_path: Path
) -> None:
    env = {"HF_TOKEN": "our-token", "NCCL_DEBUG": "WARN"}
    args = ("--dry-run", "--hosts", "h1:2,nobody@nowhere:3", "--export", "MINE=1")
    done = run_over_ssh(*args, script("print()"), "--lr", "0.1", env=env)
    assert done.code == 0, done.err
    assert f"folder on each: {tmp_path}\n" in done.out
    assert "h1, this machine:\n" in done.out and "\nnowhere:\n" in done.out
    for line in (
        f"  which runs: {sys.executable} -m launcher --nproc-per-node=3 --nnodes=2 --node-rank=1 ",
        "  HF_TOKEN=***\n",
        "  LAUNCHER_SECRET=***\n",
        "  MINE=1\n",
        "  NCCL_DEBUG=WARN\n",
    ):
        assert line in done.out
    assert "our-token" not in done.out
    assert str(ROOT / "launcher" / "engines" / "remote.py") in done.out


def test_the_process_that_waits_on_a_host_costs_little(
    lab: Lab, start_over_ssh: StartOverSsh, script: Script
) -> None:
    running = start_over_ssh("--hosts", "h2", script("import time; print('up'); time.sleep(60)"))
    running.wait_for("up")
    pid = find_process(lab, "h2", "engines/remote.py")
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    assert pages * os.sysconf("SC_PAGE_SIZE") < 20 << 20
