"""Virtual environments by content: what a run asks for is built once, and shared by all runs.

    <cache>/envs/<hash>/            a virtual environment; complete when freeze.json is in it
    <cache>/envs/<hash>.lock        held by who builds it, others wait

The agent calls this; each command goes through the function that it gives us, so that a run can be
canceled while its environment is built.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import sys
from typing import NamedTuple

from launcher.jobs import repro, solver
from launcher.jobs.conda import package_name
from launcher.jobs.engine import PACKAGE_ROOT, is_installed, package_copy
from launcher.jobs.errors import EnvironmentException
from launcher.jobs.store import cache_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from launcher.jobs.environment import Needs

# What conda calls otherwise, and what is no package of PyPI's.
_PYPI_NAMES = {"pytorch": "torch", "py-opencv": "opencv-python", "tensorflow-gpu": "tensorflow"}
_NOT_ON_PYPI = {"cudatoolkit", "pytorch-cuda", "cpuonly", "mkl", "pip", "cudnn", "nccl", "openmpi"}

# How pip says that a pin cannot be had, with the versions that can.
_NO_VERSION = re.compile(
    r"Could not find a version that satisfies the requirement (\S+?)"
    r"(?: \(from [^)]*\))* \(from versions: ([^)]*)\)"
)
_PIN = re.compile(r"([A-Za-z0-9._\-]+(?:\[[^\]]*\])?)\s*==\s*([\w.+!]+)")

# With which Python this package itself can begin.
_OLDEST = (3, 10)

# How many pins may be replaced before we say that this leads nowhere.
_MOST_PINS = 50

_SWITCH = (
    'To go on with the nearest versions: env.python.nearest = True, or "environments": "nearest" in'
    " config.json."
)


class Built(NamedTuple):
    """An environment that is there."""

    folder: str
    packages: dict[str, str]
    notes: list[str]

    @property
    def interpreter(self) -> str:
        return os.path.join(self.folder, "bin", "python")


def build(
    needs: Needs,
    submitter: str,
    *,
    is_nearest: bool,
    run: Callable[[Sequence[str]], int],
    say: Callable[[str], None],
    read_log: Callable[[], str],
) -> Built:
    """Return the environment for these needs, built unless another run was first.

    submitter: the interpreter that submits. run: executes a command with its output in the build
    log, and returns its exit code; `read_log` gives the text of that log.
    """
    plan = _plan(needs, submitter, run, is_nearest=is_nearest)
    folder = os.path.join(cache_root(), "envs", _hash(plan, needs.pip_options, is_nearest))
    os.makedirs(os.path.dirname(folder), exist_ok=True)
    with open(folder + ".lock", "w") as lock:
        _lock(lock.fileno(), say)
        kept = _read(folder)
        if kept is not None:
            os.utime(folder)  # the time of its last use
            return kept
        shutil.rmtree(folder, ignore_errors=True)
        if plan.solver:
            try:
                solver.create(
                    plan.solver, folder, plan.channels, plan.conda, run=run, read_log=read_log
                )
            except EnvironmentException as error:
                if not is_nearest:
                    raise
                shutil.rmtree(folder, ignore_errors=True)
                plan = _plan(needs, submitter, run, is_nearest=True, has_solver=False)
                plan.notes.insert(0, error.message)
        for note in plan.notes:
            say(note)
        if not plan.solver and run([plan.base, "-m", "venv", "--without-pip", folder]) != 0:
            raise EnvironmentException(
                f"{plan.base} cannot make a virtual environment; see the log."
            )
        pip = os.path.join(folder, "bin", "python") if plan.solver else submitter
        builder = _Builder(folder, pip, needs.pip_options, run, say, read_log)
        notes = builder.install(plan.pip, is_nearest=is_nearest)
        return _finish(folder, [*plan.notes, *notes])


class _Plan(NamedTuple):
    """How an environment is made: by conda's solver, or a virtual environment of an interpreter."""

    solver: str  # "" where there is none, or nothing for it to do
    channels: list[str]
    conda: list[str]
    base: str
    pip: list[str]
    notes: list[str]


def _plan(
    needs: Needs,
    submitter: str,
    run: Callable[[Sequence[str]], int],
    *,
    is_nearest: bool,
    has_solver: bool = True,
) -> _Plan:
    """Return how the environment is made; what nobody can make is an error that names it."""
    notes: list[str] = []
    program = solver.find() if has_solver else None
    version = _usable_version(needs.python_version, is_nearest=is_nearest, notes=notes)
    base = _find_python(version, submitter, run)
    if program and (needs.conda_packages or base is None):
        python = version or ".".join(platform.python_version_tuple()[:2])
        conda = [f"python={python}", "pip", *needs.conda_packages]
        return _Plan(program, needs.conda_channels, conda, "", needs.pip_packages, notes)
    if base is None:
        _refuse_python(needs.python_version, "it is not on the PATH", notes, is_nearest=is_nearest)
        base = submitter
    pip = [*_from_conda(needs.conda_packages, notes), *needs.pip_packages]
    return _Plan("", [], [], base, pip, notes)


def _hash(plan: _Plan, options: list[str], is_nearest: bool) -> str:
    index_urls = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    parts = [plan.base, platform.machine(), sorted(plan.pip), options, is_nearest, index_urls]
    parts += [sys.version, plan.solver, plan.channels, sorted(plan.conda)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _lock(fd: int, say: Callable[[str], None]) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("another run is building this environment; waiting for it")
        fcntl.flock(fd, fcntl.LOCK_EX)


def _read(folder: str) -> Built | None:
    try:
        with open(os.path.join(folder, "freeze.json")) as file:
            kept = json.load(file)
    except (OSError, ValueError):
        return None
    return Built(folder, kept["packages"], kept["notes"])


def list_built() -> list[Built]:
    """Return all environments that are complete, the last used first."""
    top = os.path.join(cache_root(), "envs")
    names = os.listdir(top) if os.path.isdir(top) else []
    found = [_read(os.path.join(top, name)) for name in names if not name.endswith(".lock")]
    there = [built for built in found if built is not None]
    return sorted(there, key=lambda built: -os.stat(built.folder).st_mtime)


def prune(before: float) -> list[str]:
    """Remove the environments that were last used before a time; return their folders."""
    gone = [built.folder for built in list_built() if os.stat(built.folder).st_mtime < before]
    for folder in gone:
        shutil.rmtree(folder)
    return gone


def _site_packages(folder: str) -> str:
    lib = os.path.join(folder, "lib")
    # conda's has links beside it, and libraries of the same name.
    (version,) = [
        name
        for name in os.listdir(lib)
        if re.fullmatch(r"python\d+\.\d+", name) and not os.path.islink(os.path.join(lib, name))
    ]
    return os.path.join(lib, version, "site-packages")


def _finish(folder: str, notes: list[str]) -> Built:
    site = _site_packages(folder)
    packages = repro.packages_on([site])
    with open(os.path.join(folder, "freeze.json"), "w") as file:
        json.dump({"packages": packages, "notes": notes}, file, indent=1)
    return Built(folder, packages, notes)


def copy_launcher() -> None:
    """Put a copy of this package where interpreters other than ours find nothing else beside it."""
    if is_installed() and not os.path.exists(package_copy()):
        folder = os.path.dirname(package_copy())
        os.makedirs(folder, exist_ok=True)
        temporary = os.path.join(folder, f"{os.getpid()}.tmp")
        ignored = shutil.ignore_patterns("__pycache__")
        source = os.path.join(PACKAGE_ROOT, "launcher")
        shutil.copytree(source, os.path.join(temporary, "launcher"), ignore=ignored)
        try:
            os.rename(temporary, package_copy())
        except OSError:  # another run was first
            shutil.rmtree(temporary)


class _Builder:
    """Installs packages into one environment."""

    def __init__(
        self,
        folder: str,
        pip: str,
        options: list[str],
        run: Callable[[Sequence[str]], int],
        say: Callable[[str], None],
        read_log: Callable[[], str],
    ) -> None:
        python = os.path.join(folder, "bin", "python")
        split = [word for line in options for word in line.split()]
        self._pip = [pip, "-m", "pip", "--python", python, "--disable-pip-version-check"]
        self._pip += ["install", *split]
        uv = shutil.which("uv")
        self._uv = [uv, "pip", "install", "--python", python, *split] if uv else None
        self._run, self._say, self._read_log = run, say, read_log

    def install(self, wanted: list[str], *, is_nearest: bool) -> list[str]:
        """Install packages; return a note for each pin that was replaced by its nearest."""
        notes: list[str] = []
        if not wanted or (self._uv and self._run([*self._uv, *wanted]) == 0):
            return notes
        for _ in range(_MOST_PINS):
            begin = len(self._read_log())
            if self._run([*self._pip, *wanted]) == 0:
                return notes
            said = self._read_log()[begin:]
            wanted, note = _replace_pin(wanted, said, is_nearest=is_nearest)
            self._say(note)
            notes.append(note)
        raise EnvironmentException(f"{_MOST_PINS} pins cannot be had: {', '.join(notes)}.")


def _replace_pin(wanted: list[str], said: str, *, is_nearest: bool) -> tuple[list[str], str]:
    """Return the packages with the pin that pip refused replaced by its nearest, and a note.

    EnvironmentException names the requirement that failed, and what could be had instead.
    """
    match = _NO_VERSION.search(said)
    if match is None:
        errors = [line for line in said.splitlines() if line.startswith("ERROR")]
        what = errors[0].removeprefix("ERROR: ") if errors else "see the log of the build"
        raise EnvironmentException(f"The environment cannot be built: {what}")
    requirement = match[1]
    versions = [word.strip() for word in match[2].split(",") if word.strip() not in ("", "none")]
    pin = _PIN.fullmatch(requirement)
    if pin is None or not versions:
        raise EnvironmentException(f"{requirement} cannot be had: there is no such package here.")
    nearest = find_nearest(pin[2], versions)
    if not is_nearest:
        raise EnvironmentException(
            f"{requirement} cannot be had for Python {platform.python_version()}; the nearest"
            f" version is {nearest}.",
            hint=_SWITCH,
        )
    name = package_name(requirement)
    replaced = [f"{pin[1]}=={nearest}" if package_name(one) == name else one for one in wanted]
    if replaced == wanted:
        raise EnvironmentException(
            f"{requirement}, which another package asks for, cannot be had; {nearest} is nearest."
        )
    return replaced, f"{requirement} cannot be had; {nearest} is taken instead"


def find_nearest(wanted: str, versions: list[str]) -> str:
    """Return the lowest version above the one that was wanted, or else the highest."""
    ordered = sorted(versions, key=_key)
    above = [version for version in ordered if _key(version) >= _key(wanted)]
    return above[0] if above else ordered[-1]


def _key(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version.partition("+")[0]))


def _from_conda(packages: list[str], notes: list[str]) -> list[str]:
    """Return conda's packages under the names that PyPI has for them."""
    found = []
    for package in packages:
        name = package_name(package.rpartition("::")[2])
        if name in _NOT_ON_PYPI:
            notes.append(f"{package} is no package of PyPI's and was left out")
            continue
        rest = package.rpartition("::")[2][len(name) :].strip()
        if rest.startswith("=") and not rest.startswith("=="):
            rest = f"=={rest[1:].partition('=')[0]}.*"
        found.append(_PYPI_NAMES.get(name, name) + rest)
        notes.append(f"{package} of conda is taken from PyPI: {found[-1]}")
    return found


def _usable_version(wanted: str | None, *, is_nearest: bool, notes: list[str]) -> str | None:
    """Return a wanted version of Python; None for one with which no run can begin."""
    if wanted is None:
        return None
    numbers = [int(number) for number in re.findall(r"\d+", wanted)[:2]]
    if numbers < list(_OLDEST[: len(numbers)]):
        oldest = ".".join(map(str, _OLDEST))
        _refuse_python(wanted, f"runs need {oldest}", notes, is_nearest=is_nearest)
        return None
    return wanted


def _find_python(
    wanted: str | None, submitter: str, run: Callable[[Sequence[str]], int]
) -> str | None:
    """Return an interpreter of the wanted version: the submitting one, or one on the PATH."""
    if wanted is None:
        return submitter
    numbers = wanted.rstrip(".*").split(".")[:2]
    if numbers == list(platform.python_version_tuple()[: len(numbers)]):
        return submitter
    path = shutil.which("python" + ".".join(numbers))
    if path is not None and run([path, "-c", "import venv"]) == 0:  # pyenv's may be empty shells
        return path
    return None


def _refuse_python(wanted: str | None, why: str, notes: list[str], *, is_nearest: bool) -> None:
    """Raise for a version that cannot be had, or note which one is taken instead."""
    have = platform.python_version()
    if not is_nearest:
        raise EnvironmentException(
            f"python={wanted} cannot be had: {why}; the nearest is {have}.", hint=_SWITCH
        )
    notes.append(f"python={wanted} cannot be had; {have} is taken instead")
