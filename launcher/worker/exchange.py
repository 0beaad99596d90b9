"""Sums over the ranks of one node through memory that they share, instead of through sockets.

Each rank copies its part into a slot of its own, posts a semaphore for every other rank, waits for
theirs, and combines all slots in the order of ranks, so that all get the same bits. There are two
sets of slots, used in turns: who has met the others for the second set knows that nobody reads the
first one any more. Large tensors go in pieces that stay in the processor's cache.

The memory is a memfd of rank 0, which the others open under /proc: nothing bounds it but the memory
that the ranks may use, it has no name that could stay behind, and a random word in it proves that
all see the same one. Where that fails (several nodes, a container for each rank, an old kernel),
open_exchange() returns None on all ranks. Its pages are allocated at once, because a write to one
that the kernel cannot give would kill the rank.

A rank that waits looks twice a second whether the others still live. Knows nothing of what is
summed for whom; that is in reductions.py. torch is handed in.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import select
import sys
import threading
import time
from array import array
from contextlib import suppress
from typing import Any

from launcher.errors import UsageError
from launcher.ranks import format_ranks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

# Semaphores and posts grow with the square of the ranks; beyond, torch's own way is as fast.
MOST_RANKS = 32
# A set of slots has at most so many bytes in all, a slot at most so many.
_SET_BYTES, _MOST_SLOT_BYTES = 16 << 20, 1 << 20
# Up to so many bytes each rank combines everything; above, each one its share, for all.
_SHARED_OUT_BYTES = 1 << 14
# A semaphore of glibc has 32 bytes; alone on a cache line it disturbs no other.
_LINE_BYTES = 64
_PAGE_BYTES = mmap.PAGESIZE
# How often a rank asks for a post before it sleeps. Each time lets another process run.
_SPINS = 20
_LOOK_S = 0.5
# What is said of each slot's content, in numbers.
_FIELDS = ("count", "op", "is_scaled", "type", "numel")
# Of the kernel's headers. Pythons that are built for old systems, as conda's, lack both calls.
_PIDFD_OPEN, _MFD_CLOEXEC = 434, 1


def open_exchange(
    torch: Any, rank: int, world_size: int, timeout_s: float, group: Any, *, may_share: bool = True
) -> Exchange | None:
    """Return the exchange of all ranks, or None on all of them if they share no memory. Collective.

    group: the process group of the CPU, over which the ranks agree. may_share: whether this rank
        takes part; one that does not is enough for None.
    """
    libc: Any = _semaphores() if may_share else None
    memory, word = None, int.from_bytes(os.urandom(7), "big")
    if rank == 0 and libc is not None:
        with suppress(OSError):
            memory = _Memory.create(libc, world_size, word)
    fd = memory.fd if memory else -1
    mine = torch.tensor([os.getpid(), fd, word], dtype=torch.int64, device="cpu")
    rows = [torch.empty_like(mine) for _ in range(world_size)]
    torch.distributed.all_gather(rows, mine, group=group)
    pids = [int(row[0]) for row in rows]
    fd, word = rows[0][1:].tolist()
    if fd < 0:
        return None
    lives: dict[int, int] = {}
    with suppress(OSError, ValueError):
        if rank > 0 and libc is not None:
            memory = _Memory.join(f"/proc/{pids[0]}/fd/{fd}", world_size, word)
        for peer, pid in enumerate(pids):
            if peer != rank and memory is not None:
                lives[peer] = _checked(libc.syscall(_PIDFD_OPEN, pid, 0))
    is_open = torch.tensor(int(len(lives) == world_size - 1), device="cpu")
    torch.distributed.all_reduce(is_open, torch.distributed.ReduceOp.MIN, group=group)
    if memory is not None:
        memory.close_file()
    if memory is not None and is_open:
        with torch.inference_mode(False):  # as in _Slots.tensors()
            return Exchange(torch, libc, memory, rank, lives, timeout_s)
    for life in lives.values():
        os.close(life)
    return None


def combinations(torch: Any) -> dict[str, Callable[..., Tensor]]:
    """Return for each operation the function that combines two tensors."""
    return {"sum": torch.add, "min": torch.minimum, "max": torch.maximum}


class Exchange:
    """What the ranks of one node sum through shared memory, in the thread that opened it."""

    def __init__(
        self,
        torch: Any,
        libc: Any,
        memory: _Memory,
        rank: int,
        lives: dict[int, int],
        timeout_s: float,
    ) -> None:
        """`lives`: for each other rank, a file that becomes readable when its process has ended."""
        self._torch, self._libc, self._rank = torch, libc, rank
        self._lives, self._timeout_s = lives, timeout_s
        num_ranks = len(lives) + 1
        space = torch.frombuffer(memory.map, dtype=torch.uint8)
        base = space.data_ptr()
        self._posts = [ctypes.c_void_p(base + _semaphore(rank, peer, num_ranks)) for peer in lives]
        self._waits = [
            (peer, ctypes.c_void_p(base + _semaphore(peer, rank, num_ranks))) for peer in lives
        ]
        # For each rank that has left: the number of meetings that it took part in, plus one.
        self._left = memory.numbers(_left(num_ranks), num_ranks)
        self._sets = [
            _Slots(torch, memory, space, first, num_ranks) for first in _set_offsets(num_ranks)
        ]
        self._combine = combinations(torch)
        self._ops = list(self._combine)
        integers = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
        self._types = (torch.float32, torch.float64, torch.bfloat16, torch.float16, *integers)
        self._count = self._num_meetings = 0
        self._thread = threading.get_ident()

    def takes(self, tensor: Tensor) -> bool:
        """Tell whether all_reduce() can be called with a tensor, here; the same on all ranks."""
        return (
            threading.get_ident() == self._thread
            and tensor.device.type == "cpu"
            and tensor.layout is self._torch.strided
            and tensor.dtype in self._types
            and tensor.is_contiguous()
        )

    def all_reduce(self, tensor: Tensor, op: str = "sum", factor: float = 1.0) -> None:
        """Combine a tensor of each rank in place, each multiplied by `factor` first. Collective.

        tensor: one that takes() allows, of the same size and type on all ranks (UsageError
            otherwise). op: "sum", "min" or "max".

        Raises torch's DistNetworkError when another rank has ended or left, or has not come within
        the timeout. After any exception, also one of a signal handler's, nobody can go on.
        """
        flat = tensor.detach().view(-1)
        try:
            for part in flat.split(self._sets[0].num_bytes // flat.element_size()):
                self._reduce_part(part, op, factor)
        except BaseException:
            self.leave()
            raise

    def leave(self) -> None:
        """Tell the others that this rank comes no more; who waits for it raises."""
        self._left[self._rank] = self._num_meetings + 1
        # Twice: an exception may have come between a meeting's number and its posts.
        for post in (*self._posts, *self._posts):
            self._libc.sem_post(post)

    def close(self) -> None:
        """Leave, and let go of what watches the others."""
        self.leave()
        while self._lives:
            os.close(self._lives.popitem()[1])

    def _reduce_part(self, part: Tensor, op: str, factor: float) -> None:
        if self._left[self._rank]:
            raise self._lost("this rank has left its exchange before")
        torch, size = self._torch, part.numel()
        self._count += 1
        slots = self._sets[self._count % 2]
        kind = self._types.index(part.dtype)
        slots.describe(self._rank, self._count, self._ops.index(op), int(factor != 1.0), kind, size)
        tensors = slots.tensors(part.dtype)
        if factor == 1.0:
            tensors[self._rank][:size].copy_(part)
        else:
            torch.mul(part, factor, out=tensors[self._rank][:size])
        self._meet()
        if not slots.are_alike():
            raise UsageError(self._difference(slots))
        combine = self._combine[op]
        first, *others = tensors
        if len(others) == 1 or size * part.element_size() <= _SHARED_OUT_BYTES:
            combine(first[:size], others[0][:size], out=part)
            for other in others[1:]:
                combine(part, other[:size], out=part)
            return
        share = -(-size // len(tensors))
        mine = slice(min(size, share * self._rank), min(size, share * (self._rank + 1)))
        for other in others:
            combine(first[mine], other[mine], out=first[mine])
        self._meet()
        part.copy_(first[:size])

    def _meet(self) -> None:
        """Return when all ranks are here."""
        self._num_meetings += 1
        for post in self._posts:
            self._libc.sem_post(post)
        for peer, semaphore in self._waits:
            for _ in range(_SPINS):
                if self._libc.sem_trywait(semaphore) == 0:
                    break
                os.sched_yield()
            else:
                self._wait(peer, semaphore)
            self._require_presence(peer)

    def _require_presence(self, peer: int) -> None:
        if 0 < self._left[peer] <= self._num_meetings:
            raise self._lost(f"Connection closed by peer: rank {peer} has left the run")

    def _wait(self, peer: int, semaphore: ctypes.c_void_p) -> None:
        """Sleep until a peer has posted; raise if it cannot come any more."""
        started = time.monotonic()
        while True:
            now = time.monotonic()
            moment = _Timespec.at(min(now + _LOOK_S, started + self._timeout_s))
            if self._libc.sem_clockwait(semaphore, time.CLOCK_MONOTONIC, ctypes.byref(moment)) == 0:
                return
            if ctypes.get_errno() != errno.ETIMEDOUT:
                continue  # a signal, whose handler may raise
            life = select.poll()
            life.register(self._lives[peer], select.POLLIN)
            has_ended = bool(life.poll(0))
            if self._libc.sem_trywait(semaphore) == 0:  # its last post
                return
            self._require_presence(peer)
            if has_ended:
                raise self._lost(f"Connection closed by peer: rank {peer} has ended")
            if now - started > self._timeout_s:
                raise self._lost(
                    f"Timed out after {self._timeout_s:g} s of waiting for rank {peer}"
                )

    def _lost(self, why: str) -> Exception:
        error: Exception = self._torch.distributed.DistNetworkError(
            f"{why}, while rank {self._rank} waited in a collective."
        )
        return error

    def _difference(self, slots: _Slots) -> str:
        """Say which ranks brought what."""
        calls: dict[str, list[int]] = {}
        for rank, (_, op, is_scaled, kind, numel) in enumerate(slots.descriptions()):
            name = "mean of gradients," if is_scaled else f"{self._ops[op]} of"
            text = f"{name} {numel} numbers of {self._types[kind]}"
            calls.setdefault(text, []).append(rank)
        said = "; ".join(f"{format_ranks(ranks)}: {text}" for text, ranks in calls.items())
        return f"The ranks reduce different tensors together: {said}."


class _Slots:
    """One set of slots: for each rank a line that describes what is in its slot, and the slot."""

    def __init__(
        self, torch: Any, memory: _Memory, space: Tensor, first: int, num_ranks: int
    ) -> None:
        self._torch = torch
        self.num_bytes = _slot_bytes(num_ranks)
        stride = _LINE_BYTES + self.num_bytes
        self._heads = [
            memory.numbers(first + stride * rank, len(_FIELDS)) for rank in range(num_ranks)
        ]
        begins = [first + stride * rank + _LINE_BYTES for rank in range(num_ranks)]
        self._bytes = [space[begin : begin + self.num_bytes] for begin in begins]
        self._tensors: dict[Any, list[Tensor]] = {}

    def tensors(self, dtype: Any) -> list[Tensor]:
        """Return the slots of all ranks as one-dimensional tensors of a type."""
        found = self._tensors.get(dtype)
        if found is None:
            # What is made in inference mode can be written only there.
            with self._torch.inference_mode(False):
                found = self._tensors[dtype] = [slot.view(dtype) for slot in self._bytes]
        return found

    def describe(self, rank: int, *fields: int) -> None:
        """Write what this rank puts into its slot."""
        self._heads[rank][:] = array("q", fields)

    def are_alike(self) -> bool:
        """Tell whether all ranks have described the same."""
        first, *others = self._heads
        return all(head == first for head in others)

    def descriptions(self) -> list[list[int]]:
        """Return the fields of all ranks."""
        return [head.tolist() for head in self._heads]


class _Memory:
    """The shared memory: a random word, semaphores, who has left, and two sets of slots."""

    def __init__(self, fd: int, num_bytes: int) -> None:
        self.fd = fd
        self.map = mmap.mmap(fd, num_bytes)

    @classmethod
    def create(cls, libc: Any, num_ranks: int, word: int) -> _Memory:
        """Make the memory, with all its pages. Raises OSError."""
        fd = _checked(libc.memfd_create(b"launcher-exchange", _MFD_CLOEXEC))
        try:
            os.posix_fallocate(fd, 0, _num_bytes(num_ranks))
            memory = cls(fd, _num_bytes(num_ranks))
        except BaseException:
            os.close(fd)
            raise
        memory.numbers(0, 1)[0] = word
        for number in range(num_ranks**2):
            semaphore = ctypes.c_char.from_buffer(memory.map, _PAGE_BYTES + _LINE_BYTES * number)
            libc.sem_init(ctypes.byref(semaphore), 1, 0)
        return memory

    @classmethod
    def join(cls, path: str, num_ranks: int, word: int) -> _Memory:
        """Open the memory that rank 0 has made. Raises OSError, or ValueError if it is another."""
        # On another node the path may lead to anything, a terminal say.
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
        try:
            memory = cls(fd, _num_bytes(num_ranks))
        except BaseException:
            os.close(fd)
            raise
        if memory.numbers(0, 1)[0] != word:
            memory.close_file()
            raise ValueError("not the memory of this run")
        return memory

    def numbers(self, offset: int, count: int) -> memoryview:
        """Return a place in the memory as integers of 8 bytes."""
        return memoryview(self.map)[offset : offset + 8 * count].cast("q")

    def close_file(self) -> None:
        """Let go of the file; the memory stays mapped."""
        os.close(self.fd)


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))

    @classmethod
    def at(cls, moment: float) -> _Timespec:
        return cls(int(moment), int(moment % 1 * 1e9))


def _semaphores() -> Any:
    """Return the C library if it has semaphores with a clock that nobody sets; else None.

    None, too, where the user wants no shared memory.
    """
    if os.environ.get("LAUNCHER_SHARED_MEMORY") == "0":
        return None
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        libc.sem_init.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_uint)
        libc.sem_post.argtypes = libc.sem_trywait.argtypes = (ctypes.c_void_p,)
        libc.sem_clockwait.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
        libc.memfd_create.argtypes = (ctypes.c_char_p, ctypes.c_uint)
        libc.syscall.argtypes = (ctypes.c_long,) * 3
    except AttributeError:
        return None
    return libc


def _checked(result: int) -> int:
    """Return what a call of the C library has returned; raise OSError if that says so."""
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _semaphore(poster: int, waiter: int, num_ranks: int) -> int:
    """Return the offset of the semaphore by which one rank tells another that it is here."""
    return _PAGE_BYTES + _LINE_BYTES * (poster * num_ranks + waiter)


def _left(num_ranks: int) -> int:
    return _semaphore(num_ranks, 0, num_ranks)


def _set_offsets(num_ranks: int) -> tuple[int, int]:
    """Return where the two sets of slots begin."""
    first = -(-(_left(num_ranks) + 8 * num_ranks) // _PAGE_BYTES) * _PAGE_BYTES
    return first, first + num_ranks * (_LINE_BYTES + _slot_bytes(num_ranks))


def _num_bytes(num_ranks: int) -> int:
    first, second = _set_offsets(num_ranks)
    return 2 * second - first


def _slot_bytes(num_ranks: int) -> int:
    return min(_MOST_SLOT_BYTES, _SET_BYTES // num_ranks // _PAGE_BYTES * _PAGE_BYTES)
