"""What this machine has, and how much of it is ours: usable CPUs, visible GPUs, cgroups.

Read from the kernel's files; which worker gets what is decided elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

# NVIDIA's driver has a folder here for each GPU, named by its PCI address.
GPU_FOLDER = "/proc/driver/nvidia/gpus"


def usable_cpus() -> int:
    """Return how many CPUs this process may use, by its affinity and its cgroup's quota."""
    count = len(os.sched_getaffinity(0))
    quota = _cgroup_cpus()
    return max(1, min(count, quota) if quota else count)


def _cgroup_cpus() -> int:
    """Return the smallest CPU quota from our cgroup upwards, in whole CPUs; 0 for none."""
    quotas = [quota for quota in map(_quota_of, cgroup_folders("cpu")) if quota > 0]
    return max(1, int(min(quotas) + 0.999)) if quotas else 0


def _quota_of(folder: str) -> float:
    """Return the number of CPUs that a cgroup may use; 0 for no limit."""
    v2 = read_text(f"{folder}/cpu.max").split()
    if len(v2) == 2 and v2[0] != "max":
        return int(v2[0]) / int(v2[1])
    quota = read_text(f"{folder}/cpu.cfs_quota_us")
    period = read_text(f"{folder}/cpu.cfs_period_us")
    return int(quota) / int(period) if quota and period and int(quota) > 0 else 0.0


def visible_gpus(environ: Mapping[str, str]) -> list[str]:
    """Return the GPUs that a worker would see, by CUDA_VISIBLE_DEVICES' names, without torch."""
    chosen = environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        # CUDA itself stops reading at the first entry that is not a device ("-1" hides all).
        devices: list[str] = []
        for entry in (piece.strip() for piece in chosen.split(",")):
            if not entry or entry.startswith("-"):
                break
            devices.append(entry)
        return devices
    try:
        return [str(index) for index in range(len(os.listdir(GPU_FOLDER)))]
    except OSError:
        pass  # a container may have the devices, and not the driver's folder
    try:
        names = os.listdir("/dev")
    except OSError:
        return []
    count = sum(name.startswith("nvidia") and name[6:].isdigit() for name in names)
    return [str(index) for index in range(count)]


def read_text(path: str) -> str:
    """Return a small file of the kernel's, stripped; "" when it cannot be read."""
    try:
        with open(path, errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


def cgroup_folders(controller: str) -> list[str]:
    """Return our cgroup's folder for a controller and those above it, inside out, v1 and v2."""
    folders: list[str] = []
    for line in read_text("/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root = "/sys/fs/cgroup"
        elif controller in controllers.split(","):
            root = f"/sys/fs/cgroup/{controller}"
        else:
            continue
        parts = path.strip("/").split("/") if path != "/" else []
        folders.extend("/".join([root, *parts[:depth]]) for depth in range(len(parts), -1, -1))
    return folders
