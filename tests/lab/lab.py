"""The lab: some hosts, and what tests want of all of them at once."""

from __future__ import annotations

from pathlib import Path

from tests.lab import daemons, namespaces
from tests.lab.hosts import Host, Switch, address6_of, address_of, find_program

_PROGRAMS = {
    "ip": "iproute2",
    "iptables": "iptables",
    "ping": "iputils-ping",
    "unshare": "util-linux",
}


def find_obstacle() -> str:
    """Return why there can be no lab here, or ""."""
    missing = [package for program, package in _PROGRAMS.items() if not find_program(program)]
    if missing:
        return f"not installed: apt-get install {' '.join(missing)}"
    return namespaces.find_obstacle()


class Lab:
    """Hosts h1, h2, ... at 10.77.0.1 and fd77::1, ...; end it with `close`."""

    def __init__(self, folder: Path, num_hosts: int = 3) -> None:
        """folder: an empty one, for what belongs to the hosts and to their daemons."""
        self.folder = folder
        numbers = range(1, num_hosts + 1)
        names = {"localhost": "127.0.0.1"} | {f"h{i}": address_of(i) for i in numbers}
        self._switch = Switch()
        self.hosts = [Host(i, self._switch, folder, names) for i in numbers]
        self._ssh_config: Path | None = None
        self._slurm_conf: Path | None = None
        for host in self.hosts:
            host.boot()

    def __getitem__(self, name: str) -> Host:
        return self.hosts[int(name[1:]) - 1]

    def set_cwd(self, folder: Path) -> None:
        """Let commands start in a folder, on all hosts."""
        for host in self.hosts:
            host.cwd = folder

    def use_ipv6(self) -> None:
        """Take all IPv4 addresses away; names lead to IPv6 addresses."""
        names = {"localhost": "::1"} | {h.name: address6_of(h.number) for h in self.hosts}
        for host in self.hosts:
            host.forget_ipv4()
            host.set_names(names)

    def start_sshd(self) -> Path:
        """Run sshd on all hosts from now on; return a configuration for ssh that leads to them."""
        if self._ssh_config is None:
            self._ssh_config = daemons.start_sshd(self.hosts, self._make_folder("ssh"))
        return self._ssh_config

    def start_slurm(self) -> Path:
        """Run Slurm on all hosts from now on; return what SLURM_CONF must be on them."""
        if self._slurm_conf is None:
            self._slurm_conf = daemons.start_slurm(self.hosts, self._make_folder("slurm"))
        return self._slurm_conf

    def renew(self) -> dict[str, dict[int, str]]:
        """End what a test has started and undo what it has changed; return what outlived the
        first, by host.
        """
        left = {host.name: processes for host in self.hosts if (processes := host.sweep())}
        changed = [host for host in self.hosts if host.is_changed]
        # A controller that comes back takes seconds to look for nodes that were there before it.
        if self._slurm_conf and self.hosts[0] in changed:
            changed = self.hosts
        for host in changed:
            host.boot()
        return left

    def close(self) -> None:
        for host in self.hosts:
            host.close()
        self._switch.close()

    def _make_folder(self, name: str) -> Path:
        path = self.folder / name
        path.mkdir(mode=0o700)
        return path
