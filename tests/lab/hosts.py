"""Hosts of a private network on this machine, as real as tests need them: each has its own name,
addresses, process numbers, /dev/shm, /run and /etc/hosts; the files are those of a cluster, shared.

A host is a set of namespaces whose process 1 does nothing but reap. The cables end in a switch,
which is a network of its own, so two labs never meet. All of it lives as long as the tests do:
processes 1 end when their stdin does, and the kernel then ends the others of their host.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.conftest import Completed, Running, ask_until, is_alive, wait_until
from tests.lab import namespaces

_PATH = os.environ["PATH"] + ":/usr/sbin:/sbin"  # where Debian keeps ip, iptables and sshd

_PREFIX4 = "10.77.0."
_PREFIX6 = "fd77::"

# What process 1 of a host does. bash reaps whoever has lost its parent.
_BOOT = """\
set -e
hostname {name}
mount --bind {folder}/hosts /etc/hosts
mount --bind {folder}/resolv.conf /etc/resolv.conf
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mkdir /run/tmp
echo ready
while read -r; do :; done
"""

_RELAY = Path(__file__).with_name("relay.py")

# How long what a killed process leaves may take to go.
_GONE_S = 5.0


class Switch:
    """What the cables of all hosts end in."""

    def __init__(self) -> None:
        self.network = namespaces.make_network()
        self.configure(
            "link add br0 type bridge mcast_snooping 0", "link set br0 up", "link set lo up"
        )

    def configure(self, *lines: str) -> None:
        """Give these commands to ip."""
        _configure(self.network, lines)

    def close(self) -> None:
        os.close(self.network)


class Daemon(NamedTuple):
    """A service of a host, which runs in the foreground."""

    name: str
    argv: list[str]
    env: Mapping[str, str]
    # Asked until the answer is yes.
    is_ready: Callable[[], object]


class Host:
    """One host; `number` counts from 1 and gives its name and its addresses."""

    def __init__(self, number: int, switch: Switch, folder: Path, names: Mapping[str, str]) -> None:
        """names: name -> address, what /etc/hosts of all hosts says."""
        self.number = number
        self.name = f"h{number}"
        self.address = address_of(number)
        self.address6 = address6_of(number)
        # Whether a test has done something to it that the next one must not meet.
        self.is_changed = False
        # What its /etc/hosts says when it boots.
        self.names = dict(names)
        self._switch = switch
        self._folder = folder / self.name
        self._folder.mkdir()
        self._network = -1
        self._init: subprocess.Popen[bytes] | None = None
        self._pid = 0  # of its process 1
        self._pidfd = -1
        self._prefix: list[str] = []
        self._relay: subprocess.Popen[bytes] | None = None
        self._daemons: list[Daemon] = []
        self._running_daemons: list[subprocess.Popen[bytes]] = []
        # The processes that daemons are made of.
        self._kept: set[int] = set()
        self._started: list[Running] = []
        # Where commands start.
        self.cwd = self._folder

    def boot(self, uptime_s: int = 0) -> None:
        """Start it; what was changed about it is forgotten, and its daemons run again.

        uptime_s: how much longer than this machine it seems to have been up; its monotonic clock
        is ahead by that.
        """
        self.kill()
        self._lay_cable()
        self.set_names(self.names)
        self.set_nameserver(None)
        # --kill-child: nobody of the host outlives `unshare`, which nobody can reach from inside.
        argv = ["unshare", "--uts", "--ipc", "--mount", "--propagation=private", "--pid", "--fork"]
        argv += ["--mount-proc", "--kill-child"]
        if uptime_s:
            argv += ["--time", f"--monotonic={uptime_s}", f"--boottime={uptime_s}"]
        script = _BOOT.format(name=self.name, folder=shlex.quote(str(self._folder)))
        with (self._folder / "boot.log").open("wb") as log:
            self._init = namespaces.start_in_network(
                self._network,
                [*argv, "bash", "-c", script],
                env={"PATH": _PATH},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        assert self._init.stdout is not None
        assert self._init.stdout.readline() == b"ready\n", (
            f"{self.name} does not boot: see {log.name}"
        )
        outer = self._init.pid
        self._pid = int(Path(f"/proc/{outer}/task/{outer}/children").read_text())
        self._pidfd = os.pidfd_open(self._pid)
        # A thread cannot enter a time namespace, a program can.
        self._prefix = ["nsenter", "--time=/proc/1/ns/time_for_children"] if uptime_s else []
        self.is_changed = bool(uptime_s)
        for daemon in self._daemons:
            self._start_daemon(daemon)

    def kill(self) -> None:
        """End all of its processes at once: the kernel closes their connections, as it does when
        a machine is shut down in a hurry.
        """
        self.is_changed = True
        if self._init is None:
            return
        try:
            os.kill(self._pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        # The kernel lets process 1 go last, and the others only when we have looked at them.
        for process in (*(item.process for item in self._started), *self._running_daemons):
            process.wait()
        self._running_daemons.clear()
        self._init.wait()
        _close_pipes(self._init)
        os.close(self._pidfd)
        self._init = None
        self._kept = set()

    def power_off(self) -> None:
        """Let it fall silent for good: nobody hears of the end of its processes."""
        self.unplug()
        self.kill()

    def unplug(self) -> None:
        """Pull its network cable."""
        self.is_changed = True
        self._switch.configure(f"link set v{self.number} down")

    def plug(self) -> None:
        """Put its network cable back."""
        self._switch.configure(f"link set v{self.number} up")

    def filter(self, rule: str) -> None:
        """Add a rule to its firewall: `INPUT -p tcp --dport 29400 -j DROP`, say."""
        self.is_changed = True
        for program in ("iptables", "ip6tables"):
            done = self.run(program, "--wait", "-A", *rule.split())
            assert done.code == 0, done.err

    def lose(self, share: float) -> None:
        """Lose this share of what it sends and of what it is sent."""
        how = f"-m statistic --mode random --probability {share} -j DROP"
        self.filter(f"OUTPUT ! -o lo {how}")
        self.filter(f"INPUT ! -i lo {how}")

    def delay(self, delay_ms: float) -> None:
        """Let everything take longer, on the way to it and on the way from it."""
        self.is_changed = True
        i = self.number
        self._switch.configure(
            f"link set v{i} nomaster",
            f"link add w{i} type veth peer name r{i}",
            f"link set w{i} master br0 up",
            f"link set r{i} up",
        )
        argv = [sys.executable, "-I", "-S", str(_RELAY), f"v{i}", f"r{i}", str(delay_ms)]
        self._relay = namespaces.start_in_network(
            self._switch.network, argv, env={}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._relay.stdout is not None
        assert self._relay.stdout.readline() == b"ready\n"

    def set_names(self, names: Mapping[str, str]) -> None:
        """Let its /etc/hosts say this and nothing else: name -> address."""
        self.is_changed = True
        lines = [f"{address} {name}\n" for name, address in names.items()]
        (self._folder / "hosts").write_text("".join(lines))

    def set_nameserver(self, address: str | None) -> None:
        """Let it ask this address for names that it does not know; None: nobody."""
        self.is_changed = True
        text = f"nameserver {address}\n" if address else ""
        (self._folder / "resolv.conf").write_text(text)

    def forget_ipv4(self) -> None:
        """Leave it nothing but its IPv6 addresses."""
        self.is_changed = True
        _configure(self._network, [f"addr del {self.address}/24 dev eth0"])

    def start(
        self, *argv: Any, env: Mapping[str, str | None] | None = None, **options: Any
    ) -> Running:
        """Start a command on it; whatever still runs at the end of the test is killed."""
        environ = {**os.environ, "PATH": _PATH, "TMPDIR": "/run/tmp", **(env or {})}
        options = {
            "cwd": self.cwd,
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
        } | options
        process = namespaces.start_beside(
            self._pidfd,
            [*self._prefix, *argv],
            env={name: value for name, value in environ.items() if value is not None},
            **options,
        )
        self._started.append(Running(process))
        return self._started[-1]

    def run(self, *argv: Any, timeout_s: float = 30.0, **options: Any) -> Completed:
        """Run a command on it to its end."""
        return self.start(*argv, **options).finish(timeout_s)

    def add_daemon(self, daemon: Daemon) -> None:
        """Run a service on it, now and whenever it boots."""
        self._daemons.append(daemon)
        self._start_daemon(daemon)

    def listens(self, port: int) -> bool:
        """Tell whether somebody on it waits for connections at a port."""
        return self._has_socket(port, "0A")

    def serves(self, port: int) -> bool:
        """Tell whether somebody is connected to a port of it."""
        return self._has_socket(port, "01")

    def processes(self) -> dict[int, str]:
        """Return what runs on it, besides its daemons: number outside of it -> command line."""
        found: dict[int, str] = {}
        if self._init is None:
            return found
        inside = os.readlink(f"/proc/{self._pid}/ns/pid")
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit() or (pid := int(folder.name)) in self._kept:
                continue
            try:
                if os.readlink(folder / "ns" / "pid") == inside and is_alive(pid):
                    line = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
                    found[pid] = line.decode(errors="replace").strip()
            except OSError:
                continue
        found.pop(self._pid, None)
        return found

    def sweep(self) -> dict[int, str]:
        """End what a test has started on it, and return what outlived that."""
        for running in self._started:
            if running.process.poll() is None:
                running.process.kill()
                running.process.wait()
        ask_until(lambda: not self.processes(), _GONE_S)
        left = self.processes()
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        for running in self._started:
            running.finish()  # nobody is left who could write
            _close_pipes(running.process)
        self._started.clear()
        return left

    def close(self) -> None:
        """End it for good."""
        self.kill()
        for running in self._started:  # what has asked daemons, say, after the last test
            _close_pipes(running.process)
        self._cut_cable()

    def _has_socket(self, port: int, wanted: str) -> bool:
        """Tell whether a socket of it has this port, and this state, as the kernel writes it."""
        for name in ("tcp", "tcp6"):
            table = Path(f"/proc/{self._pid}/net/{name}").read_text().splitlines()[1:]
            for _, local, _, state, *_ in map(str.split, table):
                if local.endswith(f":{port:04X}") and state == wanted:
                    return True
        return False

    def _lay_cable(self) -> None:
        """Make its network anew, and join it to the switch."""
        self._cut_cable()
        self._network = namespaces.make_network()
        i, there = self.number, f"/proc/{os.getpid()}/fd/{self._network}"
        # The same hardware address as before: the others remember it.
        peer = f"peer name eth0 address 02:00:00:00:00:{i:02x} netns {there}"
        self._switch.configure(f"link add v{i} type veth {peer}", f"link set v{i} master br0 up")
        _configure(
            self._network,
            [
                "link set lo up",
                f"addr add {self.address}/24 dev eth0",
                # nodad: usable at once, not only after a second of asking whether it is taken.
                f"addr add {self.address6}/64 dev eth0 nodad",
                "link set eth0 up",
            ],
        )

    def _cut_cable(self) -> None:
        if self._relay is not None:
            self._relay.kill()
            self._relay.communicate()
            self._relay = None
            self._switch.configure(f"link del w{self.number}")
        if self._network >= 0:
            # The kernel takes a network apart when it finds time; its cable must be gone now.
            self._switch.configure(f"link del v{self.number}")
            os.close(self._network)
            self._network = -1

    def _start_daemon(self, daemon: Daemon) -> None:
        log_path = self._folder / f"{daemon.name}.log"
        with log_path.open("ab") as log:
            process = namespaces.start_beside(
                self._pidfd,
                [*self._prefix, *daemon.argv],
                env={"PATH": _PATH, **daemon.env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._running_daemons.append(process)
        wait_until(daemon.is_ready, f"{daemon.name} runs on {self.name}: see {log_path}")
        self._kept.update(self.processes())


def find_program(name: str) -> str | None:
    """Return the full name of a program, which may be one of the administrator's."""
    return shutil.which(name, path=_PATH)


def address_of(number: int) -> str:
    return f"{_PREFIX4}{number}"


def address6_of(number: int) -> str:
    return f"{_PREFIX6}{number}"


def _configure(network: int, lines: Sequence[str]) -> None:
    process = namespaces.start_in_network(
        network,
        ["ip", "-batch", "-"],
        env={"PATH": _PATH},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    _, err = process.communicate("".join(f"{line}\n" for line in lines).encode())
    assert process.returncode == 0, err.decode()


def _close_pipes(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
