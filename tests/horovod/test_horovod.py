"""Horovod for real: unchanged scripts and the helpers, under this launcher and under mpirun."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.engines import MPI_SETTINGS, needs_horovod, needs_mpirun

ROOT = Path(__file__).resolve().parents[2]
OPS = str(ROOT / "tests" / "workers" / "horovod_ops.py")

pytestmark = needs_horovod

_AFTER_ONE_ALLREDUCE = (
    "import sys, os, horovod.torch as hvd, torch\nhvd.init()\nhvd.allreduce(torch.ones(1),"
    " name='together')\n"
)


@pytest.mark.parametrize("ranks", [2, 4])
def test_every_operation_is_right_under_gloo(run: Any, method: str, ranks: int) -> None:
    done = run("--start", method, "--nproc-per-node", str(ranks), "--backend", "horovod", OPS)
    assert done.code == 0, done.err
    assert done.lines == [
        f"[{r}] rank {r} of {ranks}: every operation is right" for r in range(ranks)
    ]


@needs_mpirun
@pytest.mark.parametrize("ranks", [2, 4])
def test_every_operation_is_right_for_ranks_of_mpirun(
    run_command: Any, tmp_path: Path, ranks: int
) -> None:
    argv = ["mpirun", "-np", str(ranks), sys.executable, "-m", "launcher", OPS, "adasum"]
    done = run_command(argv, env=MPI_SETTINGS, timeout_s=150.0)
    assert done.code == 0, done.err
    assert {path.name for path in tmp_path.glob("right_*")} == {f"right_{r}" for r in range(ranks)}


def test_a_script_that_imports_horovod_needs_no_flag(run: Any, script: Any) -> None:
    name = script(_AFTER_ONE_ALLREDUCE + "print(hvd.rank(), hvd.size())\n")
    done = run("--nproc-per-node", "2", name)
    assert done.lines == ["[0] 0 2", "[1] 1 2"], done.err


def test_a_script_may_leave_horovod_and_come_back(run: Any, script: Any) -> None:
    again = "hvd.shutdown(); hvd.init()\nprint(hvd.allreduce(torch.ones(1), op=hvd.Sum).item())\n"
    done = run("--nproc-per-node", "2", script(_AFTER_ONE_ALLREDUCE + again))
    assert done.lines == ["[0] 2.0", "[1] 2.0"], done.err


def test_the_true_exception_is_named_and_not_that_horovod_has_been_shut_down(
    run: Any, script: Any
) -> None:
    text = (
        "if hvd.rank() == 1: raise ValueError('the cause')\nhvd.allreduce(torch.ones(1),"
        " name='alone')\n"
    )
    done = run("--nproc-per-node", "3", script(_AFTER_ONE_ALLREDUCE + text))
    report = done.err[done.err.index("FAILED:") :]
    assert done.code == 1
    assert report.startswith("FAILED: rank 1 ")
    assert "ValueError: the cause" in report


def test_a_restart_after_a_killed_rank_meets_again(run: Any, script: Any) -> None:
    text = (
        "if hvd.rank() == 1 and os.environ['TORCHELASTIC_RESTART_COUNT'] == '0':"
        " os.kill(os.getpid(), 9)\nprint('sum', hvd.allreduce(torch.ones(1), op=hvd.Sum,"
        " name='after').item())\n"
    )
    done = run("--nproc-per-node", "2", "--max-restarts", "1", script(_AFTER_ONE_ALLREDUCE + text))
    assert done.code == 0, done.err
    assert "[0] sum 2.0" in done.lines
    assert "[1] sum 2.0" in done.lines


def test_the_helpers_give_the_same_numbers_with_horovod_as_with_gloo(run: Any, script: Any) -> None:
    name = script(
        "import json, launcher, torch\n"
        "ctx = launcher.init()\n"
        "torch.manual_seed(ctx.rank)\n"  # other weights on each rank: wrap() makes them rank 0's
        "model = ctx.wrap(torch.nn.Linear(3, 1))\n"
        "optimizer = ctx.wrap_optimizer(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),"
        " model)\n"
        "for step in range(4):\n"
        "    optimizer.zero_grad()\n"
        "    model(torch.arange(3.0) + ctx.rank + step).square().sum().backward()\n"
        "    optimizer.step()\n"
        "figures = [ctx.all_reduce(float(ctx.rank), op) for op in ('mean', 'sum', 'min', 'max')]\n"
        "shapes = [list(part.shape) for part in ctx.all_gather(torch.ones(ctx.rank + 1, 2))]\n"
        "objects = [ctx.broadcast_object(None if ctx.rank == 0 else [1], 1),"
        " ctx.gather_object(ctx.rank)]\n"
        "weights = ctx.unwrap(model).weight.detach().flatten().tolist()\n"
        "ctx.barrier()\n"
        "ctx.print(json.dumps([figures, shapes, objects, ctx.stopping(), weights]))\n"
    )
    results = {}
    for backend in ("gloo", "horovod"):
        done = run("--nproc-per-node", "2", "--backend", backend, name)
        assert done.code == 0, done.err
        results[backend] = json.loads(done.out.removeprefix("[0] "))
    assert (
        results["horovod"][:-1]
        == results["gloo"][:-1]
        == [[0.5, 1.0, 0.0, 1.0], [[1, 2], [2, 2]], [[1], [0, 1]], False]
    )
    assert results["horovod"][-1] == pytest.approx(results["gloo"][-1], rel=1e-5)


def test_a_stranger_without_the_secret_path_gets_nothing_from_the_store(
    run: Any, script: Any
) -> None:
    name = script(
        "import horovod, os, urllib.error, urllib.request\n"
        "port = os.environ['HOROVOD_GLOO_RENDEZVOUS_PORT']\n"
        "try:\n"
        "    urllib.request.urlopen(f'http://127.0.0.1:{port}/global/0')\n"
        "except urllib.error.HTTPError as error:\n"
        "    print(error.code)\n"
        "    error.close()\n"
    )
    done = run("--nproc-per-node", "1", name)
    assert done.lines == ["[0] 403"], done.err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("import horovod.torch as hvd\ndel hvd.init\n", "built without its extension for torch"),
        (
            "import json, os, horovod.torch as hvd\n"
            "folder = os.path.abspath('other' + os.environ['RANK'])\nos.mkdir(folder)\n"
            "with open(folder + '/metadata.json', 'w') as file:\n"
            "    json.dump({'pytorch': '1.0'}, file)\n"
            "hvd.__file__ = folder + '/torch/__init__.py'\n",
            "built for torch 1.0",
        ),
        ("import sys\nsys.modules['horovod'] = None\n", "Horovod is not installed"),
    ],
)
def test_a_horovod_that_does_not_fit_is_refused_with_the_command_that_mends_it(
    run: Any, script: Any, change: str, said: str
) -> None:
    done = run(
        "--nproc-per-node",
        "2",
        "--backend",
        "horovod",
        script(f"{change}import launcher\nlauncher.init()\n"),
    )
    assert done.code == 1
    assert said in done.err
    assert "scripts/build_horovod" in done.err
