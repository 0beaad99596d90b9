"""Sums through shared memory in real ranks: the same numbers as torch's, and what happens when a
rank cannot share, ends, or is interrupted.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Run, Script, find_free_port

pytest.importorskip("torch")
pytestmark = pytest.mark.slow

TIMEOUT_S = 100

# Each case compares the gradients of ctx.wrap() with those of torch's own DistributedDataParallel.
GRADIENTS = """
import copy, io, launcher, torch
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook
from torch.nn import Embedding, Linear, Module, Sequential
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

ctx = launcher.init(backend="gloo")


def num_shared():
    exchange = ctx._group._reductions._exchange
    return exchange._count if exchange else 0


def network():
    # More than a bucket of torch's, and more than a slot.
    return Sequential(Linear(64, 512), torch.nn.ReLU(), Linear(512, 2048), Linear(2048, 16))


class Unused(Module):
    def __init__(self):
        super().__init__()
        self.used, self.unused = network(), Linear(64, 16)

    def forward(self, x):
        return self.used(x)


class Checkpointed(Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = network(), Linear(16, 4)

    def forward(self, x):
        return self.head(checkpoint(self.body, x, use_reentrant=True))


def step(model, dtype=torch.float32):
    model(torch.randn(4, 64, dtype=dtype, requires_grad=True)).pow(2).sum().backward()


def step_in_two(model):
    with model.no_sync():
        step(model)
    step(model)


def step_of_words(model):
    model(torch.arange(4)).sum().backward()


def compare(name, make, step, **options):
    gradients = []
    for wrap in (DistributedDataParallel, ctx.wrap):
        torch.manual_seed(5)
        model = make()
        wrapped = wrap(model, **options)
        torch.manual_seed(ctx.rank)
        before = num_shared()
        for _ in range(2):
            wrapped.zero_grad()
            step(wrapped)
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    same = all(torch.equal(a.to_dense(), b.to_dense()) for a, b in zip(*gradients, strict=True))
    ctx.print(f"{name}: shared {num_shared() > before}, same {same}")


compare("plain", network, step)
compare("double", lambda: network().double(), lambda model: step(model, torch.float64))
compare("unused", Unused, step, find_unused_parameters=True)
compare("two passes", network, step_in_two)
compare("checkpoint", Checkpointed, step)
compare("static", network, step, static_graph=True)
compare("sparse", lambda: Sequential(Embedding(10, 4, sparse=True)), step_of_words)

model = ctx.wrap(network())
with torch.no_grad():
    model(torch.ones(1, 64))
model.register_comm_hook(None, fp16_compress_hook)
before = num_shared()
step(model)
other = ctx.wrap(network())
other._register_builtin_comm_hook(torch.distributed.BuiltinCommHookType.FP16_COMPRESS)
step(other)
ctx.print("own hooks:", num_shared() == before)


def ones(model, passes):
    gradients = []
    for _ in range(passes):
        model.zero_grad()
        model(torch.ones(1, 2)).sum().mul(2.0 + ctx.rank).backward()
        gradients.append(model.module.weight.grad[0, 0].item())
    return gradients


# A rank that has no data left joins in the others' sums, also if it never had any. They are
# divided by all ranks, or by those that have data.
for by_all in (True, False):
    fresh, known = ctx.wrap(Linear(2, 1)), ctx.wrap(Linear(2, 1))
    ones(known, 1)
    with fresh.join(divide_by_initial_world_size=by_all):
        first = ones(fresh, 2 * ctx.rank)
    with known.join(divide_by_initial_world_size=by_all):
        second = ones(known, 1 + ctx.rank)
    print(f"{ctx.rank} joined: {first} {second}", flush=True)

for when in ("new", "used"):
    model = ctx.wrap(Linear(2, 1))
    if when == "used":
        ones(model, 1)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for copied in (torch.load(file, weights_only=False), copy.deepcopy(model)):
        assert ones(copied, 2) == [2.5, 2.5], when
"""


def test_gradients_are_those_of_torch(run: Run, script: Script) -> None:
    done = run("--nproc-per-node", "2", script(GRADIENTS))
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert [line.removeprefix("[0] ") for line in lines if "joined" not in line] == [
        "plain: shared True, same True",
        "double: shared True, same True",
        "unused: shared True, same True",
        "two passes: shared True, same True",
        "checkpoint: shared True, same True",
        "static: shared False, same True",
        "sparse: shared False, same True",
        "own hooks: True",
    ]
    assert sorted(line.partition("] ")[2] for line in lines if "joined" in line) == [
        "0 joined: [] [2.5]",
        "0 joined: [] [2.5]",
        "1 joined: [1.5, 1.5] [2.5, 1.5]",
        "1 joined: [3.0, 3.0] [2.5, 3.0]",
    ]


# Rank 0 has no memory to give, rank 1 no file to open it with: each alone is reason enough.
WITHOUT = """
import os, resource, signal, threading, time, launcher, torch
from launcher.worker.exchange import open_exchange

ctx = launcher.init(backend="gloo")
numbers = torch.full((3000,), ctx.rank + 1.0)


def open_now(**options):
    return open_exchange(torch, ctx.rank, ctx.world_size, 60, None, **options)


def open_with(limit, soft, rank):
    before = resource.getrlimit(limit)
    if ctx.rank == rank:
        resource.setrlimit(limit, (soft, before[1]))
    try:
        return open_now()
    finally:
        resource.setrlimit(limit, before)


def open_files():
    return len(os.listdir("/proc/self/fd"))


for _ in range(3):
    assert ctx.all_reduce(numbers, "sum").eq(6).all()
assert ctx._group._reductions._exchange is None  # not worth it yet
files = open_files()
assert open_with(resource.RLIMIT_FSIZE, 4096, 0) is None
assert open_with(resource.RLIMIT_NOFILE, files - 1, 1) is None
assert open_now(may_share=ctx.rank != 2) is None
assert open_files() == files
exchange = open_now()
assert open_files() == files + ctx.world_size  # one for each other rank, one for the memory
exchange.all_reduce(numbers)
assert numbers.eq(6).all()
exchange.close()
del exchange
assert open_files() == files

with torch.inference_mode(), torch.device("meta"):  # neither may stick to what is opened now
    assert ctx.all_reduce(numbers).eq(6).all()
assert ctx.all_reduce(numbers).eq(6).all()
exchange = ctx._group._reductions._exchange

# Another thread has its own way, or both would mix.
sums = []
thread = threading.Thread(target=lambda: sums.extend(ctx.all_reduce(1, "sum") for _ in range(50)))
thread.start()
before = exchange._count
for _ in range(50):
    assert ctx.all_reduce(numbers).eq(6).all()
thread.join()
assert exchange._count == before + 50 and sums == [3] * 50

# More files than select() can take, and a wait that is long enough to look at the others.
many = [os.open("/dev/null", os.O_RDONLY) for _ in range(1100)]
if ctx.rank == 1:
    time.sleep(0.6)
ctx.all_reduce(1)
for fd in many:
    os.close(fd)

assert ctx.stopping() is False
pids = ctx.broadcast_object(os.getpid(), src=0)
if ctx.rank == 2:  # ask rank 0 to stop while it sleeps in a sum
    while open(f"/proc/{pids}/stat").read().rpartition(")")[2].split()[0] != "S":
        time.sleep(0.001)
    os.kill(pids, signal.SIGTERM)
assert ctx.all_reduce(ctx.rank, "max") == 2
while not ctx.stopping():  # the signal may come a moment later
    pass
ctx.print("stopped with", ctx.all_reduce(numbers.sum().item(), "sum"))
del exchange
ctx.close()
assert not any("launcher-exchange" in line for line in open("/proc/self/maps"))
"""


def test_without_memory_to_share_all_ranks_do_without(run: Run, script: Script) -> None:
    done = run("--nproc-per-node", "3", script(WITHOUT))
    assert (done.code, done.err, done.out) == (0, "", "[0] stopped with 54000.0\n")


# Started by hand: there is no launcher to end the others.
ENDS = """
import os, signal, sys, launcher, torch
ctx = launcher.init(backend="gloo")
for _ in range(5):
    ctx.all_reduce(1.0)
assert ctx._group._reductions._exchange is not None
if ctx.rank == 1:
    if sys.argv[1] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    raise SystemExit
ctx.all_reduce(torch.ones(3))
"""


@pytest.mark.parametrize(("how", "what"), [("killed", "has ended"), ("left", "has left the run")])
def test_who_waits_for_a_rank_that_has_ended_raises(tmp_path: Path, how: str, what: str) -> None:
    path = tmp_path / "ends.py"
    path.write_text(ENDS)
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(find_free_port())}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(path), how],
            env={**os.environ, **common, "RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        survivor, other = (rank.communicate(timeout=TIMEOUT_S)[1] for rank in ranks)
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    assert ranks[1].returncode == (-signal.SIGKILL if how == "killed" else 0), other
    assert ranks[0].returncode == 1
    said = f"Connection closed by peer: rank 1 {what}, while rank 0 waited in a collective."
    assert said in survivor


WAITS = """
import time, launcher, torch
ctx = launcher.init(backend="gloo")
for _ in range(5):
    ctx.all_reduce(1.0)
if ctx.rank == 1:
    time.sleep(100)
ctx.all_reduce(torch.ones(3))
"""


def test_a_hang_is_said_to_be_in_the_collective(run: Run, script: Script) -> None:
    done = run("--nproc-per-node", "2", "--hang-timeout", "2", script(WAITS))
    assert done.code == 124
    assert "rank 0 is in all_reduce (script.py:8); rank 1 is at script.py:7" in done.err
    assert "FAILED: rank 1" in done.err
