"""What else made a run what it is: the commit of its code, the packages, the machine.

Reads files only, so that submitting starts no process for it. The code itself is in the snapshot.
"""

from __future__ import annotations

import os
import platform
import re
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

_DIST_INFO = re.compile(r"(.+)-([^-]+)\.(?:dist|egg)-info")
_URL_SECRET = re.compile(r"(?<=://)[^/@]+@")


def git_facts(folder: str) -> dict[str, Any]:
    """Return commit, branch and remote of the working tree around a folder; {} without one."""
    git = _find_git(os.path.abspath(folder))
    if git is None:
        return {}
    head = _read(os.path.join(git, "HEAD"))
    common = os.path.normpath(os.path.join(git, _read(os.path.join(git, "commondir")) or "."))
    branch, commit = "", head
    if head.startswith("ref: "):
        name = head[5:]
        branch = name.removeprefix("refs/heads/")
        commit = _read(os.path.join(common, name)) or _find_packed(common, name)
    remote = ""
    for line in _read(os.path.join(common, "config")).splitlines():
        key, _, value = line.strip().partition(" = ")
        if key == "url":
            remote = _URL_SECRET.sub("", value)
            break
    return {"git": {"commit": commit, "branch": branch, "remote": remote}}


def _find_git(folder: str) -> str | None:
    while True:
        path = os.path.join(folder, ".git")
        if os.path.isdir(path):
            return path
        if os.path.isfile(path):  # a work tree or a submodule
            return os.path.join(folder, _read(path).removeprefix("gitdir: "))
        parent = os.path.dirname(folder)
        if parent == folder:
            return None
        folder = parent


def _find_packed(common: str, name: str) -> str:
    for line in _read(os.path.join(common, "packed-refs")).splitlines():
        commit, _, ref = line.partition(" ")
        if ref == name:
            return commit
    return ""


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


def packages_on(paths: Iterable[str]) -> dict[str, str]:
    """Return the installed packages with their versions, the first of each name on the path."""
    found: dict[str, str] = {}
    for path in paths:
        try:
            names = os.listdir(path or ".")
        except OSError:
            continue
        for name in names:
            match = _DIST_INFO.fullmatch(name)
            if match:
                found.setdefault(match[1].lower().replace("_", "-"), match[2])
    return dict(sorted(found.items()))


def machine_facts() -> dict[str, Any]:
    """Return what the submitting interpreter and its machine are."""
    return {
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "packages": packages_on(sys.path),
    }
