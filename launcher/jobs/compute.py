"""Compute targets: names for where runs go, with as many slots as nodes were asked for.

Machines are not made on demand here: a target of Azure's is a queue on this machine, and says so.
"""

from __future__ import annotations

import os
import time
from typing import NamedTuple

from launcher.jobs import screen
from launcher.jobs.errors import ComputeTargetException
from launcher.jobs.meaningless import OF_COMPUTE, refuse_unknown
from launcher.jobs.slots import Slots
from launcher.jobs.store import check_name, read_json, write_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    import builtins
    from collections.abc import Sequence
    from typing import Any

    from launcher.jobs.workspace import Workspace

_LOCAL = "local"


class ProvisioningConfiguration(NamedTuple):
    """What was asked of a target that is to be made."""

    kind: str
    settings: dict[str, Any]


class ComputeTarget:
    """A target by its name; the right class of it is what you get."""

    kind = "AmlCompute"

    def __new__(cls, workspace: Workspace, name: str) -> ComputeTarget:
        settings = _read(workspace, name)
        if settings is None:
            known = [target.name for target in ComputeTarget.list(workspace)]
            raise ComputeTargetException(
                f"ComputeTargetNotFound: there is no compute target {name} in this workspace.",
                hint=f"There are: {', '.join(known)}.",
            )
        made = super().__new__(_CLASSES.get(settings.get("kind", ""), AmlCompute))
        made._settings = settings
        return made

    def __init__(self, workspace: Workspace, name: str) -> None:
        self.workspace = workspace
        self.name = name

    _settings: dict[str, Any]

    @staticmethod
    def create(
        workspace: Workspace, name: str, provisioning_configuration: ProvisioningConfiguration
    ) -> ComputeTarget:
        """Make a target; there are as many slots as nodes at most were asked for."""
        check_name(name, "a compute target")
        workspace._store.open_for_writing(workspace.name)
        path = workspace._store.join("compute", name + ".json")
        if name == _LOCAL or os.path.exists(path):
            raise ComputeTargetException(
                f"There is a compute target {name} already.",
                hint=f"Take it: ComputeTarget(workspace, {name!r})",
            )
        os.makedirs(os.path.dirname(path), exist_ok=True)
        kind, settings = provisioning_configuration
        write_json(path, {"kind": kind, "created": time.time(), **settings})
        return ComputeTarget(workspace, name)

    @staticmethod
    def attach(workspace: Workspace, name: str, attach_configuration: Any) -> ComputeTarget:
        """Make a target of something that exists."""
        return ComputeTarget.create(workspace, name, attach_configuration)

    @staticmethod
    def list(workspace: Workspace) -> list[ComputeTarget]:
        """Return all targets; this machine is always one."""
        try:
            names = sorted(os.listdir(workspace._store.join("compute")))
        except OSError:
            names = []
        stems = [name[:-5] for name in names if name.endswith(".json")]
        return [ComputeTarget(workspace, name) for name in [_LOCAL, *stems]]

    @property
    def type(self) -> str:
        return self.kind

    @property
    def provisioning_state(self) -> str:
        return "Succeeded"

    def wait_for_completion(
        self,
        show_output: bool = False,
        min_node_count: int | None = None,
        timeout_in_minutes: int = 25,
        **_: object,
    ) -> None:
        """Return at once: this machine is there already."""
        if show_output:
            screen.show("Creating\nSucceeded\nAmlCompute wait for completion finished\n")
            screen.show("Minimum number of nodes requested have been provisioned")
            limit = self._settings.get("max_nodes")
            screen.show(
                f"{self.name} is this machine, {os.uname().nodename}"
                + (f": {limit} slot(s) for runs at a time" if limit else "")
            )

    def get_status(self) -> ComputeStatus:
        """Return how many of its slots are taken."""
        return ComputeStatus(self)

    @property
    def status(self) -> ComputeStatus:
        return self.get_status()

    def serialize(self) -> dict[str, Any]:
        """Return what was asked of it and how it is."""
        return {"name": self.name, "type": self.kind, "status": self.get_status().serialize()}

    def update(
        self,
        min_nodes: int | None = None,
        max_nodes: int | None = None,
        idle_seconds_before_scaledown: int | None = None,
    ) -> None:
        """Change the number of slots; runs that wait see it when they are submitted again."""
        asked = {
            "min_nodes": min_nodes,
            "max_nodes": max_nodes,
            "idle_seconds": idle_seconds_before_scaledown,
        }
        self._settings.update({key: value for key, value in asked.items() if value is not None})
        write_json(self.workspace._store.join("compute", self.name + ".json"), self._settings)

    def list_nodes(self) -> builtins.list[dict[str, Any]]:
        """Return its slots, each with the run that holds it."""
        slots = Slots(self.workspace._store, self.name)
        return [
            {"nodeId": name, "nodeState": "running" if run else "idle", "runId": run}
            for name, run in slots.holders().items()
        ]

    def delete(self) -> None:
        """Forget the target; its runs stay."""
        if self.name == _LOCAL:
            raise ComputeTargetException("The target local is this machine and stays.")
        os.unlink(self.workspace._store.join("compute", self.name + ".json"))

    def __repr__(self) -> str:
        limit = self._settings.get("max_nodes")
        return f"{type(self).__name__}(name={self.name!r}, max_nodes={limit})"


class AmlCompute(ComputeTarget):
    """A queue on this machine, under the name of a cluster."""

    @staticmethod
    def supported_vmsizes(
        workspace: Workspace, location: str | None = None
    ) -> builtins.list[dict[str, Any]]:
        """Return the only size that there is: that of this machine."""
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return [
            {"name": os.uname().nodename, "vCPUs": os.cpu_count(), "memoryGB": memory / (1 << 30)}
        ]

    @staticmethod
    def provisioning_configuration(
        vm_size: str = "",
        vm_priority: str = "dedicated",
        min_nodes: int = 0,
        max_nodes: int | None = None,
        idle_seconds_before_scaledown: int | None = None,
        *,
        devices: Sequence[str] = (),
        **ignored: object,
    ) -> ProvisioningConfiguration:
        """Return what to make; sizes of machines are noted, and mean nothing here.

        devices: GPUs of this machine; each is a slot then, and each rank of a run gets one.
        """
        take = AmlCompute.provisioning_configuration
        refuse_unknown("provisioning_configuration", ignored, OF_COMPUTE, take)
        return ProvisioningConfiguration(
            "AmlCompute",
            {
                "vm_size": vm_size,
                "vm_priority": vm_priority,
                "min_nodes": min_nodes,
                "max_nodes": max_nodes,
                "idle_seconds": idle_seconds_before_scaledown,
                "devices": [*devices],
            },
        )


class BatchAiCompute(AmlCompute):
    """The same under its name of 2018."""

    @staticmethod
    def provisioning_configuration(  # type: ignore[override]
        vm_size: str = "",
        autoscale_enabled: bool = True,
        cluster_min_nodes: int = 0,
        cluster_max_nodes: int | None = None,
        **more: Any,
    ) -> ProvisioningConfiguration:
        """Return what to make, in the words of 2018."""
        return AmlCompute.provisioning_configuration(
            vm_size, min_nodes=cluster_min_nodes, max_nodes=cluster_max_nodes, **more
        )


class SlurmCompute(ComputeTarget):
    """A Slurm cluster that this machine can submit to."""

    kind = "Slurm"

    @staticmethod
    def attach_configuration(
        partition: str | None = None,
        account: str | None = None,
        qos: str | None = None,
        time: str | None = None,
        gres: str | None = None,
        constraint: str | None = None,
        mem: str | None = None,
        extra: Sequence[str] = (),
        *,
        warn_s: int | None = None,
    ) -> ProvisioningConfiguration:
        """Return what each job asks of Slurm, in the words of sbatch; `extra` are more options.

        warn_s: so many seconds before the time limit the ranks get SIGUSR1. It ends those that
        have no handler for it.
        """
        settings = {
            "partition": partition,
            "account": account,
            "qos": qos,
            "time": time,
            "gres": gres,
            "constraint": constraint,
            "mem": mem,
            "extra": [*extra],
            "warn_s": warn_s,
        }
        return ProvisioningConfiguration("Slurm", settings)

    def wait_for_completion(self, show_output: bool = False, *_: object, **__: object) -> None:
        """Return at once: the cluster is there already."""


class MpiHosts(ComputeTarget):
    """Machines that mpirun reaches, over ssh say, and that share the store's file system."""

    kind = "MpiHosts"

    @staticmethod
    def attach_configuration(
        hosts: Sequence[str], extra: Sequence[str] = ()
    ) -> ProvisioningConfiguration:
        """Return which machines; a run takes one for each of its nodes. `extra`: for mpirun."""
        return ProvisioningConfiguration("MpiHosts", {"hosts": [*hosts], "extra": [*extra]})

    def wait_for_completion(self, show_output: bool = False, *_: object, **__: object) -> None:
        """Return at once: the machines are there already."""


class LocalTarget(ComputeTarget):
    """This machine, with as many runs at a time as anybody starts."""

    kind = "local"


class ComputeStatus:
    """How a target is at one moment."""

    def __init__(self, target: ComputeTarget) -> None:
        self._settings = target._settings
        slots = Slots(target.workspace._store, target.name)
        self._limit = slots.limit
        self._busy = slots.num_busy()

    def serialize(self) -> dict[str, Any]:
        """Return it under the names that Azure ML gives it."""
        from launcher.jobs.history import as_utc

        limit = self._limit if self._limit is not None else 1
        created = as_utc(self._settings["created"]) if "created" in self._settings else None
        counts = dict.fromkeys(("preparing", "unusable", "leaving", "preempted"), 0)
        counts.update(running=self._busy, idle=max(0, limit - self._busy))
        return {
            "currentNodeCount": limit,
            "targetNodeCount": limit,
            "nodeStateCounts": {f"{name}NodeCount": count for name, count in counts.items()},
            "allocationState": "Steady",
            "allocationStateTransitionTime": created,
            "errors": None,
            "creationTime": created,
            "modifiedTime": created,
            "provisioningState": "Succeeded",
            "provisioningStateTransitionTime": None,
            "scaleSettings": {
                "minNodeCount": self._settings.get("min_nodes", 0),
                "maxNodeCount": self._settings.get("max_nodes"),
                "nodeIdleTimeBeforeScaleDown": f"PT{self._settings.get('idle_seconds') or 0}S",
            },
            "vmPriority": str(self._settings.get("vm_priority", "dedicated")).capitalize(),
            "vmSize": self._settings.get("vm_size", ""),
        }


_CLASSES: dict[str, type[ComputeTarget]] = {
    "AmlCompute": AmlCompute,
    "local": LocalTarget,
    "MpiHosts": MpiHosts,
    "Slurm": SlurmCompute,
}


def _read(workspace: Workspace, name: str) -> dict[str, Any] | None:
    if name == _LOCAL:
        return {"kind": _LOCAL}
    settings: dict[str, Any] | None = read_json(workspace._store.join("compute", name + ".json"))
    return settings
