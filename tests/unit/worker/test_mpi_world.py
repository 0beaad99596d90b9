"""MPI in a rank, with modules in the place of torch and mpi4py: what is asked of them, and when
they are not asked at all.
"""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from launcher.errors import LauncherError
from launcher.ranks import Place
from launcher.worker import dist, mpi_world

OPENMPI = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}
PLACE = Place("openmpi", rank=1, local_rank=1, world_size=2, local_world_size=2)


class _Torch(ModuleType):
    """As much of torch as MPI needs: `has_mpi` says how it was built, `world` is what its MPI
    finds.
    """

    def __init__(self, has_mpi: bool, world: tuple[int, int] = (1, 2)) -> None:
        super().__init__("torch")
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.device = str
        self.distributed = SimpleNamespace(
            is_available=lambda: True,
            is_initialized=lambda: False,
            is_mpi_available=lambda: has_mpi,
            init_process_group=lambda backend, **options: self.calls.append((backend, options)),
            get_rank=lambda: world[0],
            get_world_size=lambda: world[1],
        )


@pytest.fixture
def mpi4py(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Its world has the rank and the size that a test puts there."""
    world = SimpleNamespace(
        rank=1, size=2, Get_rank=lambda: world.rank, Get_size=lambda: world.size
    )
    mpi = SimpleNamespace(
        COMM_WORLD=world, Get_library_version=lambda: "Open MPI v4.1.4, package: Debian\n"
    )
    package = ModuleType("mpi4py")
    package.MPI = mpi  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mpi4py", package)
    return world


def _make_group(
    monkeypatch: pytest.MonkeyPatch, torch: _Torch, place: Place, environ: dict[str, str]
) -> dist.TorchGroup:
    monkeypatch.setitem(sys.modules, "torch", torch)
    return dist.make_group(place, environ, "mpi", None)


def test_torch_with_mpi_takes_ranks_and_addresses_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = _Torch(has_mpi=True)
    group = _make_group(monkeypatch, torch, PLACE, OPENMPI)
    assert torch.calls == [("mpi", {})]
    assert (group.rank, group.world_size, group.backend, group.device) == (1, 2, "mpi", "cpu")


def test_one_rank_alone_needs_no_process_group(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = _Torch(has_mpi=True)
    assert _make_group(monkeypatch, torch, Place("none"), {}).world_size == 1
    assert torch.calls == []


@pytest.mark.parametrize("place", [PLACE, Place("none")])
def test_torch_without_mpi_is_refused_with_what_works(
    monkeypatch: pytest.MonkeyPatch, place: Place
) -> None:
    torch = _Torch(has_mpi=False)
    with pytest.raises(LauncherError) as caught:
        _make_group(monkeypatch, torch, place, OPENMPI)
    for word in ("is_mpi_available() is False", "'gloo'", "'nccl'", "'horovod'", "ctx.mpi"):
        assert word in str(caught.value)
    assert torch.calls == []


def test_ranks_that_mpi_has_not_started_are_refused_before_torch_starts_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch = _Torch(has_mpi=True)
    with pytest.raises(LauncherError, match="mpirun -np 2 python -m launcher"):
        _make_group(monkeypatch, torch, PLACE, {"RANK": "1", "WORLD_SIZE": "2"})
    assert torch.calls == []


def test_a_torch_that_was_built_for_another_mpi_sees_itself_alone_and_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(
        LauncherError, match="torch's MPI says rank 0 of 1, and mpirun says rank 1 of 2"
    ):
        _make_group(monkeypatch, _Torch(has_mpi=True, world=(0, 1)), PLACE, OPENMPI)


def test_the_communicator_is_mpi4pys_world(mpi4py: SimpleNamespace) -> None:
    assert mpi_world.communicator(1, 2, OPENMPI) is mpi4py


def test_alone_the_communicator_is_a_world_of_one(mpi4py: SimpleNamespace) -> None:
    mpi4py.rank, mpi4py.size = 0, 1
    assert mpi_world.communicator(0, 1, {}) is mpi4py


def test_an_mpi4py_of_another_mpi_is_refused_and_both_are_named(mpi4py: SimpleNamespace) -> None:
    mpi4py.rank, mpi4py.size = 0, 1
    with pytest.raises(LauncherError) as caught:
        mpi_world.communicator(1, 2, OPENMPI)
    for word in ("Open MPI v4.1.4", "rank 0 of 1", "mpirun says rank 1 of 2", "--no-binary=mpi4py"):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("environ", "world_size", "words"),
    [
        (
            {"RANK": "0", "WORLD_SIZE": "4"},
            4,
            ["OMPI_COMM_WORLD_RANK", "mpirun -np 4 python -m launcher"],
        ),
        ({"SLURM_STEP_ID": "0"}, 4, ["srun has started", "srun --mpi=pmix -n 4", "mpirun -np 4"]),
        ({"SLURM_STEP_ID": "0"}, 1, ["srun --mpi=pmix -n 1"]),
    ],
)
def test_mpi4py_is_not_imported_where_mpi_has_not_started_the_ranks(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], world_size: int, words: list[str]
) -> None:
    monkeypatch.setitem(sys.modules, "mpi4py", None)  # an import of it would be an error of its own
    with pytest.raises(LauncherError) as caught:
        mpi_world.communicator(0, world_size, environ)
    for word in words:
        assert word in str(caught.value)


def test_a_missing_mpi4py_names_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(LauncherError, match=r"-m pip install mpi4py"):
        mpi_world.communicator(1, 2, OPENMPI)


def test_an_mpi4py_that_finds_no_library_of_mpi_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    class _Broken(ModuleType):
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError(
                "cannot load MPI library\n  libmpi.so: cannot open shared object file"
            )

    monkeypatch.setitem(sys.modules, "mpi4py", _Broken("mpi4py"))
    with pytest.raises(LauncherError, match="finds no MPI here: cannot load MPI library") as caught:
        mpi_world.communicator(1, 2, OPENMPI)
    assert "MPI4PY_LIBMPI" in str(caught.value)
