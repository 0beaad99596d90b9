"""A supervisor that waits for the others."""

from __future__ import annotations

import os

import pytest

from launcher.engines.standby import Standby
from launcher.options.spec import LaunchSpec

SPEC = LaunchSpec(script="train.py", nnodes="2", rdzv_conf="join_timeout=9")


def wait(line: bytes, spec: LaunchSpec = SPEC) -> LaunchSpec | None:
    """Let a supervisor wait that is told this line."""
    (go, tell), (hear, ready) = os.pipe(), os.pipe()
    environ = {"LAUNCHER_STANDBY": f"{go} {ready}", "OTHER": "1"}
    for fd in (go, ready):
        os.set_inheritable(fd, True)
    standby = Standby(environ)
    assert environ == {"OTHER": "1"}
    assert not os.get_inheritable(go) and not os.get_inheritable(ready)
    os.write(tell, line)
    os.close(tell)
    try:
        return standby.wait(spec)
    finally:
        assert os.read(hear, 100) == b"ready\n"
        for fd in (hear, go):
            os.close(fd)


@pytest.mark.parametrize("is_host", [0, 1])
def test_it_learns_where_the_nodes_meet(is_host: int) -> None:
    spec = wait(b"[fd77::1]:4000 %d\n" % is_host)
    assert spec is not None
    assert spec.endpoint == ("fd77::1", 4000)
    assert spec.rendezvous_settings == {"join_timeout": 9, "is_host": is_host}


def test_what_follows_is_left_to_be_read() -> None:
    (go, tell), (hear, ready) = os.pipe(), os.pipe()
    os.write(tell, b"h1:4000 1\nstop 15\n")
    standby = Standby({"LAUNCHER_STANDBY": f"{go} {ready}"})
    assert standby.wait(SPEC) is not None
    assert os.read(standby.orders, 100) == b"stop 15\n"
    for fd in (go, tell, hear):
        os.close(fd)


def test_alone_it_just_goes() -> None:
    alone = LaunchSpec(script="train.py")
    assert wait(b"\n", alone) == alone


def test_it_ends_where_nobody_lets_it_go() -> None:
    assert wait(b"") is None
