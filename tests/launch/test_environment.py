"""The environment contract, as workers find it: every variable of the table, the user's values,
`$NAME` in arguments.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from launcher.contract.environment import VARIABLES
from launcher.system.machine import usable_cpus
from tests.conftest import Run, Script

PRINT = "import json, os, sys\nprint(json.dumps([dict(os.environ), sys.argv[1:]]))\n"


def seen_by_rank(out: str, num_ranks: int) -> list[tuple[dict[str, str], list[str]]]:
    """Return what each rank has printed; all of them must have."""
    lines = sorted(out.splitlines(), key=lambda line: int(line[1 : line.index("]")]))
    assert [line.partition("]")[0] for line in lines] == [f"[{rank}" for rank in range(num_ranks)]
    return [tuple(json.loads(line.partition("] ")[2])) for line in lines]


def variables_by_rank(out: str, num_ranks: int) -> list[dict[str, str]]:
    return [variables for variables, _ in seen_by_rank(out, num_ranks)]


@pytest.mark.slow
def test_every_variable_of_the_table_has_its_documented_value(
    method: str, run: Run, script: Script, tmp_path: Path
) -> None:
    script(PRINT)
    os.sched_setaffinity(0, allowed := os.sched_getaffinity(0))
    done = run(
        "--start",
        method,
        "--nproc-per-node",
        "3",
        "--max-restarts",
        "2",
        "--rdzv-id",
        "job7",
        "--role",
        "r",
        "script.py",
    )
    ranks = variables_by_rank(done.out, 3)
    run_dir = str(tmp_path / "runs" / "job7")
    for rank, env in enumerate(ranks):
        expected = {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "WORLD_SIZE": 3,
            "LOCAL_WORLD_SIZE": 3,
            "NODE_RANK": 0,
            "GROUP_RANK": 0,
            "GROUP_WORLD_SIZE": 1,
            "ROLE_NAME": "r",
            "ROLE_RANK": rank,
            "ROLE_WORLD_SIZE": 3,
            "MASTER_ADDR": "127.0.0.1",
            "TORCHELASTIC_RESTART_COUNT": 0,
            "TORCHELASTIC_MAX_RESTARTS": 2,
            "TORCHELASTIC_RUN_ID": "job7",
            "LAUNCHER_RUN_ID": "job7",
            "LAUNCHER_RUN_DIR": run_dir,
            "LAUNCHER_BACKEND": "auto",
            "LAUNCHER_STDIN_RANK": 0,
            "OMP_NUM_THREADS": max(1, len(allowed) // 3),
            "PYTHONUNBUFFERED": 1,
            "GLOO_SOCKET_IFNAME": "lo",
            "NCCL_SOCKET_IFNAME": "lo",
            "TORCH_NCCL_ASYNC_ERROR_HANDLING": 1,
            "LAUNCHER_ERROR_FILE": f"{run_dir}/errors/attempt_0/rank_0{rank}.json",
            "TORCHELASTIC_ERROR_FILE": f"{run_dir}/errors/attempt_0/rank_0{rank}.json.torch",
        }
        assert {name: env.get(name) for name in expected} == {
            name: str(value) for name, value in expected.items()
        }
        assert 1024 <= int(env["MASTER_PORT"]) <= 65535
        assert len(env["LAUNCHER_RUN_MARK"]) >= 16
        documented = {*expected, "MASTER_PORT", "LAUNCHER_RUN_MARK", "CUDA_VISIBLE_DEVICES"}
        of_other_backends = {name for name in VARIABLES if name.startswith("HOROVOD_")}
        assert set(VARIABLES) == documented | of_other_backends, "the table and this test differ"
        assert of_other_backends & set(env) == set()
        # Nothing that is not in the table: the launcher keeps its own settings to itself.
        assert set(env) - set(os.environ) - set(VARIABLES) - {"LC_CTYPE"} == set()
    assert len({env["MASTER_PORT"] for env in ranks}) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "stale",
    [
        {"RANK": "0"},
        {"WORLD_SIZE": "4"},
        {"RANK": "x", "WORLD_SIZE": "4"},
        {"RANK": "3", "WORLD_SIZE": "2"},
    ],
)
def test_what_only_a_parent_of_ranks_sets_means_nothing_to_the_launcher_as_under_torchrun(
    stale: dict[str, str], run: Run, script: Script
) -> None:
    script("import os\nprint(os.environ['RANK'], os.environ['WORLD_SIZE'])\n")
    done = run("--nproc-per-node", "2", "script.py", env=stale)
    assert (done.code, done.lines, done.err) == (0, ["[0] 0 2", "[1] 1 2"], "")


@pytest.mark.slow
def test_the_users_values_are_kept_and_only_the_ranks_are_ours(
    method: str, run: Run, script: Script
) -> None:
    script(PRINT)
    mine = {
        "OMP_NUM_THREADS": "7",
        "GLOO_SOCKET_IFNAME": "eth5",
        "NCCL_SOCKET_IFNAME": "eth6",
        "PYTHONUNBUFFERED": "",
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": "0",
        "CUDA_VISIBLE_DEVICES": "3,1",
        "MY_VARIABLE": "a\nb=c é",
        "EMPTY": "",
    }
    stale = {
        "RANK": "9",
        "WORLD_SIZE": "99",
        "LOCAL_RANK": "8",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "MASTER_PORT": "1",
    }
    ranks = variables_by_rank(
        run("--start", method, "--nproc-per-node", "2", "script.py", env=mine | stale).out, 2
    )
    for rank, env in enumerate(ranks):
        assert {name: env.get(name) for name in mine} == mine
        assert (env["RANK"], env["LOCAL_RANK"], env["WORLD_SIZE"]) == (str(rank), str(rank), "2")
        assert env["MASTER_PORT"] != "1"
        assert "TORCHELASTIC_USE_AGENT_STORE" not in env


@pytest.mark.slow
def test_rank_names_in_arguments_are_expanded_and_other_dollars_stay(
    method: str, run: Run, script: Script
) -> None:
    script(PRINT)
    given = [
        "$RANK",
        "${LOCAL_RANK}",
        "--x=$NODE_RANK/$WORLD_SIZE",
        "$LOCAL_WORLD_SIZE$RANK",
        "$MASTER_ADDR:${MASTER_PORT}",
        "$RANKS",
        "$HOME",
        "${RANK",
        "$",
        "$$RANK",
        "${OTHER}",
        "\\$RANK",
        "a$",
        "$RANK.txt",
        "$RANKé",
        "${RANK}0",
    ]
    done = run("--start", method, "--nproc-per-node", "2", "script.py", *given)
    for rank, (env, args) in enumerate(seen_by_rank(done.out, 2)):
        address = f"{env['MASTER_ADDR']}:{env['MASTER_PORT']}"
        assert args == [
            f"{rank}",
            f"{rank}",
            "--x=0/2",
            f"2{rank}",
            address,
            "$RANKS",
            "$HOME",
            "${RANK",
            "$",
            f"${rank}",
            "${OTHER}",
            f"\\{rank}",
            "a$",
            f"{rank}.txt",
            f"{rank}é",
            f"{rank}0",
        ]


@pytest.mark.slow
def test_threads_follow_the_cpus_that_the_shell_allows(
    method: str, run: Run, script: Script
) -> None:
    script(PRINT)
    cpus = sorted(os.sched_getaffinity(0))

    def threads(allowed: set[int], ranks: int) -> set[str]:
        done = run(
            "--start",
            method,
            "--nproc-per-node",
            str(ranks),
            "script.py",
            preexec_fn=lambda: os.sched_setaffinity(0, allowed),
        )
        return {env["OMP_NUM_THREADS"] for env in variables_by_rank(done.out, ranks)}

    # A container may have more CPUs than it may use at a time.
    assert threads(set(cpus), 1) == {str(usable_cpus())}
    assert threads({cpus[0]}, 1) == {"1"}
    assert threads(set(cpus), len(cpus) + 1) == {"1"}


@pytest.mark.slow
def test_a_launcher_inside_a_worker_makes_a_run_of_its_own(run: Run, script: Script) -> None:
    script(PRINT, "inner.py")
    script(
        "import os, subprocess, sys\nif os.environ['RANK'] == '0':\n   "
        " sys.exit(subprocess.call([sys.executable, '-m', 'launcher', '--nproc-per-node', '2',"
        " 'inner.py']))\n"
    )
    done = run("--nproc-per-node", "3", "--rdzv-id", "outer", "script.py")
    assert done.code == 0, done.err
    inner = "".join(line.removeprefix("[0] ") + "\n" for line in done.out.splitlines())
    for rank, env in enumerate(variables_by_rank(inner, 2)):
        assert (env["RANK"], env["WORLD_SIZE"]) == (str(rank), "2")
        assert env["LAUNCHER_RUN_ID"] != "outer"
        assert "outer" not in env["LAUNCHER_RUN_DIR"]
        assert "outer" not in env["LAUNCHER_ERROR_FILE"]


@pytest.mark.slow
def test_a_launcher_without_a_folder_does_not_write_into_that_of_another(
    run: Run, script: Script, tmp_path: Path
) -> None:
    script(PRINT)
    (tmp_path / "file").touch()
    outer = {
        "LAUNCHER_RUN_DIR": "/outer",
        "LAUNCHER_ERROR_FILE": "/outer/e",
        "TORCHELASTIC_ERROR_FILE": "/outer/t",
    }
    nowhere = {"TMPDIR": str(tmp_path / "file")}
    done = run("--run-dir", "file/runs", "--nproc-per-node", "2", "script.py", env=outer | nowhere)
    assert done.code == 0
    assert "keeps no log files" in done.err
    for env in variables_by_rank(done.out, 2):
        assert set(outer) & set(env) == set()
