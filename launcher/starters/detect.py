"""Who started this process, at which place in the run: other people's variables as one table.

Owns the names that starters set and their order of precedence. Takes the environment as an argument
and returns values: reads nothing else, writes nothing, never imports MPI (importing it starts it,
and under a plain `srun` that aborts the process). Pure.
"""

from __future__ import annotations

from collections.abc import Mapping

from launcher.errors import EnvironmentMismatch, UsageError
from launcher.named import NamedTuple
from launcher.ranks import Place
from launcher.starters.slurm import expand_counts, expand_nodes

Environ = Mapping[str, str]
# Field of Place -> its value, and the variable that it came from.
_Found = dict[str, tuple[int, str]]

# Slurm's step ids of what is no rank: an interactive shell, a batch script, the external step.
_NO_STEPS = {"4294967290", "4294967291", "4294967292"}

# Where a number came from that nobody has told.
NO_VARIABLE = "no variable"


class _Starter(NamedTuple):
    """How one starter writes the place of a process: its variables for each number, best first."""

    name: str
    needs: tuple[str, ...]
    rank: str
    world_size: str
    local_rank: tuple[str, ...] = ()
    local_world_size: tuple[str, ...] = ()
    node_rank: tuple[str, ...] = ()


def _contract(name: str, *needs: str) -> _Starter:
    local = (("LOCAL_RANK",), ("LOCAL_WORLD_SIZE",), ("GROUP_RANK", "NODE_RANK"))
    return _Starter(name, ("RANK", *needs), "RANK", "WORLD_SIZE", *local)


_STARTERS = (
    _contract("launcher", "LAUNCHER_RUN_ID"),
    _contract("torchrun", "TORCHELASTIC_RUN_ID"),
    _contract("contract"),
    # MPI comes before Slurm: under `salloc mpirun` SLURM_ numbers are of Open MPI's daemons.
    _Starter(
        "openmpi",
        ("OMPI_COMM_WORLD_RANK",),
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        ("OMPI_COMM_WORLD_LOCAL_RANK",),
        ("OMPI_COMM_WORLD_LOCAL_SIZE",),
    ),
    _Starter(
        "mvapich",
        ("MV2_COMM_WORLD_RANK",),
        "MV2_COMM_WORLD_RANK",
        "MV2_COMM_WORLD_SIZE",
        ("MV2_COMM_WORLD_LOCAL_RANK",),
        ("MV2_COMM_WORLD_LOCAL_SIZE",),
    ),
    _Starter(
        "horovod",
        ("HOROVOD_RANK",),
        "HOROVOD_RANK",
        "HOROVOD_SIZE",
        ("HOROVOD_LOCAL_RANK",),
        ("HOROVOD_LOCAL_SIZE",),
        ("HOROVOD_CROSS_RANK",),
    ),
    _Starter(
        "mpich",
        ("PMI_RANK",),
        "PMI_RANK",
        "PMI_SIZE",
        ("MPI_LOCALRANKID", "PMI_LOCAL_RANK"),
        ("MPI_LOCALNRANKS", "PMI_LOCAL_SIZE"),
    ),
    _Starter(
        "slurm",
        # A batch script has the first of them too, but is no step.
        ("SLURM_PROCID", "SLURM_STEP_ID"),
        "SLURM_PROCID",
        "SLURM_STEP_NUM_TASKS",
    ),
)


def detect(environ: Environ) -> Place:
    """Tell this process's place from its starter's variables; rank 0 of 1 when nobody started it.

    Raises UsageError for values that are broken or incomplete, EnvironmentMismatch for values that
    contradict each other.
    """
    found = [starter for starter in _STARTERS if _has_started(starter, environ)]
    if not found:
        return _read_alone(environ)
    best = _read(found[0], environ)
    if best.starter == "contract":
        _compare_with_mpi(best, found[1:], environ)
    elif best.starter not in ("launcher", "torchrun"):
        _compare_world_size(best, environ)
    return best


def detect_engine(environ: Environ) -> Place:
    """Tell where an engine has put this process; for the launcher, which is no rank without one.

    RANK and its like, exported in a shell or left by a service, say nothing then: it sets them for
    its workers. Those that a wrapper has made of the engine's numbers say the same once more.
    """
    engines = [
        starter
        for starter in _STARTERS
        if starter.rank != "RANK" and _has_started(starter, environ)
    ]
    if not engines:
        return detect(environ) if environ.get("PMIX_RANK") else Place("none")
    engine = _read(engines[0], environ)
    if engine.world_size == 1:
        return engine
    place = detect(environ)  # raises where the numbers contradict each other
    is_repeated = place.starter == "contract" and (place.rank, place.world_size) == (
        engine.rank,
        engine.world_size,
    )
    return engine if is_repeated else place


def restart_count(environ: Environ) -> int:
    """Return how many times the launcher, torchrun or Slurm's requeue started the workers again."""
    for name in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"):
        if environ.get(name):
            return read_number(environ, name)
    return 0


def find_mpi_engine(environ: Environ) -> str:
    """Return what started this process as a rank of MPI, "mpirun" or "srun"; else "".

    Where there is none, MPI would make a world of one.
    """
    if environ.get("OMPI_COMM_WORLD_RANK") or environ.get("MV2_COMM_WORLD_RANK"):
        return "mpirun"
    if environ.get("PMIX_RANK") or environ.get("PMI_RANK"):
        return "srun" if in_slurm_step(environ) else "mpirun"
    return ""


def in_slurm_step(environ: Environ) -> bool:
    """Tell whether srun has started this process, or one above it.

    A batch script and a shell of salloc are no steps.
    """
    return bool(environ.get("SLURM_STEP_ID")) and environ["SLURM_STEP_ID"] not in _NO_STEPS


def _has_started(starter: _Starter, environ: Environ) -> bool:
    if not all(environ.get(name) for name in starter.needs):
        return False
    if starter.name == "mpich" and in_slurm_step(environ):
        # `srun --mpi=pmi2` speaks MPICH's language as well: then both name the same rank. Of a
        # daemon that has started this rank, Slurm gives other numbers.
        mine = (environ.get("SLURM_PROCID"), environ.get("SLURM_STEP_NUM_TASKS"))
        return mine != (environ["PMI_RANK"], environ.get("PMI_SIZE", ""))
    return starter.name != "slurm" or in_slurm_step(environ)


def _read_alone(environ: Environ) -> Place:
    """Return rank 0 of 1, unless variables say that there are more ranks, but not which this is."""
    if environ.get("PMIX_RANK"):
        raise UsageError(
            f"PMIX_RANK={environ['PMIX_RANK']} says that this is one rank of several, but not of"
            " how many.",
            hint="Start the ranks with mpirun or srun, or set RANK and WORLD_SIZE for each.",
        )
    if environ.get("WORLD_SIZE") and read_number(environ, "WORLD_SIZE", least=1) > 1:
        raise UsageError(
            f"WORLD_SIZE={environ['WORLD_SIZE']} is set, but RANK, the number of this process, is"
            " not.",
            hint=(
                "Start it with `python -m launcher`, mpirun or srun, set RANK for each process, or"
                " `unset WORLD_SIZE`."
            ),
        )
    return Place("none")


def _read(starter: _Starter, environ: Environ) -> Place:
    """Read one starter's numbers and refuse those that cannot be."""
    if not environ.get(starter.world_size):
        raise UsageError(
            f"{starter.rank}={environ[starter.rank]} is set, but {starter.world_size} is not.",
            hint=f"Set both, or `unset {starter.rank}` to run this script alone.",
        )
    world_size = read_number(environ, starter.world_size, least=1)
    rank = read_number(environ, starter.rank)
    if rank >= world_size:
        raise EnvironmentMismatch(
            f"{starter.rank}={rank} does not go with {starter.world_size}={world_size}: ranks are 0"
            f" to {world_size - 1}."
        )
    found: _Found = {"rank": (rank, starter.rank), "world_size": (world_size, starter.world_size)}
    for field in ("local_rank", "local_world_size", "node_rank"):
        for name in filter(environ.get, getattr(starter, field)):
            found.setdefault(field, (read_number(environ, name), name))
    if starter.name == "slurm":
        _add_slurm_place(found, environ)
    _add_guesses(found, environ)
    local_rank, local_size = found["local_rank"][0], found["local_world_size"][0]
    if local_rank >= local_size or local_size > world_size:
        seen = [f"{source}={value}" for value, source in found.values() if source in environ]
        raise EnvironmentMismatch(f"These do not go together: {' '.join(seen)}.")
    values = {field: value for field, (value, _) in found.items()}
    return Place(
        starter.name, **values, sources={field: source for field, (_, source) in found.items()}
    )


def _add_guesses(found: _Found, environ: Environ) -> None:
    """Complete the place on the node where the starter gave only part of it, or nothing."""
    if environ.get("MASTER_ADDR") in ("localhost", "127.0.0.1", "::1"):
        found.setdefault("local_rank", (found["rank"][0], "all are on one host"))
        found.setdefault(
            "local_world_size", (found["world_size"][0], "the world size, as all are on one host")
        )
    found.setdefault("local_rank", (0, "no variable: one rank per node"))
    found.setdefault("local_world_size", (found["local_rank"][0] + 1, NO_VARIABLE))
    found.setdefault("node_rank", (0, NO_VARIABLE))


def _add_slurm_place(found: _Found, environ: Environ) -> None:
    """Add the place of a step's task on its node; nodes may have different numbers of tasks."""
    if environ.get("SLURM_LOCALID"):
        found.setdefault("local_rank", (read_number(environ, "SLURM_LOCALID"), "SLURM_LOCALID"))
    nodelist = environ.get("SLURM_STEP_NODELIST")
    nodes = expand_nodes(nodelist) if nodelist else []
    if environ.get("SLURMD_NODENAME") in nodes:
        # Better than SLURM_NODEID, which counts the job's nodes: a step may use some of them.
        found.setdefault(
            "node_rank", (nodes.index(environ["SLURMD_NODENAME"]), "SLURM_STEP_NODELIST")
        )
    elif environ.get("SLURM_NODEID"):
        found.setdefault("node_rank", (read_number(environ, "SLURM_NODEID"), "SLURM_NODEID"))
    name = "SLURM_STEP_TASKS_PER_NODE"
    counts = expand_counts(environ[name]) if environ.get(name) else []
    node_rank = found["node_rank"][0] if "node_rank" in found else len(counts)
    if node_rank < len(counts):
        found.setdefault("local_world_size", (counts[node_rank], name))


def _compare_with_mpi(place: Place, others: list[_Starter], environ: Environ) -> None:
    """Refuse a RANK that is the same for all ranks of MPI: each would believe to be that one.

    A script may start ranks of its own below one MPI process per node: then WORLD_SIZE is the
    larger one.
    """
    for starter in others:
        # `srun` also starts independent runs, each with a RANK of its own.
        if starter.name == "slurm":
            continue
        mpi = _read(starter, environ)
        if place.world_size < mpi.world_size or (
            place.world_size == mpi.world_size and place.rank != mpi.rank
        ):
            raise EnvironmentMismatch(
                f"RANK={place.rank} WORLD_SIZE={place.world_size} contradicts"
                f" {starter.rank}={mpi.rank} {starter.world_size}={mpi.world_size}.",
                hint="Before mpirun: `unset RANK WORLD_SIZE LOCAL_RANK`.",
            )


def _compare_world_size(place: Place, environ: Environ) -> None:
    """Refuse a WORLD_SIZE, exported without RANK, that is not the number of started ranks."""
    if (
        environ.get("WORLD_SIZE")
        and read_number(environ, "WORLD_SIZE", least=1) != place.world_size
    ):
        raise EnvironmentMismatch(
            f"WORLD_SIZE={environ['WORLD_SIZE']} contradicts"
            f" {place.sources['world_size']}={place.world_size}.",
            hint=f"Start {environ['WORLD_SIZE']} ranks, or `unset WORLD_SIZE`.",
        )


def read_number(environ: Environ, name: str, *, least: int = 0, most: int = 2**31) -> int:
    """Return the number that a variable holds; UsageError, with name and value, for none."""
    text = environ[name].strip()
    if not (text.isascii() and text.isdigit()) or not least <= int(text) <= most:
        kind = f"a number from {least}" + (f" to {most}" if most < 2**31 else "")
        raise UsageError(
            f"{name}={environ[name]!r} is not {kind}.", hint=f"Set it to one, or `unset {name}`."
        )
    return int(text)
