from __future__ import annotations

import pytest

from launcher.options.hosts import Host, parse_hostfile, parse_hosts


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("", []),
        ("h1", [Host("h1")]),
        ("h1:8,h2:4", [Host("h1", 8), Host("h2", 4)]),
        ("h1:2, h2", [Host("h1", 2), Host("h2")]),
        ("ann@h1:2,bob@10.0.0.2", [Host("h1", 2, "ann"), Host("10.0.0.2", None, "bob")]),
        ("[fe80::1]:4,[::1]", [Host("fe80::1", 4), Host("::1")]),
        ("fe80::1%eth0", [Host("fe80::1%eth0")]),
        ("[fe80::1%eth0.2]:2", [Host("fe80::1%eth0.2", 2)]),
        ("ann@[2001:db8::7]:2", [Host("2001:db8::7", 2, "ann")]),
        ("gpu-1.cluster_a.org:1", [Host("gpu-1.cluster_a.org", 1)]),
        # Twice: the counts add up, and each bare name is one worker.
        ("h1:2,h2:1,h1:3", [Host("h1", 5), Host("h2", 1)]),
        ("h1,h1,h1", [Host("h1", 3)]),
        ("h1:4,h1", [Host("h1", 5)]),
    ],
)
def test_hosts_are_read_from_the_command_line(text: str, hosts: list[Host]) -> None:
    assert list(parse_hosts(text)) == hosts


@pytest.mark.parametrize(
    "text",
    ["h1:", "h1:x", "h1:0", "h1:-1", ",h1", "h1,,h2", "-oProxyCommand=x", "a b", "@h1", "-u@h1"]
    + ["[::1", "[::1]4", "[h1]:2", "h1:2:3", "a::x", "::1%", "%eth0::1"],
)
def test_what_is_no_list_of_hosts_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^must "):
        parse_hosts(text)


def test_a_file_for_open_mpi_is_read() -> None:
    text = """\
# The two big ones.
big1 slots=8 max_slots=16
big2 slots = 8   # not on Fridays

small max-slots=2 slots=1
"""
    assert parse_hostfile(text) == (Host("big1", 8), Host("big2", 8), Host("small", 1))


def test_a_file_for_deepspeed_or_horovodrun_is_read() -> None:
    assert parse_hostfile("worker-1 slots=4\nworker-2 slots=4") == (
        Host("worker-1", 4),
        Host("worker-2", 4),
    )


def test_a_file_of_names_is_read() -> None:
    assert parse_hostfile("h1\nann@h2:3\n[fe80::1]\n") == (
        Host("h1"),
        Host("h2", 3, "ann"),
        Host("fe80::1"),
    )


def test_a_file_of_a_batch_system_has_a_line_for_each_worker() -> None:
    assert parse_hostfile("n1\nn1\nn2\nn2\nn1\n") == (Host("n1", 3), Host("n2", 2))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "has no host in it"),
        ("# nobody\n\n", "has no host in it"),
        ("h1\nh2 slot=2\n", "line 2, `h2 slot=2`: must be HOST, HOST:N or HOST slots=N"),
        ("h1 h2\n", "line 1, `h1 h2`: must be HOST, HOST:N or HOST slots=N"),
        ("h1 slots=two", "must have a number of workers of at least 1 behind `slots`"),
        ("h1 slots=4 max_slots=2", "has more workers than its max_slots=2 allows"),
        ("h1:2 slots=2", "has the number of workers twice"),
        ("\n\nslots=4", "line 3, `slots=4`: must be HOST"),
    ],
)
def test_an_error_in_a_file_names_the_line(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]*$") as raised:
        parse_hostfile(text)
    assert problem in str(raised.value)


@pytest.mark.parametrize(
    ("host", "target"),
    [(Host("h1"), "h1"), (Host("h1", 2, "ann"), "ann@h1"), (Host("fe80::1", 2), "fe80::1")],
)
def test_a_host_is_named_as_ssh_wants_it(host: Host, target: str) -> None:
    assert host.target == target
