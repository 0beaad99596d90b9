"""What a process was given is read of it, and taken on by another: here both are this one."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.system import inheritance
from launcher.system.inheritance import Inheritance, assume, find_obstacle, read_inheritance


@pytest.fixture
def as_it_was() -> Iterator[None]:
    """Afterwards this process has the folder, umask and limits that it had."""
    folder, limits = os.getcwd(), resource.getrlimit(resource.RLIMIT_CORE)
    mask = os.umask(0o022)
    yield
    os.umask(mask)
    os.chdir(folder)
    resource.setrlimit(resource.RLIMIT_CORE, limits)


def ours(**changes: object) -> Inheritance:
    return read_inheritance(os.getpid(), ())._replace(**changes)


def test_what_a_process_was_given_is_what_it_says_itself() -> None:
    mask = os.umask(0o027)
    found = read_inheritance(os.getpid(), (5, 7))
    os.umask(mask)
    assert (found.umask, found.numbers) == (0o027, [5, 7])
    assert found.nice == os.getpriority(os.PRIO_PROCESS, 0)
    assert set(found.cpus) == os.sched_getaffinity(0)
    limits = {kind: (soft, hard) for kind, soft, hard in found.limits}
    for kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_CORE, resource.RLIMIT_MEMLOCK):
        assert limits[kind] == resource.getrlimit(kind)


def test_a_process_that_has_ended_was_given_nothing() -> None:
    with pytest.raises(OSError):
        read_inheritance(1 << 23, ())


@pytest.mark.usefixtures("as_it_was")
def test_everything_is_taken_on(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    wanted = (resource.RLIMIT_CORE, 0, hard)
    limits = [limit for limit in ours().limits if limit[0] != resource.RLIMIT_CORE]
    folder = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    assume(ours(umask=0o077, limits=[*limits, wanted]), [folder])
    assert os.getcwd() == str(tmp_path)
    assert os.umask(0o022) == 0o077
    assert resource.getrlimit(resource.RLIMIT_CORE) == (0, hard)
    with pytest.raises(OSError):
        os.fstat(folder)


@pytest.mark.usefixtures("as_it_was")
@pytest.mark.parametrize("count", [1, 3, 100])
def test_open_files_get_their_numbers_also_where_those_are_taken_by_each_other(count: int) -> None:
    """A number that one is to get may be that under which another one has come."""
    pipes = [os.pipe() for _ in range(count)]
    folder = os.open(".", os.O_PATH | os.O_DIRECTORY)
    # Exactly the numbers that are in use, in another order.
    come = [write_end for _, write_end in pipes]
    numbers = [*come[1:], come[0]]
    ordered = sorted(numbers)
    assume(ours(numbers=ordered), [folder, *(come[numbers.index(n)] for n in ordered)])
    with pytest.raises(OSError):
        os.fstat(folder)
    for read_end, number in zip((read_end for read_end, _ in pipes), numbers, strict=True):
        assert os.get_inheritable(number)
        os.write(number, b"%d" % number)
        assert os.read(read_end, 10) == b"%d" % number
    for fd in (*numbers, *(read_end for read_end, _ in pipes)):
        os.close(fd)


def test_a_lower_niceness_and_a_higher_limit_are_obstacles_where_they_may_not_be_taken_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse_niceness(which: int, who: int, priority: int) -> None:
        raise PermissionError

    def refuse_limit(kind: int, limits: tuple[int, int]) -> None:
        raise ValueError("not allowed to raise maximum limit")

    files = resource.RLIMIT_NOFILE
    monkeypatch.setattr(os, "getpriority", lambda which, who: 5)
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (100, 200))
    same = Inheritance(0, 5, (0,), [(files, 10, 200)], ())
    assert find_obstacle(same) == ""
    assert find_obstacle(same._replace(nice=19, limits=[(files, 10, 20)])) == ""
    monkeypatch.setattr(os, "setpriority", refuse_niceness)
    monkeypatch.setattr(resource, "setrlimit", refuse_limit)
    assert find_obstacle(same._replace(nice=0)) == "a niceness of 0"
    for hard in (201, resource.RLIM_INFINITY):
        found = find_obstacle(same._replace(limits=[(files, 10, hard)]))
        assert found == "a higher limit than others (RLIMIT_NOFILE)"


def test_cpus_that_have_gone_since_do_no_harm(
    monkeypatch: pytest.MonkeyPatch, as_it_was: None
) -> None:
    def refuse(pid: int, cpus: object) -> None:
        raise OSError

    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    assume(ours(), [os.open(".", os.O_PATH | os.O_DIRECTORY)])
    assert inheritance.read_inheritance(os.getpid(), ()).umask == 0o022
