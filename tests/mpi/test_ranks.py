"""Ranks that mpirun has started: each of its processes stands for one, and one supervisor runs them
with everything that this process was given.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from tests.conftest import run_dirs
from tests.engines import MPI_SETTINGS, needs_mpi4py, needs_mpirun, needs_torch

pytestmark = needs_mpirun

SAY_WHO = """
import json, os, sys
names = "RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE NODE_RANK MASTER_ADDR GROUP_WORLD_SIZE"
parent = open(f"/proc/{os.getppid()}/cmdline").read().split("\\0")
facts = {
    "contract": " ".join(os.environ[name] for name in names.split()),
    "arguments": sys.argv,
    "parent": os.getppid() if "forkserver" in parent else parent,
    "port": os.environ["MASTER_PORT"],
    "rank of the engine": os.environ["OMPI_COMM_WORLD_RANK"],
    "namespace": os.environ["PMIX_NAMESPACE"],
}
with open("said_" + os.environ["RANK"], "w") as file:
    json.dump(facts, file)
"""


def test_each_process_of_mpirun_is_a_rank_that_one_fork_server_starts(
    mpirun: Any, said: Any, tmp_path: Path
) -> None:
    done = mpirun(3, SAY_WHO, args=("--local_rank", "$LOCAL_RANK"))
    assert (done.code, done.out, done.err) == (0, "", "")
    facts = [json.loads(text) for text in said()]
    assert [each["contract"] for each in facts] == [f"{r} {r} 3 3 0 127.0.0.1 1" for r in range(3)]
    arguments = [["script.py", "--local_rank", str(rank)] for rank in range(3)]
    assert [each["arguments"] for each in facts] == arguments
    assert [each["rank of the engine"] for each in facts] == ["0", "1", "2"]
    for shared in ("parent", "port", "namespace"):
        assert len({str(each[shared]) for each in facts}) == 1
    assert isinstance(facts[0]["parent"], int), "started by something else than a fork server"
    (folder,) = run_dirs(tmp_path)
    logs = sorted(path.name for path in (folder / "logs").glob("rank_*"))
    assert logs == [f"rank_{rank:02}.{end}" for rank in range(3) for end in ("err", "log", "out")]


# Everything that a wrapper can change for one rank, before the launcher comes.
WRAPPER = """\
rank=$OMPI_COMM_WORLD_RANK
mkdir folder$rank && cd folder$rank
umask 02$rank
ulimit -S -n $((300 + rank))
exec 7<../input$rank
export OWN=value$rank
exec nice -n $((rank + 1)) taskset -c ${CPUS[rank]} "$@" --own $rank
"""

SAY_WHAT_IT_HAS = """
import json, os, resource, sys
facts = [
    os.path.basename(os.getcwd()),
    os.umask(0),
    resource.getrlimit(resource.RLIMIT_NOFILE)[0],
    os.read(7, 100).decode(),
    os.environ["OWN"],
    os.getpriority(os.PRIO_PROCESS, 0),
    sorted(os.sched_getaffinity(0)),
    sys.argv[1:],
    sorted(int(fd) for fd in os.listdir("/proc/self/fd") if 2 < int(fd) < 10),
]
with open(os.path.join("..", "said_" + os.environ["RANK"]), "w") as file:
    json.dump(facts, file)
"""


def test_what_a_wrapper_gives_each_process_arrives_in_its_rank(
    mpirun: Any, said: Any, tmp_path: Path
) -> None:
    ranks = 3
    cpus = sorted(os.sched_getaffinity(0))
    own = [[cpus[0]], [cpus[-1]], cpus]
    lists = " ".join(",".join(map(str, each)) for each in own)
    (tmp_path / "wrapper").write_text(f"CPUS=({lists})\n{WRAPPER}")
    for rank in range(ranks):
        (tmp_path / f"input{rank}").write_text(f"for rank {rank}")
    script = str(tmp_path / "script.py")
    (tmp_path / "script.py").write_text(SAY_WHAT_IT_HAS)
    done = mpirun(ranks, "", args=[script], wrapper=["bash", str(tmp_path / "wrapper")])
    assert (done.code, done.err) == (0, "")
    niceness = os.getpriority(os.PRIO_PROCESS, 0)
    for rank, text in enumerate(said()):
        *facts, descriptors = json.loads(text)
        assert facts == [
            f"folder{rank}",
            0o020 + rank,
            300 + rank,
            f"for rank {rank}",
            f"value{rank}",
            niceness + rank + 1,
            own[rank],
            ["--own", str(rank)],
        ]
        assert 7 in descriptors


@needs_torch
@needs_mpi4py
def test_ranks_reduce_with_torch_and_have_the_communicator_of_mpi4py(
    mpirun: Any, said: Any
) -> None:
    done = mpirun(
        2,
        "import launcher, torch\n"
        "ctx = launcher.init(backend='gloo')\n"
        "total = ctx.all_reduce(float(ctx.rank + 1), 'sum')\n"
        "with open(f'said_{ctx.rank}', 'w') as file:\n"
        "    file.write(f'{total} {ctx.mpi.allgather(ctx.rank)}')\n",
    )
    assert (done.code, done.err) == (0, "")
    assert said() == ["3.0 [0, 1]"] * 2


def test_one_launcher_started_by_mpirun_supervises_workers_that_know_nothing_of_mpi(
    mpirun: Any,
) -> None:
    done = mpirun(
        1,
        "import os\n"
        "left = [n for n in os.environ if n.startswith(('OMPI_COMM_WORLD', 'PMIX_'))]\n"
        "print(os.environ['RANK'], os.environ['WORLD_SIZE'], left, flush=True)\n",
        "--nproc-per-node",
        "2",
    )
    assert done.code == 0, done.err
    assert "0 2 []" in done.out
    assert "1 2 []" in done.out


@needs_mpi4py
def test_alone_the_communicator_is_a_world_of_one(run_command: Any, script: Any) -> None:
    name = script("import launcher\nctx = launcher.init()\nprint(ctx.mpi.allgather(ctx.rank))\n")
    done = run_command([sys.executable, name], env={**MPI_SETTINGS, "CUDA_VISIBLE_DEVICES": ""})
    assert (done.code, done.out) == (0, "[0]\n"), done.err


def test_ranks_of_the_launchers_own_are_told_how_to_get_a_communicator(
    run: Any, script: Any
) -> None:
    done = run(
        "--nproc-per-node", "2", script("import launcher\nlauncher.init(backend='gloo').mpi\n")
    )
    assert done.code == 1
    assert "mpirun -np 2 python -m launcher" in done.err


def test_the_mpi_backend_without_mpirun_is_refused_before_anything_starts(
    run: Any, script: Any, tmp_path: Path
) -> None:
    done = run("--nproc-per-node", "4", "--backend", "mpi", script("print('never')\n"))
    assert (done.code, done.out) == (2, "")
    assert "Type: mpirun -np 4 python -m launcher --backend mpi script.py" in done.err
    assert not (tmp_path / "runs").exists()


@needs_torch
def test_the_mpi_backend_reaches_the_script_and_works_or_names_what_does(mpirun: Any) -> None:
    text = (
        "import launcher, torch\n"
        "try:\n"
        "    ctx = launcher.init()\n"
        "    assert torch.distributed.is_mpi_available() and ctx.backend == 'mpi'\n"
        "    assert ctx.all_reduce(1, 'sum') == ctx.world_size\n"
        "except launcher.LauncherError as error:\n"
        "    assert not torch.distributed.is_mpi_available() and \"'horovod'\" in str(error)\n"
    )
    done = mpirun(1, text, "--backend", "mpi")
    assert done.code == 0, done.err
