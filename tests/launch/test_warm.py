"""The warm start: what the fork server must get right, and when it must step aside by itself."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Run, Script, Start, is_alive, wait_until

ASIDE = "starting each rank with its own interpreter"


def answers(out: str) -> list[Any]:
    """Return what the ranks printed as JSON, in the order of ranks."""
    return [json.loads(line.partition("] ")[2]) for line in sorted(out.splitlines())]


@pytest.mark.slow
def test_several_ranks_are_forked_from_one_server_that_has_one_thread(
    run: Run, script: Script
) -> None:
    pytest.importorskip("numpy")
    script(
        "import json, os, sys, numpy\nparent = os.getppid()\nprint(json.dumps([parent,"
        " len(os.listdir(f'/proc/{parent}/task')), open(f'/proc/{parent}/cmdline').read()]))\n"
    )
    first, second = answers(run("--nproc-per-node", "2", "script.py").out)
    assert first == second
    assert first[1] == 1
    assert "forkserver" in first[2]


@pytest.mark.slow
def test_one_rank_without_restarts_needs_no_server(run: Run, script: Script) -> None:
    script("import os\nprint('forkserver' in open(f'/proc/{os.getppid()}/cmdline').read())\n")
    assert run("script.py").out == "[0] False\n"
    assert run("--start", "warm", "script.py").out == "[0] True\n"
    assert run("--max-restarts", "1", "script.py").out == "[0] True\n"


@pytest.mark.slow
def test_heavy_modules_are_imported_once_and_the_users_own_in_each_rank(
    run: Run, script: Script, tmp_path: Path
) -> None:
    pytest.importorskip("numpy")
    script("import os\nopen('imported', 'a').write(f'{os.getpid()}\\n')\n", "mine.py")
    script(
        "import json, os, sys\nseen = 'numpy' in sys.modules\nimport mine,"
        " numpy\nprint(json.dumps([seen, os.getpid()]))\n"
    )
    seen = answers(run("--nproc-per-node", "2", "script.py").out)
    assert [was_there for was_there, _ in seen] == [True, True]
    assert sorted(pid for _, pid in seen) == sorted(
        int(pid) for pid in (tmp_path / "imported").read_text().split()
    )


@pytest.mark.slow
def test_a_module_of_the_users_that_is_called_numpy_is_used_and_not_preloaded(
    run: Run, script: Script, tmp_path: Path
) -> None:
    script("import os\nopen('imported', 'a').write(f'{os.getpid()}\\n')\nmine = True\n", "numpy.py")
    script("import json, os, numpy\nprint(json.dumps([numpy.mine, os.getpid()]))\n")
    seen = answers(run("--nproc-per-node", "2", "script.py").out)
    assert [mine for mine, _ in seen] == [True, True]
    assert sorted(pid for _, pid in seen) == sorted(
        int(pid) for pid in (tmp_path / "imported").read_text().split()
    )


@pytest.mark.slow
def test_a_preloaded_module_that_starts_a_thread_makes_it_step_aside(
    run: Run, script: Script
) -> None:
    script(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(1000,),"
        " daemon=True).start()\n",
        "threaded.py",
    )
    script("import os\nprint('forkserver' in open(f'/proc/{os.getppid()}/cmdline').read())\n")
    done = run("--nproc-per-node", "2", "--preload", "threaded", "script.py")
    assert done.lines == ["[0] False", "[1] False"]
    assert done.err.count("\n") == 1
    assert ASIDE in done.err
    assert "started threads" in done.err
    assert done.code == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "setting",
    [
        "os.environ['OMP_NUM_THREADS'] = '3'",
        "os.environ.setdefault('MKL_NUM_THREADS', '3')",
        "os.environ.update({'OPENBLAS_NUM_THREADS': '3'})",
        "os.environ.update(OPENBLAS_NUM_THREADS='3')",
        "os.environ |= {'NUMEXPR_NUM_THREADS': '3'}",
        "os.putenv('OMP_NUM_THREADS', '3')",
    ],
)
def test_a_script_that_sets_what_libraries_read_while_they_load_is_not_started_warm(
    setting: str, run: Run, script: Script
) -> None:
    script(
        f"import os\n{setting}\nimport numpy\nprint('forkserver' in"
        " open(f'/proc/{os.getppid()}/cmdline').read())\n"
    )
    done = run("--nproc-per-node", "2", "script.py")
    assert done.lines == ["[0] False", "[1] False"]
    assert done.err.count("\n") == 1
    assert ASIDE in done.err
    assert "script.py sets" in done.err


OPENBLAS_THREADS = """
import ctypes, json, os, sys
import numpy
def threads():
    for line in open('/proc/self/maps'):
        path = line.rstrip().partition('/')[2]
        if 'openblas' in path.rpartition('/')[2]:
            for name in ('openblas', 'scipy_openblas'):
                for suffix in ('', '64_'):
                    f = getattr(ctypes.CDLL('/' + path), f'{name}_get_num_threads{suffix}', None)
                    if f is not None:
                        return f()
numpy.ones((200, 200)) @ numpy.ones((200, 200))
print(json.dumps(['forkserver' in open(f'/proc/{os.getppid()}/cmdline').read(), threads(),
                  os.environ.get('OPENBLAS_NUM_THREADS'), len(os.listdir('/proc/self/task'))]))
"""


@pytest.mark.slow
def test_openblas_with_several_threads_stays_warm_and_has_its_threads_in_each_rank(
    run: Run, script: Script
) -> None:
    pytest.importorskip("numpy")
    script(OPENBLAS_THREADS)
    done = run("--nproc-per-node", "2", "script.py", env={"OMP_NUM_THREADS": "4"})
    seen = answers(done.out)
    if seen[0][1] is None:
        pytest.skip("this numpy has no OpenBLAS")
    spawned = answers(
        run(
            "--start", "spawn", "--nproc-per-node", "2", "script.py", env={"OMP_NUM_THREADS": "4"}
        ).out
    )
    assert done.err == ""
    assert seen == [[True, *spawned[0][1:]]] * 2


@pytest.mark.slow
def test_random_numbers_differ_between_ranks_and_between_attempts(
    method: str, run: Run, script: Script
) -> None:
    pytest.importorskip("numpy")
    script(
        "import json, multiprocessing, os, random, sys, tempfile, uuid,"
        " numpy\nprint(json.dumps([random.random(), numpy.random.rand(),"
        " numpy.random.default_rng().random(), str(uuid.uuid4()),\n   "
        " next(tempfile._get_candidate_names()), multiprocessing.current_process().authkey.hex(),"
        " str(uuid.uuid1())]))\nsys.exit(os.environ['TORCHELASTIC_RESTART_COUNT'] == '0')\n"
    )
    seen = answers(
        run(
            "--start",
            method,
            "--nproc-per-node",
            "3",
            "--max-restarts",
            "1",
            "script.py",
            env={"OMP_NUM_THREADS": "1"},
        ).out
    )
    # Ranks of the first attempt that were stopped early have printed nothing.
    assert len(seen) >= 4
    for values in zip(*seen, strict=True):
        assert len(set(values)) == len(seen), values


@pytest.mark.slow
def test_the_title_of_a_process_shows_its_rank(method: str, run: Run, script: Script) -> None:
    script(
        "print(open('/proc/self/cmdline').read().rstrip('\\0 '), '|',"
        " open('/proc/self/comm').read().strip())\n"
    )
    done = run("--start", method, "--nproc-per-node", "2", "script.py", "--lr", "0.1")
    assert done.lines == [
        f"[{rank}] [rank {rank}/2] python script.py --lr 0.1 | rank {rank}/2" for rank in range(2)
    ]


@pytest.mark.slow
def test_a_module_that_cannot_be_imported_fails_in_the_ranks_and_not_in_the_server(
    run: Run, script: Script
) -> None:
    script(
        "import os\nif 'RANK' in os.environ: print('imported in a rank')\nraise"
        " RuntimeError('cannot be imported')\n",
        "broken.py",
    )
    script("try:\n    import broken\nexcept RuntimeError as error: print(error)\n")
    done = run("--nproc-per-node", "2", "--preload", "broken,no_such_module", "script.py")
    assert done.lines == sorted(
        [
            f"[{rank}] {text}"
            for rank in range(2)
            for text in ("imported in a rank", "cannot be imported")
        ]
    )
    assert done.code == 0


@pytest.mark.slow
def test_nothing_leaks_from_one_attempt_into_the_next_and_the_server_stays(
    run: Run, script: Script
) -> None:
    script(
        "import builtins, json, os, sys\nseen = [os.environ.get('LEFT'), os.getcwd(),"
        " hasattr(builtins, 'left'), len(os.listdir('/proc/self/fd')),\n        os.nice(0),\n      "
        "  os.umask(0o22), 'left' in sys.path,"
        " os.getppid()]\nprint(json.dumps([int(os.environ['TORCHELASTIC_RESTART_COUNT']),"
        " seen]))\nos.environ['LEFT'] = '1'; os.chdir('/'); builtins.left = open('/dev/null');"
        " os.nice(1)\nos.umask(0);"
        " sys.path.append('left')\nsys.exit(os.environ['TORCHELASTIC_RESTART_COUNT'] != '2')\n"
    )
    seen = answers(
        run("--start", "warm", "--nproc-per-node", "1", "--max-restarts", "2", "script.py").out
    )
    assert [attempt for attempt, _ in seen] == [0, 1, 2]
    assert seen[0][1] == seen[1][1] == seen[2][1]


@pytest.mark.slow
def test_the_death_of_the_server_is_a_failure_with_a_clear_message(
    start: Start, script: Script
) -> None:
    script(
        "import os, signal\n"
        "os.write(1, b'server %d me %d\\n' % (os.getppid(), os.getpid()))\nsignal.pause()\n"
    )
    running = start("--nproc-per-node", "2", "script.py")
    running.wait_for("me", 2)
    words = running.out.splitlines()[0].split()
    server = int(words[words.index("server") + 1])
    ranks = [int(line.split()[-1]) for line in running.out.splitlines()]
    os.kill(server, signal.SIGKILL)
    done = running.finish()
    assert done.code == 1
    assert (
        "FAILED: the fork server, parent of all workers here, has died: killed by SIGKILL"
        in done.err
    )
    assert not any(is_alive(pid) for pid in ranks)


@pytest.mark.slow
def test_after_the_death_of_the_server_a_restart_has_a_new_one(
    start: Start, script: Script
) -> None:
    script(
        "import os, signal\nos.write(1, b'server %d\\n' % os.getppid())\n"
        "if os.environ['TORCHELASTIC_RESTART_COUNT'] == '0': signal.pause()\n"
    )
    running = start("--nproc-per-node", "2", "--max-restarts", "1", "script.py")
    running.wait_for("server", 2)
    os.kill(int(running.out.split()[2]), signal.SIGKILL)
    done = running.finish()
    assert done.code == 0, done.err
    assert len({line.split()[-1] for line in done.out.splitlines()}) == 2


@pytest.mark.slow
def test_the_death_of_the_server_while_it_imports_only_makes_the_start_slower(
    start: Start, script: Script, tmp_path: Path
) -> None:
    script(
        "import os, signal\nif 'RANK' not in os.environ:\n"
        "    open('pid', 'w').write(f'{os.getpid()} ')\n    signal.pause()\n",
        "slow.py",
    )
    script("print('fine')\n")
    running = start("--nproc-per-node", "2", "--preload", "slow", "script.py")
    pid = wait_until(
        lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip(),
        "the server imports",
    )
    os.kill(int(pid), signal.SIGKILL)
    done = running.finish()
    assert done.lines == ["[0] fine", "[1] fine"]
    assert done.err.count("\n") == 1
    assert ASIDE in done.err


@pytest.mark.slow
def test_a_server_that_ends_before_it_is_asked_for_anything_only_makes_the_start_slower(
    run: Run, script: Script, tmp_path: Path
) -> None:
    script("import os\nprint(os.environ['RANK'])\n")
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\ncase "$*" in *forkserver*) exit 0;; esac\nexec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    done = run(
        "--start", "warm", "--nproc-per-node", "2", "script.py", env={"PYTHON_EXEC": str(python)}
    )
    assert (done.code, done.lines) == (0, ["[0] 0", "[1] 1"])
    assert "Traceback" not in done.err
    assert ASIDE in done.err


@pytest.mark.slow
@pytest.mark.parametrize("begin", ["exec ", ""])
def test_a_wrapper_that_python_exec_names_wraps_each_rank(
    begin: str, run: Run, script: Script, tmp_path: Path
) -> None:
    script("import os, sys\nprint(os.environ['RANK'], os.environ['BOUND_TO'], sys.argv[1:])\n")
    wrapper = tmp_path / "wrapper"
    wrapper.write_text(
        f'#!/bin/sh\nexport BOUND_TO="<$LOCAL_RANK>"\n{begin}{sys.executable} "$@"\nexit $?\n'
    )
    wrapper.chmod(0o755)
    environ = {"PYTHON_EXEC": str(wrapper)}
    done = run("--nproc-per-node", "3", "script.py", "a b", env=environ)
    assert done.code == 0, done.err
    assert done.lines == [f"[{rank}] {rank} <{rank}> ['a b']" for rank in range(3)]
    assert done.err == ""
    done = run("--start", "warm", "--nproc-per-node", "2", "script.py", env=environ)
    assert done.lines == [f"[{rank}] {rank} <> []" for rank in range(2)]


@pytest.mark.slow
def test_what_an_import_prints_in_the_server_is_shown_as_the_launchers(
    run: Run, script: Script
) -> None:
    script(
        "import os\nif 'RANK' not in os.environ: print('a warning of the import')\n", "chatty.py"
    )
    script("print('fine')\n")
    done = run("--nproc-per-node", "2", "--preload", "chatty", "script.py")
    assert done.lines == ["[0] fine", "[1] fine"]
    assert done.err == "[launcher] a warning of the import\n"
