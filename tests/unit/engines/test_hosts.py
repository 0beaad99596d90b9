"""The hosts of a launch against its other options."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.engines.hosts import find_hosts
from launcher.errors import UsageError
from launcher.options.arguments import read_arguments
from launcher.options.hosts import Host
from launcher.options.spec import LaunchSpec


def spec_of(*argv: str) -> LaunchSpec:
    given, command = read_arguments(LaunchSpec, [*argv, "train.py"])
    return LaunchSpec.from_sources(given, {}, script=command[0])


def test_hosts_come_from_the_command_line_or_a_file(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text("h1 slots=2\nh2\n")
    hosts = (Host("h1", 2), Host("h2"))
    assert find_hosts(spec_of("--hosts", "h1:2,h2")) == hosts
    assert find_hosts(spec_of("--hostfile", str(path))) == hosts


@pytest.mark.parametrize(
    "argv",
    [
        ("--hosts", "h1,h2", "--nproc-per-node", "4"),
        ("--hosts", "h1:4,h2", "--nproc-per-node", "2"),
        ("--hosts", "h1:4,h2:4", "--nproc-per-node", "4"),
        ("--hosts", "h1,h2", "--nnodes", "2"),
        ("--hosts", "h1,h2", "--nnodes", "1:2"),
        ("--hosts", "h1,h2,spare", "--nnodes", "2"),
    ],
)
def test_options_that_go_with_a_list(argv: tuple[str, ...]) -> None:
    assert len(find_hosts(spec_of(*argv))) >= 2


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        (("--engine", "ssh"), "--engine ssh: needs hosts"),
        (("--hosts", "h1", "--nnodes", "2"), "there is 1 (h1)"),
        (("--hosts", "h1:2", "--nproc-per-node", "4"), "--nproc-per-node 4 and --hosts h1:2"),
        (("--hostfile", "/no/such/file"), "cannot be read: No such file"),
        (("--hosts", "h1", "--hostfile", "f"), "each is the whole list"),
        (("--hosts", "h1", "--standalone"), "standalone means this node alone"),
        (("--hosts", "h1", "--local-addr", "10.0.0.1"), "each host has addresses of its own"),
    ],
)
def test_what_contradicts_a_list_is_refused(argv: tuple[str, ...], problem: str) -> None:
    with pytest.raises(UsageError) as raised:
        find_hosts(spec_of(*argv))
    assert problem in str(raised.value)
    assert raised.value.hint
