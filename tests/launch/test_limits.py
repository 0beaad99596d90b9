"""Odd surroundings: many ranks, closed streams, no home, few descriptors, very long arguments,
foreign commands.
"""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path

import pytest

from tests.conftest import Run, Script

HELLO = "import os\nprint('hello', os.environ['RANK'])\n"


@pytest.mark.slow
def test_64_ranks_print_and_end(method: str, run: Run, script: Script) -> None:
    script(HELLO)
    done = run("--start", method, "--nproc-per-node", "64", "script.py")
    assert done.code == 0
    assert done.lines == sorted(f"[{rank:2d}] hello {rank}" for rank in range(64))


@pytest.mark.slow
def test_64_ranks_run_under_the_usual_limit_of_open_files_and_keep_it(
    method: str, run_command: Run, script: Script
) -> None:
    script("import resource\nprint(resource.getrlimit(resource.RLIMIT_NOFILE)[0])\n")
    command = f"ulimit -Sn 256; exec $0 -m launcher --start {method} --nproc 64 script.py"
    done = run_command(["sh", "-c", command, sys.executable])
    assert done.code == 0, done.err
    assert done.lines == sorted(f"[{rank:2d}] 256" for rank in range(64))


@pytest.mark.slow
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_at_the_start_do_no_harm(
    closed: str, run_command: Run, script: Script, tmp_path: Path
) -> None:
    script(HELLO + "import sys\nprint('to err', file=sys.stderr)\n")
    for method in ("spawn", "warm"):
        done = run_command(
            [
                "sh",
                "-c",
                f'exec "$0" -m launcher --start {method} --nproc-per-node 2 script.py {closed}',
                sys.executable,
            ]
        )
        assert done.code == 0
        if ">&-" not in closed.replace("2>&-", ""):
            assert done.lines == ["[0] hello 0", "[1] hello 1"]
    logs = sorted(log.read_text() for log in tmp_path.glob("runs/[!l]*/logs/*.out"))
    assert logs == ["hello 0\n", "hello 0\n", "hello 1\n", "hello 1\n"]


@pytest.mark.slow
def test_no_home_no_user_and_no_tmpdir_do_no_harm(method: str, run: Run, script: Script) -> None:
    script(HELLO)
    done = run(
        "--start",
        method,
        "--nproc-per-node",
        "2",
        "script.py",
        env={"HOME": None, "USER": None, "TMPDIR": "/no/such/folder"},
    )
    assert (done.code, done.lines, done.err) == (0, ["[0] hello 0", "[1] hello 1"], "")


@pytest.mark.slow
def test_more_ranks_than_descriptors_are_refused_before_anything_is_made(
    run: Run, script: Script, tmp_path: Path
) -> None:
    script(HELLO)

    def limit() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))

    # A plan for so many could not be printed either: it would be in memory first.
    for options in (["30"], ["99999999999999999999"], ["99999999999999999999", "--dry-run"]):
        done = run("--nproc-per-node", *options, "script.py", preexec_fn=limit)
        assert (done.code, done.err.count("\n"), "ulimit -Hn" in done.err) == (1, 1, True), done.err
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_an_argument_of_130_kb_and_an_environment_of_100_kb_arrive(
    method: str, run: Run, script: Script
) -> None:
    script(
        "import hashlib, json, os, sys\nprint(json.dumps([len(sys.argv[1]), sys.argv[2],"
        " len(os.environ['LONG'])]))\n"
    )
    done = run(
        "--start",
        method,
        "--nproc-per-node",
        "2",
        "script.py",
        "a" * 130_000,
        "$RANK",
        env={"LONG": "e" * 100_000},
    )
    assert done.code == 0, done.err[-2000:]
    assert [json.loads(line[4:]) for line in done.lines] == [
        [130_000, str(rank), 100_000] for rank in range(2)
    ]


@pytest.mark.slow
def test_many_arguments_arrive(method: str, run: Run, script: Script) -> None:
    script("import sys\nprint(len(sys.argv), len(''.join(sys.argv)))\n")
    done = run("--start", method, "--nproc-per-node", "2", "script.py", *(["argument"] * 10_000))
    assert done.lines == [f"[{rank}] 10001 80009" for rank in range(2)]


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program"
    path.write_text('#!/bin/sh\necho "rank $RANK of $WORLD_SIZE: $*"\nexit $1\n')
    path.chmod(0o755)
    return path


@pytest.mark.slow
def test_a_foreign_command_gets_the_environment_and_its_arguments(run: Run, program: Path) -> None:
    done = run(
        "--no-python", "--nproc-per-node", "2", "./program", "0", "$LOCAL_RANK", "$HOME", "a b"
    )
    assert done.lines == [f"[{rank}] rank {rank} of 2: 0 {rank} $HOME a b" for rank in range(2)]
    assert done.code == 0
    assert run("--no-python", "./program", "5").code == 5


@pytest.mark.slow
def test_a_command_that_cannot_be_started_gives_what_a_shell_would(run: Run, program: Path) -> None:
    program.chmod(stat.S_IRUSR | stat.S_IWUSR)
    done = run("--no-python", "./program")
    assert (done.code, "chmod +x" in done.err) == (126, True)
    assert run("--no-python", "./no_such_program").code == 127
    assert run("--no-python", "no-such-command-anywhere").code == 127
    program.write_text("#!/no/such/interpreter\n")
    program.chmod(0o755)
    assert run("--no-python", "./program").code == 126
    program.write_bytes(b"\x7fELF not really")
    done = run("--no-python", "./program")
    assert done.code == 126
    assert "Traceback" not in done.err


@pytest.mark.slow
def test_an_interpreter_that_cannot_be_started_is_said_in_one_paragraph(
    method: str, run: Run, program: Path, script: Script
) -> None:
    def refused(python: str) -> tuple[int, str]:
        done = run(
            "--start",
            method,
            "--nproc-per-node",
            "2",
            script("pass\n"),
            env={"PYTHON_EXEC": python},
        )
        assert "Traceback" not in done.err
        assert done.err.count("\n") == 1
        return done.code, done.err

    for missing in ("/no/such/python", "no-such-python-anywhere"):
        code, said = refused(missing)
        assert (code, f"PYTHON_EXEC={missing}" in said, "unset PYTHON_EXEC" in said) == (
            127,
            True,
            True,
        )
    program.write_text("#!/no/such/interpreter\n")
    assert refused("./program")[0] == 126
    program.chmod(stat.S_IRUSR | stat.S_IWUSR)
    assert refused("./program")[0] == 126


@pytest.mark.slow
def test_a_foreign_command_finds_signals_as_a_shell_leaves_them(run: Run, run_command: Run) -> None:
    show = ["grep", "-E", "^Sig(Blk|Ign|Cgt)", "/proc/self/status"]
    plain = run_command(show)
    done = run("--no-python", *show)
    # posix_spawn of the C library ignores two signals of its own, 32 and 33, which no program can
    # use.
    masks = [int(line.split()[-1], 16) & ~(3 << 31) for line in done.out.splitlines()]
    assert masks == [int(line.split()[-1], 16) for line in plain.out.splitlines()]


@pytest.mark.slow
def test_a_script_that_is_deleted_after_the_start_fails_clearly(
    method: str, run: Run, script: Script
) -> None:
    # Each rank removes its own file in its first attempt: the second attempt finds none.
    script(
        "import os\nos.path.exists('script.py') and os.remove('script.py')\nraise SystemExit(3)\n"
    )
    done = run("--start", method, "--max-restarts", "1", "script.py")
    assert done.code != 0
    assert "script.py" in done.err
    assert "launcher/worker" not in done.err


@pytest.mark.slow
def test_the_current_folder_may_be_gone(
    method: str, run_command: Run, script: Script, tmp_path: Path
) -> None:
    script(HELLO)
    (tmp_path / "gone").mkdir()
    line = (
        f'cd gone && rmdir ../gone && exec "$0" -m launcher --start {method} --nproc-per-node 2'
        f" {tmp_path}/script.py"
    )
    done = run_command(["sh", "-c", line, sys.executable], env={"TMPDIR": str(tmp_path)})
    assert "Traceback" not in done.err
    assert done.lines == ["[0] hello 0", "[1] hello 1"]
    assert done.code == 0


@pytest.mark.slow
def test_a_script_that_only_one_worker_could_read_is_refused(run: Run, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    done = run("--nproc-per-node", "2", "pipe")
    assert done.code == 2
    assert "pipe is no regular file" in done.err
    # A file, but only the first worker has it as its stdin: the others would run an empty program,
    # and succeed.
    (tmp_path / "script.py").write_text("raise SystemExit(3)\n")
    with open(tmp_path / "script.py", "rb") as file:
        done = run("--nproc-per-node", "2", "/dev/stdin", stdin=file)
    assert (done.code, "/dev/stdin is no regular file" in done.err) == (2, True)
