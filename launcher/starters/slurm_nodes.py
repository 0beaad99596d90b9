"""Slurm's steps with one launcher on each node: which node this is, and where the launchers meet.

Owns what the variables of such a step say; the numbers of its tasks, where each one is a rank, are
detect.py's. Names of nodes stay names. Pure.
"""

from __future__ import annotations

from launcher.errors import EnvironmentMismatch
from launcher.starters.detect import Environ, in_slurm_step, read_number
from launcher.starters.meeting import count_requeues, derive_port, name_slurm_step
from launcher.starters.placement import Placement
from launcher.starters.slurm import expand_counts, expand_nodes

_NODES = "SLURM_STEP_NODELIST"
_TASKS = "SLURM_STEP_TASKS_PER_NODE"


def place_slurm(environ: Environ) -> Placement | None:
    """Return the place of a launcher in its step; None outside of one, and where it is alone there.

    Raises EnvironmentMismatch where a node has several tasks: they would all be its launcher.
    """
    if not in_slurm_step(environ) or not environ.get(_NODES):
        return None
    nodes = expand_nodes(environ[_NODES])
    if len(nodes) == 1:
        return None
    _check_one_per_node(environ, len(nodes))
    name = environ.get("SLURMD_NODENAME")
    node_rank = nodes.index(name) if name in nodes else read_number(environ, "SLURM_PROCID")
    step = name_slurm_step(environ)
    # Set by who knows the first node by another name than Slurm does.
    master = environ.get("MASTER_ADDR", "")
    port = (
        read_number(environ, "MASTER_PORT", least=1, most=65535)
        if environ.get("MASTER_PORT")
        else 0
    )
    return Placement(
        starter="srun",
        num_nodes=len(nodes),
        node_rank=node_rank,
        host=master or nodes[0],
        # Another one after a requeue: the old one may not be free yet.
        port=derive_port(f"{step}.{count_requeues(environ)}"),
        job=step,
        master_addr=master,
        master_port=port,
        gathers_output=True,
        sources={
            "num_nodes": _NODES,
            "node_rank": _NODES if name in nodes else "SLURM_PROCID",
            "host": "MASTER_ADDR" if master else _NODES,
            "port": "SLURM_JOB_ID",
            "job": "SLURM_JOB_ID",
        },
    )


def _check_one_per_node(environ: Environ, num_nodes: int) -> None:
    counts = expand_counts(environ[_TASKS]) if environ.get(_TASKS) else [1]
    if max(counts) == 1:
        return
    raise EnvironmentMismatch(
        f"srun has started {sum(counts)} launchers on {num_nodes} nodes ({_TASKS}="
        f"{environ[_TASKS]}), and each node can have one.",
        hint=f"Type: srun --nodes={num_nodes} --ntasks-per-node=1 python -m launcher ...",
    )
