"""What a launch over ssh will do: commands, what is told to each host, where the nodes meet."""

from __future__ import annotations

import json
import shlex
import sys

import pytest

from launcher.engines.hosts import find_hosts
from launcher.engines.ssh_plan import (
    Here,
    SshPlan,
    choose_endpoint,
    make_command,
    make_question,
    make_ssh_plan,
    render_ssh_plan,
    show_endpoint,
)
from launcher.errors import RendezvousError, UsageError
from launcher.options.arguments import read_arguments
from launcher.options.spec import LaunchSpec

HERE = Here("/work/my job", frozenset())


def plan_of(*argv: str, environ: dict[str, str] | None = None, here: Here = HERE) -> SshPlan:
    environ = environ or {}
    given, command = read_arguments(LaunchSpec, argv)
    spec = LaunchSpec.from_sources(given, environ, script=command[0], script_args=command[1:])
    return make_ssh_plan(spec, environ, find_hosts(spec), here)


def argv_of(plan: SshPlan, index: int) -> list[str]:
    argv = plan.hosts[index].command
    assert make_question(plan, index, {})["argv"] == argv
    return list(argv[argv.index("launcher") + 1 :])


def answers(*found: str, address: str = "10.0.0.1") -> dict[int, dict[str, object]]:
    return {
        index: {"port": 4000 + index, "address": address, "found": name}
        for index, name in enumerate(found)
    }


def readers_of(*argv: str, here: Here = HERE) -> list[int]:
    plan = plan_of(*argv, "train.py", here=here)
    asked = [make_question(plan, index, {})["has_input"] for index in range(len(plan.hosts))]
    assert asked == [host.has_reader for host in plan.hosts]
    return [index for index, has_input in enumerate(asked) if has_input]


def test_what_is_typed_goes_to_the_host_of_the_rank_that_reads() -> None:
    typed = HERE._replace(is_typed=True)
    assert readers_of("--hosts", "h1:2,h2:3", here=typed) == [0]
    assert readers_of("--hosts", "h1,h2", "--nproc-per-node", "auto", here=typed) == [0]
    for rank, host in [(1, 0), (2, 1), (4, 1), (5, 2)]:
        hosts = ("--hosts", "h1:2,h2:3,h3", "--stdin-rank", str(rank))
        assert readers_of(*hosts, here=typed) == [host]
    # Who comes first is rank 0, and nobody knows who that is.
    assert readers_of("--hosts", "h1,h2,h3", "--nnodes", "1:2", here=typed) == []


def test_a_pipe_is_read_only_where_a_rank_is_named() -> None:
    assert readers_of("--hosts", "h1,h2") == []
    assert readers_of("--hosts", "h1,h2", "--stdin-rank", "1") == [1]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--hosts", "h1:2,h2:2", "--stdin-rank", "4"), "must be below 4, the world size"),
        (("--hosts", "h1,h2", "--nproc-per-node", "auto", "--stdin-rank", "1"), "has no host"),
        (("--hosts", "h1,h2,h3", "--nnodes", "1:2", "--stdin-rank", "0"), "has no host"),
    ],
)
def test_a_rank_without_a_host_cannot_read(options: tuple[str, ...], problem: str) -> None:
    with pytest.raises(UsageError, match=problem) as error:
        readers_of(*options)
    assert "--stdin-rank" in str(error.value)


def test_each_host_gets_the_users_options_and_its_own() -> None:
    plan = plan_of(
        *("--hosts", "h1:2,ann@h2:3", "--max-restarts", "2", "--rdzv-id", "job"),
        *("--export", "A=1", "--engine", "ssh", "train.py", "--hosts", "mine"),
    )
    common = ["--max-restarts=2", "--nnodes=2"]
    assert [argv_of(plan, index) for index in range(2)] == [
        [
            *("--nproc-per-node=2", *common, "--node-rank=0", "--rdzv-id=job"),
            *("train.py", "--hosts", "mine"),
        ],
        [
            *("--nproc-per-node=3", *common, "--node-rank=1", "--rdzv-id=job"),
            *("train.py", "--hosts", "mine"),
        ],
    ]


def test_one_host_is_one_node() -> None:
    plan = plan_of("--hosts", "h1", "--rdzv-id", "job", "train.py")
    assert argv_of(plan, 0) == [*("--nproc-per-node=1", "--nnodes=1", "--rdzv-id=job", "train.py")]
    assert show_endpoint(plan, ("h1", 4000)) == ""


def test_with_more_hosts_than_nodes_ranks_go_by_arrival() -> None:
    plan = plan_of("--hosts", "h1,h2,h3", "--nnodes", "2", "train.py")
    assert "--nnodes=2" in argv_of(plan, 0)
    assert [word for word in argv_of(plan, 0) if "--node-rank" in word] == []


def test_an_elastic_run_waits_shortly_for_those_that_have_been_reached() -> None:
    plan = plan_of("--hosts", "h1,h2", "--nnodes", "1:2", "train.py")
    assert (plan.min_nodes, plan.is_elastic) == (1, True)
    assert "--rdzv-conf=last_call_timeout=5" in argv_of(plan, 0)
    conf = ("--rdzv-conf", "join_timeout=9,last_call_timeout=60")
    plan = plan_of("--hosts", "h1,h2", "--nnodes", "1:2", *conf, "train.py")
    assert "--rdzv-conf=join_timeout=9,last_call_timeout=60" in argv_of(plan, 0)
    assert plan.join_timeout_s == 9


def test_neither_secret_nor_variables_stand_in_a_command() -> None:
    environ = {"HF_TOKEN": "our-token", "LAUNCHER_SECRET": "our-secret"}
    plan = plan_of("--hosts", "h1,h2", "--export", "A=our-own", "train.py", environ=environ)
    assert "our-" not in repr(make_command(plan, 1))
    question = make_question(plan, 1, {"LAUNCHER_TERMINAL": "80 24 out"})
    assert "our-" not in repr(question["argv"])
    assert question["environ"] == {
        "A": "our-own",
        "HF_TOKEN": "our-token",
        "LAUNCHER_SECRET": "our-secret",
        "LAUNCHER_QUIET": "1",
        "LAUNCHER_TERMINAL": "80 24 out",
    }
    assert "our-token" not in render_ssh_plan(plan)
    json.dumps(question)


def test_a_run_without_a_secret_gets_one_of_its_own() -> None:
    first, second = (plan_of("--hosts", "h1,h2", "train.py").secret for _ in range(2))
    assert len(first) == 32 and first != second


def test_ssh_is_called_as_the_user_wants_it() -> None:
    environ = {"LAUNCHER_SSH": "ssh -F 'my config'"}
    plan = plan_of("--hosts", "h1,ann@h2", "train.py", environ=environ)
    command = make_command(plan, 1)
    assert command[:4] == ["ssh", "-F", "my config", "-T"]
    assert command[-2] == "ann@h2"
    assert shlex.split(command[-1])[:4] == ["exec", sys.executable, "-I", "-S"]
    assert "-oBatchMode=yes" in command
    assert "-oBatchMode=yes" not in make_command(plan, 1, may_ask=True)
    with pytest.raises(UsageError, match="LAUNCHER_SSH=ssh 'x: "):
        plan_of("--hosts", "h1", "train.py", environ={"LAUNCHER_SSH": "ssh 'x"})


def test_ssh_gives_up_a_host_that_falls_silent_and_no_sooner_than_the_launcher_does() -> None:
    plan = plan_of("--hosts", "h1,h2", "--node-timeout", "4", "train.py")
    assert plan.silence_s == 20
    command = make_command(plan, 1)
    assert {"-oServerAliveInterval=7", "-oServerAliveCountMax=3"} <= set(command)


def test_this_machine_needs_no_ssh() -> None:
    here = Here("/work", frozenset({"h1"}))
    plan = plan_of("--hosts", "h1,h2", "train.py", here=here)
    assert make_command(plan, 0)[0] == sys.executable
    assert make_command(plan, 1)[0] == "ssh"
    # As another user it is another login.
    assert make_command(plan_of("--hosts", "ann@h1", "train.py", here=here), 0)[0] == "ssh"


def test_the_nodes_meet_at_the_name_in_the_list_if_all_know_it() -> None:
    plan = plan_of("--hosts", "h1,h2", "train.py")
    assert choose_endpoint(plan, answers("127.0.1.1", "10.0.0.1")) == ("h1", 4000)


@pytest.mark.parametrize("found", ["", "127.0.0.1", "::1"])
def test_else_at_the_address_that_ssh_has_reached(found: str) -> None:
    plan = plan_of("--hosts", "h1,h2", "train.py")
    assert choose_endpoint(plan, answers("", found)) == ("10.0.0.1", 4000)
    assert show_endpoint(plan, ("fd77::1", 4000)) == "[fd77::1]:4000"


@pytest.mark.parametrize("address", ["", "127.0.0.1"])
def test_a_first_host_that_cannot_be_reached_is_an_error(address: str) -> None:
    plan = plan_of("--hosts", "h1,h2,h3", "train.py")
    with pytest.raises(RendezvousError, match="h3 cannot reach the first host by the name h1"):
        choose_endpoint(plan, answers("", "10.0.0.1", "", address=address))


@pytest.mark.parametrize(
    ("argv", "endpoint"),
    [
        (("--rdzv-endpoint", "h1-ib:29400"), ("h1-ib", 29400)),
        (("--rdzv-endpoint", "h1-ib"), ("h1-ib", 4000)),
        (("--control-port", "555"), ("h1", 555)),
        (("--master-addr", "10.1.1.1"), ("10.1.1.1", 4000)),
    ],
)
def test_what_is_typed_of_the_place_to_meet_counts(
    argv: tuple[str, ...], endpoint: tuple[str, int]
) -> None:
    plan = plan_of("--hosts", "h1,h2", *argv, "train.py")
    assert choose_endpoint(plan, answers("10.0.0.1", "10.0.0.1")) == endpoint


def test_where_the_first_host_is_missing_the_next_one_takes_its_place() -> None:
    plan = plan_of("--hosts", "h1,h2,h3", "--nnodes", "2:3", "train.py")
    told = answers("", "", "")
    del told[0]
    assert choose_endpoint(plan, told) == ("10.0.0.1", 4001)
    told[1]["address"] = ""
    assert choose_endpoint(plan, told) == ("h2", 4001)
