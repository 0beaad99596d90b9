"""launcher.init() in real processes: alone, under torchrun, mpirun and srun's variables, and when
things go wrong.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import find_free_port
from tests.engines import MPI_SETTINGS, needs_mpirun

pytest.importorskip("torch")
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
STARTERS = (
    "RANK",
    "LOCAL_",
    "WORLD_",
    "GROUP_",
    "MASTER_",
    "TORCHELASTIC_",
    "OMPI_",
    "PMI",
    "SLURM",
    "LAUNCHER_",
)
TIMEOUT_S = 100

# On one core the library's threads lag behind the script, which then ends before they are at rest.
EVERYTHING = """
import json, os
cores = sorted(os.sched_getaffinity(0))
os.sched_setaffinity(0, {cores[os.getpid() % len(cores)]})
import launcher, torch
from torch.nn.parallel import DistributedDataParallel

ctx = launcher.init()
torch.manual_seed(ctx.rank)
seen = {"rank": ctx.rank, "local_rank": ctx.local_rank, "world_size": ctx.world_size,
        "local_world_size": ctx.local_world_size, "device": str(ctx.device),
        "same": launcher.init() is ctx}
seen["group"] = torch.distributed.is_initialized()
seen["numbers"] = [ctx.all_reduce(ctx.rank + 1, op) for op in ("mean", "sum", "min", "max")]
seen["mixed"] = [ctx.all_reduce(0.5 if ctx.rank else 0, op) for op in ("sum", "min", "max")]
value = torch.tensor([1.0, 2.0], requires_grad=True) * (ctx.rank + 1)
seen["tensors"] = [ctx.all_reduce(value, op).tolist() for op in ("mean", "sum", "min", "max")]
seen["input"] = value.tolist()
seen["integers"] = ctx.all_reduce(torch.tensor(ctx.rank + 1)).item()
seen["half"] = str(ctx.all_reduce(torch.ones(3, dtype=torch.bfloat16)).dtype)
seen["truth"] = ctx.all_reduce(torch.tensor([True, ctx.rank == 0]), "min").tolist()
seen["columns"] = ctx.all_reduce(torch.arange(4.0).reshape(2, 2).t(), "max").tolist()
uneven = torch.full((ctx.rank + 1, 2), ctx.rank)
seen["uneven"] = [list(part.shape) for part in ctx.all_gather(uneven)]
seen["scalars"] = [part.item() for part in ctx.all_gather(torch.tensor(ctx.rank))]
seen["object"] = ctx.broadcast_object({"from": ctx.rank}, src=ctx.world_size - 1)
seen["objects"] = ctx.gather_object(f"rank {ctx.rank}")
model = ctx.wrap(torch.nn.Linear(2, 1))
model(torch.ones(1, 2) * (ctx.rank + 1)).sum().backward()
seen["ddp"] = isinstance(model, DistributedDataParallel)
seen["gradient"] = ctx.unwrap(model).weight.grad.tolist()
seen["weight"] = [round(w, 6) for w in ctx.unwrap(ctx.wrap(model)).weight.flatten().tolist()]
frozen = ctx.wrap(torch.nn.Linear(1, 1).requires_grad_(False))
seen["frozen"] = [type(frozen).__name__, round(frozen.weight.item(), 6)]
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
seen["optimizer"] = ctx.wrap_optimizer(optimizer, model) is optimizer
seen["stopping"] = ctx.stopping()
ctx.heartbeat()
ctx.barrier()
ctx.print("printed once")
print("SEEN " + json.dumps(seen), flush=True)
"""


def clean_env(**extra: str) -> dict[str, str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith(STARTERS)}
    return {
        **env,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
        **extra,
    }


def run_to_end(command: Sequence[str], **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env=clean_env(**env), capture_output=True, text=True, timeout=TIMEOUT_S
    )


def run_ranks(
    script: Path, environments: Sequence[dict[str, str]], *args: str
) -> list[subprocess.CompletedProcess[str]]:
    """Start one process per environment and collect what each wrote."""
    command = [sys.executable, str(script), *args]
    ranks = [
        subprocess.Popen(
            command, env=clean_env(**env), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for env in environments
    ]
    try:
        results = []
        for rank in ranks:
            out, err = rank.communicate(timeout=TIMEOUT_S)
            results.append(subprocess.CompletedProcess(command, rank.returncode, out, err))
        return results
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()


def contract(num_ranks: int = 2) -> list[dict[str, str]]:
    common = {
        "WORLD_SIZE": str(num_ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(find_free_port()),
    }
    return [{**common, "RANK": str(rank)} for rank in range(num_ranks)]


def read_seen(text: str) -> list[dict[str, object]]:
    pieces = text.split("SEEN ")[1:]
    seen = [json.JSONDecoder().raw_decode(piece)[0] for piece in pieces]
    return sorted(seen, key=lambda one: one["rank"])


def write(folder: Path, text: str) -> Path:
    script = folder / "script.py"
    script.write_text(text)
    return script


def check_two_ranks(seen: list[dict[str, object]]) -> None:
    assert [one["rank"] for one in seen] == [one["local_rank"] for one in seen] == [0, 1]
    assert seen[0]["objects"] == ["rank 0", "rank 1"]
    assert seen[1]["objects"] is None
    assert seen[0]["input"] == [1.0, 2.0]
    assert seen[1]["input"] == [2.0, 4.0]
    own = ("rank", "local_rank", "objects", "input")
    common = [{name: value for name, value in one.items() if name not in own} for one in seen]
    assert common[0] == common[1]
    weight, frozen = common[0].pop("weight"), common[0].pop("frozen")
    assert isinstance(weight, list) and isinstance(frozen, list) and frozen[0] == "Linear"
    assert common[0] == {
        "world_size": 2,
        "local_world_size": 2,
        "device": "cpu",
        "same": True,
        "group": True,
        "numbers": [1.5, 3, 1, 2],
        "mixed": [0.5, 0.0, 0.5],
        "tensors": [[1.5, 3.0], [3.0, 6.0], [1.0, 2.0], [2.0, 4.0]],
        "integers": 1.5,
        "half": "torch.bfloat16",
        "truth": [True, False],
        "columns": [[0.0, 2.0], [1.0, 3.0]],
        "uneven": [[1, 2], [2, 2]],
        "scalars": [0, 1],
        "object": {"from": 1},
        "ddp": True,
        "gradient": [[1.5, 1.5]],
        "optimizer": True,
        "stopping": False,
    }


def test_a_script_run_alone_is_rank_0_of_1_without_a_process_group(tmp_path: Path) -> None:
    done = run_to_end(
        [sys.executable, "-W", "error", str(write(tmp_path, EVERYTHING))], CUDA_VISIBLE_DEVICES=""
    )
    assert (done.returncode, done.stderr) == (0, "")
    (seen,) = read_seen(done.stdout)
    assert seen["group"] is False
    assert seen["ddp"] is False
    assert seen["numbers"] == [1.0, 1, 1, 1]
    assert seen["tensors"] == [[1.0, 2.0]] * 4
    assert seen["objects"] == ["rank 0"]
    assert seen["uneven"] == [[1, 2]]
    assert "printed once" in done.stdout


def test_the_same_script_runs_under_the_launcher(
    run: Callable[..., Any], script: Callable[[str], str], method: str
) -> None:
    done = run(
        "--nproc-per-node",
        "2",
        "--start",
        method,
        script(EVERYTHING),
        env={"CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.code == 0, done.err
    assert done.out.count("printed once") == 1
    check_two_ranks(read_seen(done.out))


def test_the_same_script_runs_under_torchrun(tmp_path: Path) -> None:
    script = str(write(tmp_path, EVERYTHING))
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        script,
    ]
    done = run_to_end(command, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0, done.stderr
    assert "destroy_process_group" not in done.stderr
    assert done.stdout.count("printed once") == 1
    check_two_ranks(read_seen(done.stdout))


@needs_mpirun
def test_the_same_script_runs_under_mpirun(tmp_path: Path) -> None:
    script = str(write(tmp_path, EVERYTHING))
    done = run_to_end(
        # One file for each rank: on its stdout mpirun may mix their lines.
        ["mpirun", "--output-filename", str(tmp_path / "said"), "-np", "2", sys.executable, script],
        **MPI_SETTINGS,
        CUDA_VISIBLE_DEVICES="",
    )
    assert done.returncode == 0, done.stderr
    check_two_ranks(
        read_seen("".join(file.read_text() for file in sorted(tmp_path.glob("said/**/stdout"))))
    )


def test_the_same_script_runs_as_a_slurm_step(tmp_path: Path) -> None:
    step = {
        "SLURM_JOB_ID": str(os.getpid()),  # another port for each run of this test
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_TASKS_PER_NODE": "2",
        "SLURM_STEP_NODELIST": "n7",
        "SLURMD_NODENAME": "n7",
        "CUDA_VISIBLE_DEVICES": "",
    }
    ranks = [{**step, "SLURM_PROCID": rank, "SLURM_LOCALID": rank} for rank in ("0", "1")]
    done = run_ranks(write(tmp_path, EVERYTHING), ranks)
    assert [(one.returncode, one.stderr) for one in done] == [(0, ""), (0, "")]
    check_two_ranks(read_seen(done[0].stdout + done[1].stdout))


OWN_GROUP = """
import launcher, torch
torch.distributed.init_process_group("gloo")
ctx = launcher.init()
assert ctx.all_reduce(ctx.rank + 1, "sum") == 3
ctx.close()
assert torch.distributed.is_initialized()
torch.distributed.barrier()
torch.distributed.destroy_process_group()
print("fine")
"""


def test_a_process_group_of_the_scripts_own_is_used_and_left_alone(tmp_path: Path) -> None:
    done = run_ranks(write(tmp_path, OWN_GROUP), contract())
    assert [(one.returncode, one.stdout, one.stderr) for one in done] == [(0, "fine\n", "")] * 2


DEATH = """
import os, signal, sys, launcher, torch
ctx = launcher.init()
ctx.barrier()
if ctx.rank == 1:
    os.kill(os.getpid(), signal.SIGKILL)
ctx.all_reduce(torch.ones(3))
"""


def test_a_rank_ends_at_once_when_another_has_died(tmp_path: Path) -> None:
    survivor, dead = run_ranks(write(tmp_path, DEATH), contract())
    assert dead.returncode == -signal.SIGKILL
    assert survivor.returncode == 1
    assert "peer" in survivor.stderr


RAISE = """
import sys, launcher, torch
ctx = launcher.init()
ctx.barrier()
if ctx.rank == 0:
    # As DDP has under way in a backward pass.
    work = torch.distributed.all_reduce(torch.ones(3), async_op=True)
    raise ValueError("bad batch")
sys.stdin.read()  # far from any collective until rank 0 has ended
"""


def test_a_rank_that_fails_does_not_wait_for_the_others(tmp_path: Path) -> None:
    command = [sys.executable, str(write(tmp_path, RAISE))]
    zero, one = (
        subprocess.Popen(
            command, env=clean_env(**env), stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for env in contract()
    )
    try:
        _, error = zero.communicate(timeout=TIMEOUT_S)
        assert zero.returncode == 1
        assert "ValueError: bad batch" in error
        assert one.poll() is None
    finally:
        for rank in (zero, one):
            rank.kill()
            rank.communicate()


STOPPING = """
import os, signal, sys, launcher
ctx = launcher.init()
assert not ctx.stopping()
if ctx.rank == 1:
    os.kill(os.getpid(), signal.SIGTERM)
calls = 1
while not ctx.stopping():
    calls += 1
assert ctx.stopping()
print(f"stopped after {calls}")
"""


def test_one_rank_asked_to_stop_stops_all_in_the_same_step(tmp_path: Path) -> None:
    done = run_ranks(write(tmp_path, STOPPING), contract())
    assert [(one.returncode, one.stdout, one.stderr) for one in done] == [
        (0, "stopped after 1\n", "")
    ] * 2


def run_alone(tmp_path: Path, body: str, **env: str) -> subprocess.CompletedProcess[str]:
    text = f"import os, signal, sys, launcher\n{body}\n"
    return run_to_end([sys.executable, str(write(tmp_path, text))], CUDA_VISIBLE_DEVICES="", **env)


KILL_ME = "os.kill(os.getpid(), signal.SIGTERM)"


def test_a_script_that_never_asks_dies_of_sigterm(tmp_path: Path) -> None:
    assert run_alone(tmp_path, f"ctx = launcher.init()\n{KILL_ME}").returncode == -signal.SIGTERM


def test_a_closed_context_gives_sigterm_back(tmp_path: Path) -> None:
    body = (
        f"ctx = launcher.init()\nctx.stopping()\n{KILL_ME}\nassert"
        f" ctx.stopping()\nctx.close()\n{KILL_ME}"
    )
    assert run_alone(tmp_path, body).returncode == -signal.SIGTERM


def test_a_handler_of_the_scripts_own_stays(tmp_path: Path) -> None:
    body = (
        "signal.signal(signal.SIGTERM, lambda *_: print('mine'))\n"
        f"ctx = launcher.init()\nctx.stopping()\n{KILL_ME}\nassert not ctx.stopping()"
    )
    done = run_alone(tmp_path, body)
    assert (done.returncode, done.stdout) == (0, "mine\n")


def test_a_missing_torch_names_the_command_that_installs_it(tmp_path: Path) -> None:
    done = run_alone(tmp_path, "sys.modules['torch'] = None\nlauncher.init()")
    # None in sys.modules is how python says that a module is not there.
    assert f"{sys.executable} -m pip install torch" in done.stderr


@pytest.mark.parametrize(
    ("call", "env", "words"),
    [
        ("init(backend='nccl')", {}, ["backend='nccl' needs a GPU", "'gloo'"]),
        ("init(backend='mpi')", {}, ["backend='mpi'", "built without MPI", "'gloo'", "'horovod'"]),
        ("init(backend='glo')", {}, ["backend='glo' is no backend", "'gloo'"]),
        (
            "init(backend='nccl')",
            {"LAUNCHER_BACKEND": "gloo"},
            ["backend='nccl'", "--backend is 'gloo'"],
        ),
        ("init('mpi', timeout_s=9)", {}, ["timeout_s=9", "MPI"]),
        (
            "init('gloo').mpi",
            {"SLURM_STEP_ID": "0"},
            ["srun has started this rank without it", "srun --mpi=pmix"],
        ),
        ("init(timeout_s=0)", {}, ["timeout_s=0"]),
        ("init()", {"RANK": "3", "WORLD_SIZE": "2"}, ["RANK=3", "WORLD_SIZE=2"]),
        ("init('gloo').all_reduce(1, 'avg')", {}, ["op='avg'", "'mean'"]),
        ("init('gloo').broadcast_object(1, src=1)", {}, ["src=1 is no rank"]),
    ],
)
def test_a_wrong_argument_is_named_with_what_works(
    monkeypatch: pytest.MonkeyPatch, call: str, env: dict[str, str], words: list[str]
) -> None:
    import launcher

    made: list[launcher.Context] = []

    def init(*args: object, **more: object) -> launcher.Context:
        made.append(launcher.init(*args, **more))
        return made[-1]

    for name in [name for name in os.environ if name.startswith(STARTERS)]:
        monkeypatch.delenv(name)
    for name, value in {**env, "CUDA_VISIBLE_DEVICES": ""}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(launcher.LauncherError) as caught:
        eval(call, {"init": init})
    for context in made:
        context.close()
    for word in words:
        assert word in str(caught.value)


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        env = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        done = run_alone(tmp_path, "launcher.init(timeout_s=20)", **env)
    assert done.returncode == 1
    assert f"port {port} (MASTER_PORT)" in done.stderr
    assert "EADDRINUSE" in done.stderr
