"""How a script ends is how it ends under plain python: the traceback, the exit code, and everything
that happens at exit.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.conftest import Run, Script

# Each fails in its own way; compared with what plain python prints and returns.
FAILURES = {
    "exception": "def f():\n    raise ValueError('wrong\\nin two lines')\nf()\n",
    "syntax": "x = 1\nif x\n    pass\n",
    "tabs": "if 1:\n        x = 1\n\tx = 2\n",
    "chained": "try:\n    1/0\nexcept ZeroDivisionError as e:\n    raise KeyError('k') from e\n",
    "in a handler": "try:\n    1/0\nexcept ZeroDivisionError:\n    {}['k']\n",
    "note": "e = ValueError('x')\nif hasattr(e, 'add_note'): e.add_note('a note')\nraise e\n",
    "exit 3": "raise SystemExit(3)\n",
    "exit text": "import sys\nsys.exit('text')\n",
    "exit none": "import sys\nsys.exit()\n",
    "exit 256": "import sys\nsys.exit(256 + 7)\n",
    "exit -1": "import sys\nsys.exit(-1)\n",
    "exit 2**64": "import sys\nsys.exit(2**64)\n",
    "exit object": "raise SystemExit((1, 'x'))\n",
    "os._exit": "import os\nos._exit(9)\n",
    "keyboard interrupt": "raise KeyboardInterrupt\n",
    "atexit": "import atexit\ndef f(): 1/0\natexit.register(f)\n",
    "hook": (
        "import sys\ndef hook(k, v, t): print('hooked', k, t.tb_lineno,"
        " file=sys.stderr)\nsys.excepthook = hook\n1/0\n"
    ),
    "str raises": "class E(Exception):\n    def __str__(self): raise ValueError\nraise E\n",
    "recursion": "def f(n): return f(n + 1)\nf(0)\n",
    "deep": (
        "import sys\nsys.setrecursionlimit(20000)\ndef f(n):\n    if n == 3000: 1/0\n    f(n +"
        " 1)\nf(0)\n"
    ),
    "surrogate": "raise ValueError('\\ud800 \\udc80 é')\n",
    "multi-line": "raise ValueError(\n    'a',\n    'b',\n)\n",
    "import": "import no_such_module_at_all\n",
    "imported": "import broken\n",
    "thread": (
        "import threading\nt = threading.Thread(target=lambda: 1/0,"
        " name='t')\nt.start()\nt.join()\n"
    ),
    "del": "class D:\n    def __del__(self): 1/0\nD()\n",
    "warning": "import warnings\nwarnings.warn('careful')\n",
    "exec": "exec(compile('1/0', 'made up', 'exec'))\n",
}
if sys.version_info >= (3, 11):
    FAILURES["group"] = "raise ExceptionGroup('many', [ValueError(1), TypeError(2)])\n"


def _said_by_rank(err: str) -> str:
    """Return what the rank wrote, without its prefix and without what the launcher adds."""
    return "".join(line[4:] + "\n" for line in err.split("\n") if line.startswith("[0] "))


def _comparable(text: str) -> str:
    # Addresses differ from process to process; python writes all other text alike.
    text = re.sub(r"0x[0-9a-f]+", "0x", text)
    # Our frames below the script's leave it a few levels less.
    return re.sub(r"line repeated 9\d\d more times", "line repeated 9xx more times", text)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAILURES)
def test_a_failing_script_prints_and_returns_what_it_does_under_plain_python(
    name: str, run: Run, run_command: Run, script: Script
) -> None:
    script("def f():\n    raise OSError(2, 'gone')\nf()\n", "broken.py")
    script(FAILURES[name])
    plain = run_command([sys.executable, "script.py"])
    code = plain.code if plain.code >= 0 else 128 - plain.code
    for method in ("spawn", "warm"):
        ours = run("--start", method, "script.py")
        assert _comparable(_said_by_rank(ours.err)) == _comparable(plain.err.replace("\r", "")), (
            method
        )
        assert ours.code == code, method
        assert ("FAILED: rank 0" in ours.err) == (code != 0), ours.err
        if "Traceback" in plain.err and name not in ("atexit", "thread", "del"):
            # The report has the traceback again, from the exception itself.
            report = ours.err[ours.err.index("FAILED: rank 0") :]
            last = plain.err.rstrip("\n").rpartition("\n")[2]
            assert last in report or name == "surrogate"


@pytest.mark.slow
def test_module_and_package_tracebacks_show_no_file_of_ours(
    run: Run, run_command: Run, script: Script, method: str
) -> None:
    script("import os\nraise ValueError('mine')\n", "package/__main__.py")
    for target in (("-m", "package"), ("package",)):
        plain = run_command([sys.executable, *target])
        ours = run("--start", method, *target)
        expected = re.sub(r'  File "<frozen runpy>".*\n', "", plain.err)
        assert re.sub(r'  File "<frozen runpy>".*\n', "", _said_by_rank(ours.err)) == expected


@pytest.mark.slow
@pytest.mark.parametrize(("signame", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_rank_killed_by_a_stop_signal_gives_128_plus_its_number(
    signame: str, code: int, method: str, run: Run, script: Script
) -> None:
    script(
        "import os, signal\nif os.environ['RANK'] == '1': os.kill(os.getpid(),"
        f" signal.{signame})\nsignal.pause()\n"
    )
    done = run("--start", method, "--nproc-per-node", "2", "script.py")
    assert done.code == code
    assert "FAILED: rank 1" in done.err
    if signame != "SIGINT":  # python turns that one into KeyboardInterrupt
        assert signame in done.err


@pytest.mark.slow
def test_success_is_silent(method: str, run: Run, script: Script) -> None:
    script("import os\nprint(os.environ['RANK'])\n")
    done = run("--start", method, "--nproc-per-node", "3", "script.py")
    assert done.lines == ["[0] 0", "[1] 1", "[2] 2"]
    assert done.err == ""
    assert done.code == 0


LEAVES = """
import atexit, ctypes, os, sys, threading, time, weakref
{imports}
class Late:
    def __init__(self, text): self.text = text
    # What it needs is at hand: the interpreter may have emptied the modules by then.
    def __del__(self, write=os.write): write(1, self.text.encode() + b"\\n")
late = Late("global __del__")
cycle = Late("cycle __del__"); cycle.itself = cycle
kept_open = open("kept_open", "w"); kept_open.write("unflushed")
binary = open("binary", "wb"); binary.write(b"x" * 100)
class Holder: pass
holder = Holder(); holder.file = open("held", "w"); holder.file.write("held")
atexit.register(os.write, 1, b"atexit first registered\\n")
atexit.register(os.write, 1, b"atexit last registered\\n")
weakref.finalize(holder, os.write, 1, b"finalize\\n")
def work():
    time.sleep(0.05)
    os.write(1, b"thread joined\\n")
threading.Thread(target=work).start()
if {daemon}: threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
sys.held = Late("held by sys __del__")
local = threading.local(); local.value = Late("thread-local __del__")
class Printer:
    def __del__(self, print=print, stdout=sys.__stdout__): print("printed by __del__", file=stdout)
sys.printer = Printer()
libc = ctypes.CDLL(None)
libc.printf(b"buffered by C\\n")
libc.fopen.restype = ctypes.c_void_p
file = libc.fopen(b"c_file", b"w")
libc.fputs(b"buffered by C", ctypes.c_void_p(file))
sys.stdout = open(1, "w", closefd=False, buffering=1000)
print("own buffer")
print("no newline", end="")
"""


@pytest.mark.slow
@pytest.mark.parametrize("daemon", [False, True], ids=["", "daemon-thread"])
@pytest.mark.parametrize("imports", ["", "import numpy, logging"], ids=["light", "preloaded"])
def test_all_that_happens_at_interpreter_exit_happens(
    imports: str, daemon: bool, run: Run, run_command: Run, script: Script, tmp_path: Path
) -> None:
    if imports:
        pytest.importorskip("numpy")
    script(LEAVES.format(imports=imports, daemon=daemon))
    files = ("kept_open", "binary", "held", "c_file")

    def collect() -> dict[str, str]:
        found = {name: (tmp_path / name).read_text() for name in files}
        for name in files:
            (tmp_path / name).unlink()
        return found

    plain = run_command([sys.executable, "script.py"])
    expected = collect()
    assert expected["kept_open"] == "unflushed"
    for method in ("spawn", "warm"):
        ours = run("--start", method, "script.py", env={"OMP_NUM_THREADS": "1"})
        assert ours.out.replace("[0] ", "").rstrip("\n") == plain.out.rstrip("\n"), method
        assert (collect(), ours.code, ours.err) == (expected, 0, "")


MODULES = """
import os, sys, json
class Late:
    def __del__(self, write=os.write): write(1, b"destroyed\\n")
late = Late()
kept_open = open("kept_open", "w"); kept_open.write("unflushed")
def use(): return late
{meddle}
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "meddle",
    [
        "sys.modules.clear()",
        "sys.modules = dict(sys.modules)",
        "[sys.modules.pop(name) for name in list(sys.modules) if name.startswith('launcher')]",
        (
            "import types; sys.modules['os'] = types.ModuleType('os'); sys.modules['mine'] ="
            " sys.modules['__main__']"
        ),
        "del sys.modules['json']; import json; json.late = Late()",
        "del sys.modules['__main__']",
    ],
)
def test_a_script_may_leave_sys_modules_in_any_state(
    meddle: str, run: Run, run_command: Run, script: Script, tmp_path: Path
) -> None:
    script(MODULES.format(meddle=meddle))
    plain = run_command([sys.executable, "script.py"])
    written = (tmp_path / "kept_open").read_text()
    ours = run("--start", "warm", "script.py")
    assert ours.code == plain.code == 0
    assert ours.err == plain.err == ""
    assert ours.out.replace("[0] ", "") == plain.out
    assert (tmp_path / "kept_open").read_text() == written


@pytest.mark.slow
def test_an_exit_code_set_in_the_last_moment_counts(method: str, run: Run, script: Script) -> None:
    script("import atexit, os\natexit.register(os._exit, 5)\n")
    assert run("--start", method, "script.py").code == 5


@pytest.mark.slow
def test_a_script_may_become_another_program(method: str, run: Run, script: Script) -> None:
    script("import os\nos.execvp('sh', ['sh', '-c', 'echo $RANK became sh; exit 6'])\n")
    done = run("--start", method, "script.py")
    assert done.out == "[0] 0 became sh\n"
    assert done.code == 6


@pytest.mark.slow
def test_a_script_that_cannot_write_its_output_fails_as_under_plain_python(
    run: Run, run_command: Run, script: Script
) -> None:
    script("import os\nos.close(1)\nprint('lost')\n")
    plain = run_command([sys.executable, "-u", "script.py"])
    for method in ("spawn", "warm"):
        ours = run("--start", method, "script.py")
        assert ours.code == plain.code
        assert _said_by_rank(ours.err) == plain.err


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["", "sys.exit()", "sys.exit(0)", "sys.exit(5)", "1/0"])
def test_output_that_cannot_be_written_at_exit_is_told_as_under_plain_python(
    ending: str, run: Run, run_command: Run, script: Script
) -> None:
    script(f"import os, sys\nprint('lost')\nos.close(1)\n{ending}\n")
    plain = run_command([sys.executable, "script.py"], env={"PYTHONUNBUFFERED": ""})
    assert plain.code != 0
    for method in ("spawn", "warm"):
        ours = run("--start", method, "script.py", env={"PYTHONUNBUFFERED": ""})
        assert ours.code == plain.code, method
        assert _said_by_rank(ours.err) == plain.err, method


@pytest.mark.slow
def test_what_a_forked_child_of_a_script_raises_is_not_noted_as_the_ranks_failure(
    method: str, run: Run, script: Script, tmp_path: Path
) -> None:
    script(
        "import os\nif os.fork() == 0: raise ValueError('of the child')\nos.wait()\nos._exit(4)\n"
    )
    done = run("--start", method, "script.py")
    assert done.code == 4
    assert "exit code 4" in done.err
    assert list(tmp_path.glob("runs/[!l]*/errors/*/rank_00.json")) == []
