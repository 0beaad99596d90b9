"""Which CPUs each worker is bound to with --numa-binding: near its GPU, or its share of the nodes.

NUMA nodes, sockets, cores and caches are read from the kernel's files below a root folder, which
tests replace; nothing here changes an affinity.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Sequence

from launcher.system.machine import GPU_FOLDER, read_text


def cpus_of_workers(
    mode: str, num_workers: int, gpus: Sequence[str], allowed: Collection[int], root: str = "/"
) -> tuple[frozenset[int], ...]:
    """Return the CPUs of each worker, by local rank.

    mode: as --numa-binding names it. gpus: names of the visible GPUs as CUDA_VISIBLE_DEVICES has
    them, worker i uses the i-th; where there are none, neighbouring workers share a node. allowed:
    the CPUs that this process may use. Raises ValueError, whose text ends a sentence that begins
    with the option, when the machine has no such CPUs or does not tell where a GPU is.
    """
    machine = _Machine(root, frozenset(allowed))
    # One seat for each GPU, also for those that no worker uses: their share of an exclusive split
    # stays free, as in torchrun.
    num_seats = max(num_workers, len(gpus))
    if gpus:
        seats = [machine.node_of_gpu(gpus[seat % len(gpus)]) for seat in range(num_seats)]
    else:
        nodes = sorted(machine.nodes)
        seats = [nodes[seat * len(nodes) // num_seats] for seat in range(num_seats)]
    return tuple(machine.choose(mode, seats, worker) for worker in range(num_workers))


def _parse_cpus(text: str) -> frozenset[int]:
    """Return the CPUs of the kernel's notation: 0, 1, 2, 3 and 8 for `0-3,8`."""
    found: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)


class _Machine:
    """The CPUs that may be used, by node, socket, core and cache."""

    def __init__(self, root: str, allowed: frozenset[int]) -> None:
        self._root = root
        folder = self._path("sys/devices/system/node")
        names = [
            name for name in _entries(folder) if name.startswith("node") and name[4:].isdigit()
        ]
        found = {
            int(name[4:]): _parse_cpus(read_text(f"{folder}/{name}/cpulist")) & allowed
            for name in names
        }
        # A node may have no CPU that we may use; a kernel without NUMA has no nodes.
        self.nodes = {node: cpus for node, cpus in found.items() if cpus} or {0: allowed}

    def choose(self, mode: str, seats: Sequence[int], seat: int) -> frozenset[int]:
        """Return the CPUs of one seat; `seats` has the node of each."""
        node = seats[seat]
        index, count = seats[:seat].count(node), seats.count(node)
        if mode == "socket":
            return self.socket_of(node)
        if mode == "exclusive":
            return self.share_of(node, index, count)
        if mode == "core-complex":
            return self.complex_of(node, index)
        return self.cpus_of(node)

    def cpus_of(self, node: int) -> frozenset[int]:
        if node not in self.nodes:
            raise ValueError(
                f"needs CPUs of NUMA node {node}, where a GPU is, and this process may use none of"
                " them"
            )
        return self.nodes[node]

    def socket_of(self, node: int) -> frozenset[int]:
        """Return the CPUs of all nodes of this node's socket."""
        socket = self._socket(self.cpus_of(node))
        return frozenset().union(
            *(cpus for cpus in self.nodes.values() if self._socket(cpus) == socket)
        )

    def share_of(self, node: int, index: int, count: int) -> frozenset[int]:
        """Return the `index`-th of `count` even shares of the node's cores, with all threads."""
        cores = _grouped(self.cpus_of(node), self._first_of_core)
        if len(cores) < count:
            raise ValueError(
                f"needs a core for each of {count} workers or GPUs on NUMA node {node}, which has"
                f" {len(cores)}"
            )
        size, more = divmod(len(cores), count)
        begin = index * size + min(index, more)
        return frozenset().union(*cores[begin : begin + size + (index < more)])

    def complex_of(self, node: int, index: int) -> frozenset[int]:
        """Return the CPUs of one of the node's last-level caches: largest first, in turn."""
        complexes = sorted(
            _grouped(self.cpus_of(node), self._first_of_cache),
            key=lambda cpus: (-len(cpus), min(cpus)),
        )
        return complexes[index % len(complexes)]

    def node_of_gpu(self, gpu: str) -> int:
        """Return the node to which a GPU is connected."""
        address = self._address(gpu)
        node = read_text(self._path(f"sys/bus/pci/devices/{address}/numa_node"))
        if not node:
            raise ValueError(
                f"needs to know where GPU {gpu} is, and the kernel does not tell it of the device"
                f" {address}"
            )
        return max(int(node), 0)  # -1 where there is only one

    def _address(self, gpu: str) -> str:
        """Return a GPU's PCI address.

        Numbers count in the order of the bus, which is CUDA's own for GPUs of one kind.
        """
        folder = self._path(GPU_FOLDER)
        addresses = sorted(_entries(folder))
        if gpu.isdigit():
            found = addresses[int(gpu) : int(gpu) + 1]
        else:
            found = [
                name
                for name in addresses
                if _uuid(read_text(f"{folder}/{name}/information")).startswith(gpu)
            ]
        if len(found) != 1:
            raise ValueError(f"needs to know where GPU {gpu} is, and {folder} does not tell")
        return found[0].lower()

    def _socket(self, cpus: frozenset[int]) -> str:
        return read_text(self._cpu(min(cpus), "topology/physical_package_id"))

    def _first_of_core(self, cpu: int) -> int:
        return min(
            _parse_cpus(read_text(self._cpu(cpu, "topology/thread_siblings_list"))), default=cpu
        )

    def _first_of_cache(self, cpu: int) -> int:
        folder = self._cpu(cpu, "cache")
        caches = [f"{folder}/{name}" for name in _entries(folder) if name.startswith("index")]
        data = [cache for cache in caches if read_text(f"{cache}/type") in ("Unified", "Data")]
        last = max(data, key=lambda cache: int(read_text(f"{cache}/level")), default="")
        return min(_parse_cpus(read_text(f"{last}/shared_cpu_list")), default=cpu)

    def _cpu(self, cpu: int, name: str) -> str:
        return self._path(f"sys/devices/system/cpu/cpu{cpu}/{name}")

    def _path(self, name: str) -> str:
        return os.path.join(self._root, name.lstrip("/"))


def _grouped(cpus: Iterable[int], key: Callable[[int], int]) -> list[frozenset[int]]:
    """Return the CPUs of each value of `key`, in the order of the values."""
    groups: dict[int, set[int]] = {}
    for cpu in cpus:
        groups.setdefault(key(cpu), set()).add(cpu)
    return [frozenset(groups[value]) for value in sorted(groups)]


def _uuid(information: str) -> str:
    lines = (line.partition(":") for line in information.splitlines())
    return next((value.strip() for name, _, value in lines if name.strip() == "GPU UUID"), "")


def _entries(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []
