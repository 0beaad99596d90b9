"""The engines that some tests need and not every machine has: what skips such a test, and what
mpirun is told in all of them.
"""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest

needs_mpirun = pytest.mark.skipif(
    shutil.which("mpirun") is None, reason="mpirun is not installed: apt-get install openmpi-bin"
)
# Debian keeps mpirun and mpiexec for Open MPI where both are installed.
MPICH = "mpiexec.mpich"
needs_mpich = pytest.mark.skipif(
    shutil.which(MPICH) is None, reason="MPICH is not installed: apt-get install mpich"
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


def mpich_settings(folder: Path) -> dict[str, str]:
    """Return variables for MPICH's mpiexec by which mpi4py loads MPICH.

    mpi4py looks for libmpi.so.12, the name that all relatives of MPICH agreed on; Debian calls it
    libmpich.so.12. So `folder` gets a link of the common name.
    """
    folder.mkdir(exist_ok=True)
    for library in Path("/usr/lib").glob("*/libmpich.so.12"):
        (folder / "libmpi.so.12").symlink_to(library)
    return {"MPI4PY_MPIABI": "mpich", "LD_LIBRARY_PATH": str(folder)}
