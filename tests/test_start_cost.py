"""The command line stays light: what it imports is counted, because a count is the same on every
machine.
"""

import os
import subprocess
import sys

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
HEAVY = """
    torch numpy asyncio multiprocessing inspect dataclasses shutil tempfile uuid pathlib logging
    concurrent.futures ssl email importlib.metadata typing
""".split()  # noqa: SIM905
MOST_MODULES = 65


def modules_after(code):
    program = f"import sys; sys.path.insert(0, {ROOT!r}); {code}; print(*sys.modules)"
    command = [sys.executable, "-I", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.splitlines()[-1].split()


@pytest.mark.parametrize(
    "code",
    [
        (
            "import launcher.cli, launcher.options.spec, launcher.options.arguments,"
            " launcher.plan.program"
        ),
        "import launcher.cli; launcher.cli.main(['--help'])",
        "import launcher.cli; launcher.cli.main(['--nproc-per-node', '2', 'no-such-script.py'])",
    ],
)
def test_the_command_line_imports_nothing_heavy(code):
    modules = modules_after(code)
    assert [name for name in HEAVY if name in modules] == []
    bare = modules_after("pass")
    assert len(set(modules) - set(bare)) <= MOST_MODULES, sorted(set(modules) - set(bare))


def test_what_several_nodes_need_is_not_heavy_either():
    code = (
        "import launcher.cli, launcher.nodes.remote, launcher.plan.nodes, launcher.system.network;"
        " launcher.system.network.resolve('localhost', 1)"
    )
    modules = modules_after(code)
    heavy = (*HEAVY, "encodings.idna", "hashlib", "_hashlib")
    assert [name for name in heavy if name in modules] == []


def test_a_rank_with_an_interpreter_of_its_own_loads_hardly_more_than_python(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import sys; print(*sys.modules)")
    entry = os.path.join(ROOT, "launcher", "worker", "__main__.py")
    worker = [entry, "run", "script", str(os.getpid()), "[rank 0/1] script.py"]
    rank, plain = (
        set(
            subprocess.run(
                [sys.executable, "-I", *command, str(script)],
                capture_output=True,
                text=True,
                check=True,
                timeout=60,
            ).stdout.split()
        )
        for command in (worker, [])
    )
    of_python = {"_collections", "_ctypes", "atexit", "faulthandler", "fcntl", "__future__"}
    assert {name for name in rank - plain if not name.startswith("launcher")} <= of_python


def test_only_the_help_needs_argparse():
    code = "import launcher.cli; launcher.cli.main(['--nproc-per-node', '2', 'no-such-script.py'])"
    assert "argparse" not in modules_after(code)
