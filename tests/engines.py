"""The engines that some tests need and not every machine has: what skips such a test, and what they
are told in all of them.
"""

from __future__ import annotations

import ctypes.util
import importlib.util
import os
import shutil
from pathlib import Path

import pytest

# By its full name: Debian has Open MPI's beside it.
MPICH = "mpiexec.mpich"

needs_mpirun = pytest.mark.skipif(
    shutil.which("mpirun") is None, reason="mpirun is not installed: apt-get install openmpi-bin"
)
needs_mpich = pytest.mark.skipif(
    shutil.which(MPICH) is None, reason=f"{MPICH} is not installed: apt-get install mpich"
)
needs_mpi4py = pytest.mark.skipif(
    importlib.util.find_spec("mpi4py") is None, reason="mpi4py is not installed"
)
needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch is not installed"
)
needs_horovod = pytest.mark.skipif(
    importlib.util.find_spec("horovod") is None,
    reason="Horovod is not built: scripts/build_horovod",
)

# Variables for mpirun: tests run as root in containers, and with more ranks than processors.
MPI_SETTINGS = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "OMPI_MCA_mpi_yield_when_idle": "1",  # a rank that waits must not keep the others waiting
}


def make_mpich_settings(folder: Path) -> dict[str, str]:
    """Return the variables with which mpi4py takes MPICH's library; folder: a new one for its name.

    mpi4py looks for the name that both libraries have by the standard, which is Open MPI's here.
    """
    name = "libmpich.so.12"
    found = next(Path("/usr/lib").glob(f"*/{name}"), None) or ctypes.util.find_library("mpich")
    if found is None:
        pytest.skip(f"{name} is not installed: apt-get install libmpich12")
    folder.mkdir()
    (folder / "libmpi.so.12").symlink_to(found)
    paths = [str(folder), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    return {"MPI4PY_MPIABI": "mpich", "LD_LIBRARY_PATH": os.pathsep.join(paths)}
