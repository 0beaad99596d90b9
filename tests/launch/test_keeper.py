"""The keeper: does nothing after a launch that ended in order, and comes back when somebody kills
it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from launcher.system.keeper import MARK_VARIABLE, Keeper
from tests.conftest import is_alive


@pytest.mark.slow
def test_after_an_orderly_end_what_carries_the_mark_is_left_alone() -> None:
    mark = os.urandom(8).hex()
    with subprocess.Popen(["sleep", "1000"], env={**os.environ, MARK_VARIABLE: mark}) as child:
        with Keeper(mark) as keeper:
            keeper.add_session(child.pid)
            pid = keeper.pid
        assert not is_alive(pid)
        assert is_alive(child.pid)
        child.kill()


@pytest.mark.slow
def test_a_killed_keeper_is_replaced_and_knows_the_sessions() -> None:
    code = (
        "import os, signal, sys\nfrom launcher.system.keeper import Keeper\nkeeper ="
        " Keeper('none').__enter__()\nkeeper.add_session({})\nfirst = keeper.pid\nos.kill(first,"
        " signal.SIGKILL)\nos.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)\nassert"
        " keeper.revive() and keeper.pid != first\nassert not keeper.revive()\nos.kill(os.getpid(),"
        " signal.SIGKILL)\n"
    )
    with subprocess.Popen(["sleep", "1000"], start_new_session=True) as child:
        try:
            done = subprocess.run([sys.executable, "-c", code.format(child.pid)], timeout=20)
            assert done.returncode == -signal.SIGKILL
            assert child.wait(20) == -signal.SIGKILL
        finally:
            child.kill()


@pytest.mark.slow
def test_when_the_supervisor_is_killed_everything_with_the_mark_is_killed() -> None:
    mark = os.urandom(8).hex()
    code = (
        "import os, signal\nfrom launcher.system.keeper import Keeper\n"
        f"keeper = Keeper({mark!r}).__enter__()\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    with subprocess.Popen(
        ["sleep", "1000"], env={**os.environ, MARK_VARIABLE: mark}, start_new_session=True
    ) as child:
        try:
            assert (
                subprocess.run([sys.executable, "-c", code], timeout=20).returncode
                == -signal.SIGKILL
            )
            assert child.wait(20) == -signal.SIGKILL
        finally:
            child.kill()
