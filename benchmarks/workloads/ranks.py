"""Which rank this is, for launchers that do not set torch's variables. Imports nothing heavy."""

import os

_NAMES = {
    "RANK": ("OMPI_COMM_WORLD_RANK", "HOROVOD_RANK"),
    "WORLD_SIZE": ("OMPI_COMM_WORLD_SIZE", "HOROVOD_SIZE"),
}


def fill_in_torch_variables() -> None:
    """Set RANK and WORLD_SIZE from Open MPI's or Horovod's variables; MASTER_* come from the
    benchmark.
    """
    for name, sources in _NAMES.items():
        for source in sources:
            if name not in os.environ and source in os.environ:
                os.environ[name] = os.environ[source]


def report(fifo: str, *words: object) -> None:
    """Tell the benchmark something, in one line that no other process can split."""
    with open(fifo, "w", encoding="ascii") as file:
        file.write(" ".join(map(str, words)) + "\n")
