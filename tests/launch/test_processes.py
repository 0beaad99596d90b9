"""What is read of /proc, compared with what the test knows of its own processes."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher.system import processes
from tests.conftest import wait_until


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A child in a session of its own, whose name is as awkward as a name can be."""
    code = (
        "import ctypes, time\nctypes.CDLL(None).prctl(15, b'a) Z (b', 0, 0, 0)\n"
        "print('ready', flush=True)\ntime.sleep(1000)\n"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield process
        finally:
            process.kill()


def test_a_name_with_parentheses_does_not_confuse_the_fields(
    child: subprocess.Popen[bytes],
) -> None:
    info = processes.process_info(child.pid)
    assert info is not None
    assert info._replace(state="", began="") == processes.ProcessInfo(
        child.pid, "a) Z (b", "", os.getpid(), child.pid, ""
    )
    assert info.state in "RSD"
    assert processes.start_time(child.pid) == info.began
    assert int(info.began) >= int(processes.start_time(os.getpid()))


def test_fields_are_counted_as_in_proc_5() -> None:
    fields = processes.stat_fields("/proc/self/stat")
    assert fields[1] == b"%d" % os.getpid()
    assert fields[4] == b"%d" % os.getppid()
    assert fields[5] == b"%d" % os.getpgrp()
    assert fields[6] == b"%d" % os.getsid(0)
    # A thread of an earlier test may be about to end.
    wait_until(
        lambda: int(processes.stat_fields("/proc/self/stat")[20]) == processes.num_threads(),
        "both count the same threads",
    )


def test_a_thread_has_a_stat_file_as_well() -> None:
    number = threading.get_native_id()
    assert processes.stat_fields(f"/proc/self/task/{number}/stat")[1] == b"%d" % number


def test_a_process_that_has_ended_is_nothing(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    info = processes.process_info(child.pid)
    assert info is not None
    assert info.state == "Z"
    assert processes.start_time(child.pid) == ""
    child.wait()
    assert processes.process_info(child.pid) is None
    assert processes.child_pids(child.pid) == []
    processes.send_signal(child.pid, signal.SIGTERM)
    processes.signal_group(child.pid, signal.SIGTERM)


def test_children_are_found_also_where_the_kernel_keeps_no_list(
    child: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert child.pid in processes.child_pids(os.getpid())
    listdir = os.listdir

    def without_lists(path: str | os.PathLike[str]) -> list[str]:
        if str(path).endswith("/task"):
            raise FileNotFoundError
        return listdir(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", without_lists)
        assert child.pid in processes.child_pids(os.getpid())
        assert child.pid in processes.descendants(os.getpid())


def test_a_session_is_killed_as_a_whole(child: subprocess.Popen[bytes]) -> None:
    processes.kill_sessions([])
    assert child.poll() is None
    processes.kill_sessions([child.pid])
    assert child.wait(20) == -signal.SIGKILL


def test_a_mark_is_looked_for_as_a_whole() -> None:
    environ = {**os.environ, "LAUNCHER_TEST": "abc"}
    # It says when it is there, and executes nothing else: meanwhile it would have no environment.
    command = ["sh", "-c", "echo ready; read line"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, env=environ, **pipes) as process:
        assert process.stdout is not None
        process.stdout.readline()
        marks = (b"LAUNCHER_TEST=abc", b"LAUNCHER_TEST=ab")
        found = [processes.carries_mark(process.pid, mark) for mark in marks]
        process.kill()
    assert found == [True, False]
    assert not processes.carries_mark(process.pid, marks[0])


def test_an_environment_is_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"KEPT": "1", "LEFT": "2", "CHANGED": "3"})
    merged = processes.merged_environ({"CHANGED": "4", "NEW": "5"}, ("LEFT", "UNKNOWN"))
    assert merged == {"KEPT": "1", "CHANGED": "4", "NEW": "5"}


def is_inheritable(fd: int) -> bool:
    try:
        return os.get_inheritable(fd)
    except OSError:  # the folder that was just read
        return False


def read_all(fd: int) -> str:
    with open(fd) as file:
        return file.read()


def test_a_process_is_prepared_before_its_command_begins(tmp_path: Path) -> None:
    """It has the descriptors, the folder and the signals of one from a shell."""
    read_end, write_end = os.pipe()
    handed = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)

    def prepare() -> None:
        os.fchdir(handed)
        os.dup2(handed, 77)

    inheritable = {int(name) for name in os.listdir("/proc/self/fd") if is_inheritable(int(name))}
    show = "pwd; ls /proc/self/fd | tr '\\n' ' '; echo; grep Sig /proc/$$/status"
    command = ["sh", "-c", show]
    descriptors = {0: os.open(os.devnull, os.O_RDONLY), 1: write_end, 2: 2}
    pid = processes.launch_process(command, {"PATH": os.environ["PATH"]}, descriptors, prepare)
    os.close(write_end)
    assert os.getsid(pid) == pid
    folder, numbers, *masks = read_all(read_end).splitlines()
    assert os.waitpid(pid, 0)[1] == 0
    assert folder == str(tmp_path)
    found = {int(number) for number in numbers.split()}
    # `ls` has one more, for the folder that it reads; and who has started the tests may have some.
    assert 77 in found
    assert len(found - {0, 1, 2, 77} - inheritable) == 1
    blocked = [line.split()[1] for line in masks if line.startswith("SigBlk")]
    ignored = [line.split()[1] for line in masks if line.startswith("SigIgn")]
    assert int(blocked[0], 16) == 0
    assert not int(ignored[0], 16) & (1 << (signal.SIGPIPE - 1))
    for fd in (handed, descriptors[0]):
        os.close(fd)


@pytest.mark.parametrize(
    ("argv", "error", "number"),
    [
        (["/does/not/exist"], None, errno.ENOENT),
        (["true"], OSError(errno.EMFILE, "Too many open files"), errno.EMFILE),
        (["true"], ValueError("not allowed to raise maximum limit"), errno.EPERM),
    ],
)
def test_a_process_that_cannot_begin_says_why_and_is_not_left(
    argv: list[str], error: Exception | None, number: int
) -> None:
    def prepare() -> None:
        if error is not None:
            raise error

    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError) as caught:
        processes.launch_process(argv, dict(os.environ), {}, prepare)
    assert caught.value.errno == number
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_file_under_a_high_number_does_not_keep_a_problem_from_being_told() -> None:
    """Where a process tells it, there may be one that it was to inherit."""
    null = os.open(os.devnull, os.O_RDWR)

    def prepare() -> None:
        for number in range(3, 256):
            os.dup2(null, number)

    with pytest.raises(FileNotFoundError):
        processes.launch_process(["/does/not/exist"], {}, {}, prepare)
    os.close(null)


def test_a_library_is_found_in_a_process_that_has_loaded_it() -> None:
    assert processes.maps_library(os.getpid(), "libc.so")
    assert not processes.maps_library(os.getpid(), "libmpi.so.none")
    assert not processes.maps_library(1 << 23, "libc.so")
