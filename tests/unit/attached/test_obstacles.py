"""What keeps one supervisor from starting the ranks of several processes, and what does not."""

from __future__ import annotations

import os
import sys
from typing import Any

import pytest

from launcher.attached import obstacles
from launcher.attached.obstacles import Facts, find_import_obstacle, find_obstacle, read_facts

FACTS = Facts(
    pid=70,
    interpreter=("/usr/bin/python3", "-m", "launcher"),
    arguments=("train.py",),
    environ={"HOME": "/root"},
    users=("Uid:\t0\t0\t0\t0\n",),
    namespaces={"pid": 1, "net": 2},
    root=(1, 2),
    folder="/work",
    cgroups=("0::/job",),
)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ""),
        ({"arguments": ("other.py",), "folder": "/", "environ": {}}, ""),  # is compared elsewhere
        ({"pid": 0}, "rank 3 is in a process namespace of its own"),
        ({"is_complete": False}, "rank 3 has more open files than can be handed over"),
        ({"users": ("Uid:\t1\t1\t1\t1\n",)}, "rank 3 has another user or other groups than rank 1"),
        (
            {"namespaces": {"pid": 1, "net": 3}},
            "rank 3 is in a container of its own (another net namespace)",
        ),
        ({"root": (1, 3)}, "rank 3 has another root folder than rank 1"),
        ({"interpreter": ("/opt/python",)}, "rank 3 has another interpreter than rank 1"),
        ({"interpreter": (*FACTS.interpreter, "-O")}, "rank 3 has another interpreter"),
        ({"gpus": "1"}, "rank 3 may use other GPUs than rank 1"),
    ],
)
def test_what_differs_and_cannot_be_handed_over_is_named(
    changes: dict[str, Any], words: str
) -> None:
    found = find_obstacle({1: FACTS, 3: FACTS._replace(**changes)})
    assert found.startswith(words) and bool(found) == bool(words)


def limits(monkeypatch: pytest.MonkeyPatch, files: dict[str, str]) -> None:
    """Let these be the only files of cgroups that there are."""
    monkeypatch.setattr(obstacles, "read_text", lambda path: files.get(path, ""))


@pytest.mark.parametrize(
    ("cgroup", "path", "text", "limit"),
    [
        ("0::/job/task", "/sys/fs/cgroup/job/task/memory.max", "max", ""),
        ("0::/job/task", "/sys/fs/cgroup/job/task/memory.max", "1073741824", "memory.max"),
        ("0::/job/task", "/sys/fs/cgroup/job/task/cpu.max", "max 100000", ""),
        ("0::/job/task", "/sys/fs/cgroup/job/task/cpu.max", "50000 100000", "cpu.max"),
        (
            "4:memory:/job/task",
            "/sys/fs/cgroup/memory/job/task/memory.limit_in_bytes",
            "1073741824",
            "memory.limit_in_bytes",
        ),
        (
            "4:memory:/job/task",
            "/sys/fs/cgroup/memory/job/task/memory.limit_in_bytes",
            "9223372036854771712",
            "",
        ),
        ("1:name=systemd:/job/a:b", "/none", "", ""),
    ],
)
@pytest.mark.parametrize("limited", [0, 1])
def test_a_cgroup_of_its_own_is_an_obstacle_only_with_a_limit_whosever_it_is(
    monkeypatch: pytest.MonkeyPatch, cgroup: str, path: str, text: str, limit: str, limited: int
) -> None:
    """Under a limit of one rank, the ranks of all would be: the supervisor is a child of one."""
    limits(monkeypatch, {path: text})
    found = {rank: FACTS._replace(cgroups=("0::/other",)) for rank in (0, 1)}
    found[limited] = FACTS._replace(cgroups=(cgroup,))
    expected = f"rank {limited} has a cgroup of its own with a limit ({limit})" if limit else ""
    assert find_obstacle(found) == expected


def test_a_limit_that_all_share_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    limits(monkeypatch, {"/sys/fs/cgroup/job/memory.max": "1073741824"})
    assert find_obstacle({0: FACTS, 1: FACTS}) == ""


@pytest.mark.parametrize(
    ("name", "is_obstacle"),
    [
        ("OMP_NUM_THREADS", True),
        ("LD_PRELOAD", True),
        ("PYTHONPATH", True),
        ("CUDA_VISIBLE_DEVICES", False),
        ("OMPI_COMM_WORLD_RANK", False),
    ],
)
def test_variables_that_libraries_read_once_keep_ranks_from_sharing_an_import(
    name: str, is_obstacle: bool
) -> None:
    other = FACTS._replace(environ={**FACTS.environ, name: "1"})
    for found in ({0: FACTS, 2: other}, {0: other, 2: FACTS}):
        reason = find_import_obstacle(found)
        assert reason.startswith(f"{name} is not the same on ranks 0, 2" if is_obstacle else "")
        assert bool(reason) == is_obstacle


def test_facts_are_read_of_a_process() -> None:
    arguments = sys.orig_argv[1:]
    found = read_facts(os.getpid(), len(arguments))
    assert found.arguments == tuple(arguments)
    assert found.interpreter == (os.path.realpath("/proc/self/exe"),)
    assert found.folder == os.getcwd()
    assert set(found.namespaces) >= {"pid", "mnt", "net", "user"}
    assert any(str(os.geteuid()) in line for line in found.users)
    assert found.environ.items() >= {"PATH": found.environ["PATH"]}.items()
    assert find_obstacle({0: found, 1: read_facts(os.getpid(), len(arguments))}) == ""
    assert read_facts(os.getpid(), 0).arguments == ()


def test_a_process_that_has_ended_has_no_facts() -> None:
    with pytest.raises(OSError):
        read_facts(1 << 23, 0)
