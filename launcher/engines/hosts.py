"""The hosts of a launch: what --hosts or --hostfile says, checked against the other options."""

from __future__ import annotations

import os

from launcher.errors import UsageError
from launcher.options.hosts import Host, parse_hostfile, parse_hosts
from launcher.options.option import PROG
from launcher.options.spec import LaunchSpec


def find_hosts(spec: LaunchSpec) -> tuple[Host, ...]:
    """Return the hosts to start on; UsageError, naming file and line, for what is no list."""
    if not spec.hosts and spec.hostfile is None:
        hint = f"Type for example: {PROG} --engine {spec.engine} --hosts node1:8,node2:8"
        raise spec.error("engine", "needs hosts to start on", f"{hint} {spec.script}")
    hosts = parse_hosts(spec.hosts) if spec.hosts else _read_hostfile(spec)
    _check_number(spec, hosts)
    _check_workers(spec, hosts)
    return hosts


def _read_hostfile(spec: LaunchSpec) -> tuple[Host, ...]:
    path = os.path.expanduser(spec.hostfile or "")
    hint = f"A line of it looks like this: node1 slots=8. Without a file: {PROG} --hosts node1:8"
    try:
        with open(path, encoding="utf-8", errors="backslashreplace") as file:
            return parse_hostfile(file.read())
    except OSError as error:
        raise spec.error("hostfile", f"cannot be read: {error.strerror}", hint) from None
    except ValueError as problem:
        raise spec.error("hostfile", str(problem), hint) from None


def _check_number(spec: LaunchSpec, hosts: tuple[Host, ...]) -> None:
    if _is_given(spec, "nnodes") and spec.max_nodes > len(hosts):
        names = ",".join(host.name for host in hosts)
        raise UsageError(
            f"{spec.find_source('nnodes')} {spec.nnodes} and {_source(spec)} contradict each other:"
            f" {'there is' if len(hosts) == 1 else 'there are'} {len(hosts)} ({names}).",
            hint="Name more hosts, or leave --nnodes out: it is their number.",
        )


def _check_workers(spec: LaunchSpec, hosts: tuple[Host, ...]) -> None:
    """Refuse a number of workers that would be ignored: each host has one of its own."""
    numbers = {str(host.num_workers) for host in hosts}
    if (
        _is_given(spec, "nproc_per_node")
        and "None" not in numbers
        and numbers != {spec.nproc_per_node}
    ):
        raise UsageError(
            f"{spec.find_source('nproc_per_node')} {spec.nproc_per_node} and {_source(spec)}"
            " contradict each other: the list has the number of workers of each host.",
            hint="Leave one of the two numbers out.",
        )


def _is_given(spec: LaunchSpec, name: str) -> bool:
    return spec.provenance.get(name, "default") != "default"


def _source(spec: LaunchSpec) -> str:
    if spec.hosts:
        return f"{spec.find_source('hosts')} {spec.hosts}"
    return f"{spec.find_source('hostfile')} {spec.hostfile}"
