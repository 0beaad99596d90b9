"""The engines that some tests need and not every machine has: what skips such a test, and what
mpirun is told in all of them.
"""

from __future__ import annotations

import importlib.util
import shutil

import pytest

needs_mpirun = pytest.mark.skipif(
    shutil.which("mpirun") is None, reason="mpirun is not installed: apt-get install openmpi-bin"
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
