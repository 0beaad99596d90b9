"""The services that hosts of the lab can run: sshd, and Slurm with a slurmd on each of them."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.lab.hosts import Daemon, Host, find_program

_SSH_PORT = 22
_GPUS = 2

_SSH_CONFIG = """\
Host h* 10.77.0.* fd77:*
  User root
  IdentityFile {folder}/user_key
  UserKnownHostsFile {folder}/known_hosts
  GlobalKnownHostsFile /dev/null
  BatchMode yes
  LogLevel ERROR
  ConnectTimeout 5
"""

_SLURM_CONF = """\
ClusterName=lab
SlurmctldHost={first.name}({first.address})
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
TmpFS={folder}/tmp-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_min_interval=0,bf_interval=1
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
SlurmdParameters=config_overrides
SlurmdTimeout=10
KillWait=3
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
NodeName=h[1-{count}] CPUs=4 RealMemory=4000 Gres=gpu:{gpus} State=UNKNOWN
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=0
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""


def start_sshd(hosts: Sequence[Host], folder: Path) -> Path:
    """Run sshd on hosts; return a configuration for ssh, which asks for nothing."""
    _need({"sshd": "openssh-server", "ssh": "openssh-client", "ssh-keygen": "openssh-client"})
    for name in ("host_key", "user_key"):
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(argv, check=True)
    shutil.copy(folder / "user_key.pub", folder / "authorized_keys")
    key = " ".join((folder / "host_key.pub").read_text().split()[:2])
    known = [f"{host.name},{host.address},{host.address6} {key}\n" for host in hosts]
    (folder / "known_hosts").write_text("".join(known))
    config = folder / "config"
    config.write_text(_SSH_CONFIG.format(folder=folder))
    options = {
        "AuthorizedKeysFile": folder / "authorized_keys",
        "PidFile": "none",
        "StrictModes": "no",  # the folder of a test belongs to whoever runs the tests
        "UsePAM": "no",
        "UseDNS": "no",
        "PermitRootLogin": "prohibit-password",
        "PasswordAuthentication": "no",
        "Subsystem": "sftp internal-sftp",
        "MaxStartups": "100",
    }
    # By its full name, or it refuses to start; -e: its log is its stderr.
    argv = [str(find_program("sshd")), "-D", "-e", "-f", "/dev/null", "-h", f"{folder}/host_key"]
    for name, value in options.items():
        argv += ["-o", f"{name}={value}"]
    for host in hosts:
        # Where it takes privileges from itself; /run of a host is empty when it boots.
        shell = ["sh", "-c", 'mkdir -p /run/sshd; exec "$0" "$@"', *argv]
        host.add_daemon(Daemon("sshd", shell, {}, lambda host=host: host.listens(_SSH_PORT)))
    return config


def start_slurm(hosts: Sequence[Host], folder: Path) -> Path:
    """Run slurmctld on the first host and slurmd on all; return the configuration.

    Each host has two GPUs, which are copies of /dev/null. Jobs of the partition `high` preempt
    those of `test`.
    """
    _need({"slurmd": "slurmd", "slurmctld": "slurmctld", "srun": "slurm-client"})
    conf = folder / "slurm.conf"
    conf.write_text(_SLURM_CONF.format(first=hosts[0], folder=folder, count=len(hosts), gpus=_GPUS))
    (folder / "state").mkdir()
    gpus = []
    for host in hosts:
        for kind in ("spool", "tmp"):
            (folder / f"{kind}-{host.name}").mkdir()
        path = folder / f"gpu-{host.name}-"
        for number in range(_GPUS):
            os.mknod(f"{path}{number}", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
        gpus.append(f"NodeName={host.name} Name=gpu File={path}[0-{_GPUS - 1}]\n")
    (folder / "gres.conf").write_text("".join(gpus))
    env = {"SLURM_CONF": str(conf)}

    def is_idle(*names: str) -> bool:
        argv = ("sinfo", "--noheader", "--partition=test", "--states=idle", "--format=%n")
        done = hosts[0].run(*argv, env=env)
        return set(names) <= set(done.out.split()) and done.code == 0

    hosts[0].add_daemon(Daemon("slurmctld", ["slurmctld", "-D", "-c", "-i"], env, is_idle))
    for host in hosts:
        # The controller asks a node that has come back only now and then.
        daemon = Daemon("slurmd", ["slurmd", "-D", "-c"], env, lambda host=host: is_idle(host.name))
        host.add_daemon(daemon)
    return conf


def _need(programs: dict[str, str]) -> None:
    missing = {package for program, package in programs.items() if not find_program(program)}
    if missing:
        pytest.skip(f"not installed: apt-get install {' '.join(sorted(missing))}")
