"""Well-known error texts and what they mean."""

from __future__ import annotations

import pytest

from launcher.diagnosis.hints import hint_for


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB",
            "smaller batch",
        ),
        ("RuntimeError: CUDA error: out of memory", "GPU's memory"),
        (
            (
                "unable to allocate shared memory(shm) for file </torch_1>: No space left on device"
                " (28)"
            ),
            "/dev/shm",
        ),
        (
            "DataLoader worker (pid 1) is killed by signal: Bus error. ... out of shared memory.",
            "/dev/shm",
        ),
        (
            (
                "ncclInvalidUsage: This usually reflects invalid usage of NCCL library. Duplicate"
                " GPU detected"
            ),
            "LOCAL_RANK",
        ),
        ("ncclSystemError: System call (e.g. socket, malloc) failed", "NCCL_DEBUG=INFO"),
        (
            "CUDA error: no kernel image is available for execution on the device",
            "compute capability",
        ),
        ("ModuleNotFoundError: No module named 'horovod'", "scripts/build_horovod"),
        (
            "ImportError: libmpi.so.40: cannot open shared object file: No such file or directory",
            "openmpi-bin",
        ),
        ("OSError: [Errno 24] Too many open files", "ulimit -n"),
        ("    if self.quitting: raise BdbQuit\nbdb.BdbQuit", "torch.distributed.breakpoint()"),
        (
            "[Rank 1] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=7)",
            "another rank",
        ),
    ],
)
def test_text_has_a_hint(text: str, word: str) -> None:
    assert word in hint_for(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ValueError: x",
        "the memory is out of CUDA",
        "No space left on device",
        "/usr/lib/libmpi.so.40(+0x1)",
    ],
)
def test_other_texts_have_none(text: str) -> None:
    assert hint_for(text) == ""


def test_lost_data_worker_has_a_hint_unless_the_text_knows_better() -> None:
    assert "data worker" in hint_for("ConnectionResetError", lost_data_worker=True)
    assert "GPU" in hint_for("CUDA out of memory", lost_data_worker=True)
