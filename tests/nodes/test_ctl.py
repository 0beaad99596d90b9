"""`python -m launcher.ctl` on any of the hosts is about all nodes of a run."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.conftest import Completed
from tests.lab.lab import Lab
from tests.nodes.conftest import PRELUDE, WAITING, StartNodes

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


# Says what stands in the file `say`, line by line, as `RANK TEXT`.
TALKER = (
    PRELUDE
    + """\
done = 0
while not os.path.exists("end"):
    lines = open("say").read().split("\\n")[:-1] if os.path.exists("say") else []
    for line in lines[done:]:
        who, _, text = line.partition(" ")
        if who == str(RANK):
            say(text)
    done = len(lines)
    time.sleep(0.005)
"""
)


def test_logs_come_from_hosts_that_share_no_folder(
    lab: Lab, start_nodes: StartNodes, tmp_path: Path, suite_mark: str
) -> None:
    name = f"apart-{suite_mark}"
    job = start_nodes(TALKER, "--rdzv-id", name, only={"h2": ("--run-dir", "elsewhere")})
    job.wait_for_ranks(2)

    def tell(rank: int, text: str) -> None:
        with (tmp_path / "say").open("a") as file:
            file.write(f"{rank} {text}\n")
        job[f"h{rank + 1}"].wait_for(text)

    for number in range(4):
        tell(number % 2, f"line {number}")
    said = ["[0] line 0", "[1] line 1", "[0] line 2", "[1] line 3"]
    for host in ("h1", "h2"):
        done = lab[host].run(*CTL, "logs", name)
        assert (done.code, done.err) == (0, ""), done
        assert done.out.splitlines()[2:] == said
    some = lab["h1"].run(*CTL, "logs", name, "--rank", "1", "--grep", "line", "--since", "1h")
    assert (some.code, some.out.splitlines(), some.err) == (0, [said[1], said[3]], "")

    reader = lab["h1"].start(*CTL, "logs", name, "-f")
    reader.wait_for("[1] line 3")
    tell(1, "the last one")
    reader.wait_for("[1] the last one")
    job.end()
    assert job.codes() == {"h1": 0, "h2": 0}, job.show()
    followed = reader.finish()
    there = f"of rank 1; type there: python -m launcher.ctl logs {tmp_path}/runs/{name}\n"
    assert (followed.code, followed.err) == (
        0,
        f"launcher.ctl: h2 may have more of the output {there}",
    )
    ended = lab["h1"].run(*CTL, "logs", name)
    assert ended.out.splitlines()[1:] == [said[0], said[2]]
    assert ended.err == f"launcher.ctl: h2 has the output {there}"
    assert lab["h1"].run(*CTL, "logs", name, "--rank", "1").code == 1
    rest = lab["h2"].run(*CTL, "logs", name, "--run-dir", "elsewhere", "--rank", "1")
    assert rest.out.splitlines()[1:] == [said[1], said[3], "[1] the last one"]
