"""What all tests share: how the command is run, and the proof that each test leaves nothing behind.

Every process that a test starts inherits a random mark in its environment; after the test no
process may carry it.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

pytest_plugins = ["tests.lab.fixtures"]

ROOT = Path(__file__).resolve().parents[1]
WORKERS = ROOT / "tests" / "workers"
TIMEOUT_S = 30.0

# Who asks every few milliseconds, and comes to ask only after more than this, could not run.
_STILL_S = 0.2

# Set by launchers and schedulers around us; a test that wants one sets it itself.
_STARTERS = (
    "RANK",
    "LOCAL_",
    "WORLD_",
    "GROUP_",
    "ROLE_",
    "NODE_RANK",
    "MASTER_",
    "TORCHELASTIC_",
    "OMPI_",
    "PMI",
    "SLURM",
)
_OURS = (
    "LAUNCHER_",
    "PET_",
    "OMP_",
    "MKL_",
    "OPENBLAS_",
    "GLOO_",
    "NCCL_",
    "CUDA_VISIBLE_DEVICES",
    "PYTHON_EXEC",
    "NO_COLOR",
)
_MARK = "TEST_SUITE_MARK"

# A shell without job control starts `pytest &` with SIGINT and SIGQUIT ignored, nohup and cron do
# so with SIGHUP; every process of the tests would inherit that, and Ctrl-C would stop none of them.
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
for _signum in _STOP_SIGNALS:
    signal.signal(
        _signum, signal.default_int_handler if _signum == signal.SIGINT else signal.SIG_DFL
    )
signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)


class Completed(NamedTuple):
    """A process that has ended."""

    code: int  # minus the signal's number when one killed it
    out: str
    err: str
    seconds: float

    @property
    def lines(self) -> list[str]:
        """The lines of stdout in sorted order, because ranks print when they like."""
        return sorted(self.out.splitlines())


class Running:
    """A process that is being watched. Its output is read all the time, so it never blocks on
    us.
    """

    def __init__(self, process: subprocess.Popen[bytes], reading: bool = True) -> None:
        self.process = process
        self.pid = process.pid
        self._began = time.monotonic()
        self._data = {"out": bytearray(), "err": bytearray()}
        self._news = threading.Condition()
        self._threads: list[threading.Thread] = []
        if reading:
            self.read()

    def read(self) -> None:
        """Begin to read its output."""
        for name, pipe in (("out", self.process.stdout), ("err", self.process.stderr)):
            if pipe is not None:
                thread = threading.Thread(
                    target=self._collect, args=(name, pipe.fileno()), daemon=True
                )
                thread.start()
                self._threads.append(thread)

    def _collect(self, name: str, fd: int) -> None:
        while True:
            data = os.read(fd, 1 << 16)
            with self._news:
                self._data[name] += data
                self._news.notify_all()
            if not data:
                return

    @property
    def out(self) -> str:
        return self._data["out"].decode("utf-8", "surrogateescape")

    @property
    def err(self) -> str:
        return self._data["err"].decode("utf-8", "surrogateescape")

    def wait_for(self, text: str, count: int = 1) -> None:
        """Wait until `text` stands `count` times in what it printed."""
        wanted = text.encode("utf-8", "surrogateescape")
        deadline = time.monotonic() + TIMEOUT_S
        with self._news:
            while self._data["out"].count(wanted) + self._data["err"].count(wanted) < count:
                if self.process.poll() is not None and not any(
                    thread.is_alive() for thread in self._threads
                ):
                    break
                if time.monotonic() > deadline:
                    break
                self._news.wait(0.05)
            found = self._data["out"].count(wanted) + self._data["err"].count(wanted)
        assert found >= count, (
            f"{text!r} did not come {count} times; stdout {self.out!r}, stderr {self.err!r}"
        )

    def send(self, signum: int) -> None:
        self.process.send_signal(signum)

    def finish(self, timeout_s: float = TIMEOUT_S) -> Completed:
        """Wait for its end; TimeoutExpired if that takes longer, as `ask_until` counts."""
        if not ask_until(lambda: self.process.poll() is not None, timeout_s):
            raise subprocess.TimeoutExpired(self.process.args, timeout_s)
        code = self.process.returncode
        for thread in self._threads:
            thread.join(timeout_s)
        return Completed(code, self.out, self.err, time.monotonic() - self._began)


def ask_until(condition: Callable[[], Any], timeout_s: float) -> Any:
    """Ask again and again until the answer is yes or the time is up; return the last answer.

    A machine that stands still for a moment ages nobody: what we wait for could not happen either.
    """
    left_s, asked_at = timeout_s, time.monotonic()
    while not (answer := condition()) and left_s > 0:
        time.sleep(0.005)
        now = time.monotonic()
        left_s -= min(now - asked_at, _STILL_S)
        asked_at = now
    return answer


def wait_until(condition: Callable[[], Any], what: str, timeout_s: float = 20.0) -> Any:
    """Ask again and again until the answer is yes, and return it."""
    answer = ask_until(condition, timeout_s)
    assert answer, f"never happened: {what}"
    return answer


def find_free_port(host: str = "127.0.0.1") -> int:
    """Return a TCP port at which nobody listens; `host` is an address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as server:
        return int(server.getsockname()[1])


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (OSError, ProcessLookupError):
        return False
    return stat.rpartition(b")")[2].split()[0] not in (b"Z", b"X")


def marked_processes(mark: str) -> dict[int, str]:
    """Return pid -> command line of all processes that were started with this mark, zombies left
    out.
    """
    wanted = f"{_MARK}={mark}".encode()
    found = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            if wanted in (folder / "environ").read_bytes().split(b"\0") and is_alive(
                int(folder.name)
            ):
                found[int(folder.name)] = (
                    (folder / "cmdline")
                    .read_bytes()
                    .replace(b"\0", b" ")
                    .decode(errors="replace")
                    .strip()
                )
        except OSError:
            continue
    return found


def kill_leftovers(mark: str, timeout_s: float) -> dict[int, str]:
    """Wait until nobody has this mark any more; kill who still has it when the time is up, and
    return those.
    """
    left: dict[int, str] = {}

    def all_gone() -> bool:
        nonlocal left
        left = marked_processes(mark)
        return not left

    ask_until(all_gone, timeout_s)
    for pid in left:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    return left


def _zombies() -> list[int]:
    children = []
    for thread in Path("/proc/self/task").iterdir():
        try:
            children += [int(pid) for pid in (thread / "children").read_text().split()]
        except OSError:
            continue
    return [pid for pid in children if not is_alive(pid)]


@pytest.fixture(autouse=True)
def clean_env(monkeypatch: pytest.MonkeyPatch) -> None:
    """No launcher, scheduler or thread setting around the tests reaches the processes that they
    start.
    """
    for name in list(os.environ):
        if name.startswith(_STARTERS + _OURS):
            monkeypatch.delenv(name)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    paths = [str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(dict.fromkeys(paths)))


@pytest.fixture(autouse=True)
def suite_mark(clean_env: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The mark of this test; afterwards nobody carries it any more, and no ended child is left
    unreaped.
    """
    mark = os.urandom(8).hex()
    monkeypatch.setenv(_MARK, mark)
    yield mark
    # What has been killed a moment ago may take the kernel a moment to take apart.
    left = kill_leftovers(mark, 2.0)
    zombies = _zombies()
    assert not left, f"still running after the test: {left}"
    assert not zombies, f"ended but never waited for: {zombies}"


def command(*args: str | bytes) -> list[str | bytes]:
    """Return the command line of the launcher with these arguments."""
    return [sys.executable, "-m", "launcher", *args]


Start = Callable[..., Running]
Run = Callable[..., Completed]
Script = Callable[..., str]


@pytest.fixture
def start_command(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Start any command in `tmp_path`; what still runs at the end of the test is killed."""
    running: list[Running] = []

    def begin(
        argv: Sequence[str | bytes],
        *,
        env: Mapping[str, str | None] | None = None,
        reading: bool = True,
        **options: Any,
    ) -> Running:
        environ = {**os.environ, **(env or {})}
        options = {
            "cwd": tmp_path,
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
        } | options
        process = subprocess.Popen(
            argv,
            env={name: value for name, value in environ.items() if value is not None},
            **options,
        )
        running.append(Running(process, reading))
        return running[-1]

    yield begin
    for child in running:
        if child.process.poll() is None:
            child.process.kill()
            child.process.wait()
        for pipe in (child.process.stdin, child.process.stdout, child.process.stderr):
            if pipe is not None:
                pipe.close()


@pytest.fixture
def run_command(start_command: Start) -> Run:
    """Run any command in `tmp_path` to its end; `stdin` is text for it, or a file."""

    def execute(
        argv: Sequence[str | bytes],
        *,
        stdin: Any = subprocess.DEVNULL,
        timeout_s: float = TIMEOUT_S,
        **options: Any,
    ) -> Completed:
        is_text = isinstance(stdin, (str, bytes))
        child = start_command(argv, stdin=subprocess.PIPE if is_text else stdin, **options)
        if is_text:
            child.process.stdin.write(stdin.encode() if isinstance(stdin, str) else stdin)
            child.process.stdin.close()
        return child.finish(timeout_s)

    return execute


@pytest.fixture
def start(start_command: Start) -> Start:
    """Start the launcher with these arguments, and go on."""
    return lambda *args, **options: start_command(command(*args), **options)


@pytest.fixture
def run(run_command: Run) -> Run:
    """Run the launcher with these arguments to its end."""
    return lambda *args, **options: run_command(command(*args), **options)


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """Write a script into `tmp_path` and return its name there."""

    def write(text: str, name: str = "script.py") -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return name

    return write


@pytest.fixture(params=["spawn", "warm"])
def method(request: pytest.FixtureRequest) -> str:
    """Both start methods."""
    return str(request.param)


def run_dirs(tmp_path: Path) -> list[Path]:
    """Return the folders of this test's runs, in the order of their names."""
    return sorted(path for path in (tmp_path / "runs").iterdir() if not path.is_symlink())


@pytest.fixture
def only_run_dir(tmp_path: Path) -> Callable[[], Path]:
    """Return the folder of the only run of this test."""

    def find() -> Path:
        (folder,) = run_dirs(tmp_path)
        return folder

    return find


@pytest.fixture
def said(tmp_path: Path) -> Callable[[], list[str]]:
    """Return what ranks have written into files said_RANK, in order: an engine may mix their lines
    on its stdout.
    """
    return lambda: [path.read_text() for path in sorted(tmp_path.glob("said_*"))]


class Terminal:
    """A pseudo-terminal on which the launcher runs, in a session of its own."""

    def __init__(
        self,
        start_command: Start,
        *args: str,
        size: tuple[int, int] | None = None,
        streams: Mapping[str, int] | None = None,
        **env: str,
    ) -> None:
        """size: columns and rows. streams: what is not this terminal, as for `subprocess`."""
        self.master, slave = os.openpty()
        if size is not None:
            self.resize(*size)

        def take_terminal() -> None:
            import fcntl
            import termios

            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self.running: Running = start_command(
            command(*args),
            **{"stdin": slave, "stdout": slave, "stderr": slave, **(streams or {})},
            start_new_session=True,
            preexec_fn=take_terminal,
            env={"TERM": "xterm", **env},
        )
        os.close(slave)
        self.seen = b""

    def resize(self, columns: int, rows: int) -> None:
        import fcntl
        import struct
        import termios

        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def read(self) -> bytes:
        assert select.select([self.master], [], [], TIMEOUT_S)[0], f"silence after {self.seen!r}"
        try:
            data = os.read(self.master, 1 << 16)
        except OSError:  # how Linux says that the other end has gone
            return b""
        self.seen += data
        return data

    def wait_for(self, text: bytes, count: int = 1) -> None:
        while self.seen.count(text) < count:
            assert self.read(), f"{text!r} is not {count} times in {self.seen!r}"

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def finish(self) -> int:
        """Read to the end and return the exit code."""
        while self.read():
            pass
        os.close(self.master)
        return int(self.running.process.wait(TIMEOUT_S))
