"""A script sees under the launcher what it sees under plain `python script.py`: compared field by
field.

Both start methods.
"""

from __future__ import annotations

import json
import os
import py_compile
import shutil
import sys
import zipapp
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import WORKERS, Run, Script

OBSERVE = WORKERS / "observe.py"

# As the console script does it: `python -m launcher` would take a launcher.py of the current folder
# for us.
LAUNCHER = (str(WORKERS / "console_script.py"),)


@pytest.fixture
def compare(run_command: Run) -> Callable[..., None]:
    """Run the same program with plain python and as rank 0 of 2 by both start methods, and compare
    all that it sees.
    """

    def seen(text: str) -> dict[str, Any]:
        (line,) = (line for line in text.splitlines() if "{" in line)
        return dict(json.loads(line[line.index("{") :]))

    def check(
        *argv: str | bytes,
        python: tuple[str, ...] = (),
        before: Callable[[], object] | None = None,
        **options: Any,
    ) -> None:
        if before is not None:
            before()
        plain = run_command([sys.executable, *python, *argv], **options)
        assert plain.code == 0, plain.err
        expected = seen(plain.out)
        for method in ("spawn", "warm"):
            if before is not None:
                before()
            launcher = [
                sys.executable,
                *python,
                *LAUNCHER,
                "--start",
                method,
                "--nproc-per-node",
                "2",
            ]
            ours = run_command([*launcher, *argv], **options)
            assert ours.code == 0, ours.err
            got = seen(ours.out)
            different = {
                name: (expected[name], got.get(name))
                for name in expected
                if expected[name] != got.get(name)
            }
            assert different == {}, (
                f"--start {method}: name: (under plain python, under the launcher)"
            )
            assert ours.err == plain.err

    return check


def install(folder: Path, name: str | bytes) -> str | bytes:
    path = os.path.join(os.fsencode(folder), os.fsencode(name))
    os.makedirs(os.path.dirname(path), exist_ok=True)
    shutil.copy(OBSERVE, path)
    return name


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "script.py",
        "train.py",
        "launcher.py",
        "a script.py",
        "größe 漢字.py",
        b"latin-\xe9.py",
        "no_suffix",
        "sub/folder/script.py",
        "./sub/../script.py",
        "./-dash.py",
        "test.zip.py",
        "__init__.py",
    ],
)
def test_a_script_of_any_name_sees_what_plain_python_shows_it(
    name: str | bytes, tmp_path: Path, compare: Any
) -> None:
    (tmp_path / "sub").mkdir()
    install(tmp_path, name)
    compare(name, "a b", "--x")


@pytest.mark.slow
def test_arguments_reach_the_script_byte_for_byte(tmp_path: Path, compare: Any) -> None:
    install(tmp_path, "script.py")
    compare(
        "script.py",
        "",
        " ",
        "a\nb",
        "--",
        "-m",
        "--nproc-per-node",
        "$HOME",
        "${X}",
        "$",
        "$$",
        b"\xff\xfe",
        "é",
        "'\"",
        "\\",
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["module", "package", "dotted", "namespace"])
def test_a_module_sees_what_python_m_shows_it(kind: str, tmp_path: Path, compare: Any) -> None:
    install(tmp_path, "single.py")
    install(tmp_path, "package/__main__.py")
    install(tmp_path, "package/inner.py")
    (tmp_path / "package/__init__.py").write_text("")
    install(tmp_path, "space/__main__.py")
    target = {
        "module": "single",
        "package": "package",
        "dotted": "package.inner",
        "namespace": "space",
    }[kind]
    compare("-m", target, "-x", "y")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["folder", "./folder", "folder/", "a/../folder", ".", "link"])
def test_a_folder_with_a_main_file_sees_what_plain_python_shows_it(
    name: str, tmp_path: Path, compare: Any
) -> None:
    install(tmp_path, "folder/__main__.py")
    install(tmp_path, "__main__.py")
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to("folder")
    compare(name, "1")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["app.zip", "app.pyz", "app"])
def test_a_zip_archive_sees_what_plain_python_shows_it(
    name: str, tmp_path: Path, compare: Any
) -> None:
    install(tmp_path, "folder/__main__.py")
    zipapp.create_archive(
        tmp_path / "folder",
        tmp_path / name,
        interpreter="/usr/bin/env python3" if name != "app.zip" else None,
    )
    compare(name, "1")


@pytest.mark.slow
def test_a_compiled_script_sees_what_plain_python_shows_it(tmp_path: Path, compare: Any) -> None:
    install(tmp_path, "script.py")
    py_compile.compile(str(tmp_path / "script.py"), cfile=str(tmp_path / "compiled.pyc"))
    compare("compiled.pyc")
    (tmp_path / "compiled.pyc").rename(tmp_path / "by_content")
    compare("by_content")


@pytest.mark.slow
def test_a_symbolic_link_to_a_script_sees_what_plain_python_shows_it(
    tmp_path: Path, compare: Any
) -> None:
    install(tmp_path, "real/script.py")
    (tmp_path / "link.py").symlink_to("real/script.py")
    compare("link.py")


@pytest.mark.slow
def test_stdin_of_rank_0_is_that_of_the_launcher(tmp_path: Path, compare: Any) -> None:
    install(tmp_path, "script.py")
    compare("script.py", stdin="first\nsecond without newline é")
    with open(OBSERVE, "rb") as file:
        # A regular file can seek, and must say so; all three runs share its offset.
        compare("script.py", stdin=file, before=lambda: file.seek(100))


@pytest.mark.slow
def test_a_pool_of_every_kind_works_inside_the_script(tmp_path: Path, compare: Any) -> None:
    install(tmp_path, "script.py")
    compare("script.py", "pools")


@pytest.mark.slow
def test_a_pool_of_every_kind_works_inside_a_module(tmp_path: Path, compare: Any) -> None:
    install(tmp_path, "package/__main__.py")
    install(tmp_path, "package/inner.py")
    compare("-m", "package.inner", "pools")


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        ("-O",),
        ("-W", "ignore::DeprecationWarning"),
        ("-X", "dev"),
        ("-X", "utf8"),
        ("-s", "-q", "-b"),
        ("-P",),
        ("-u",),
    ],
    ids=str,
)
def test_options_of_the_interpreter_reach_the_script(
    flags: tuple[str, ...], tmp_path: Path, compare: Any
) -> None:
    if "-P" in flags and sys.version_info < (3, 11):
        pytest.skip("python 3.10 has no -P")
    install(tmp_path, "script.py")
    compare("script.py", python=flags)


@pytest.mark.slow
def test_what_the_shell_set_up_reaches_the_script(tmp_path: Path, compare: Any) -> None:
    install(tmp_path, "script.py")

    def prepare() -> None:
        import resource
        import signal

        os.umask(0o027)
        os.nice(3)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_NOFILE, (500, 600))
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

    compare(
        "script.py",
        preexec_fn=prepare,
        env={"PYTHONIOENCODING": "latin-1:replace", "PYTHONWARNINGS": "ignore"},
    )


# Modules that the launcher needs, and that a user's file may hide.
HIDDEN = ("json", "select", "signal", "socket", "logging", "ctypes", "random", "selectors")
SHADOWS = (*HIDDEN, "launcher", "tempfile", "struct")


@pytest.mark.slow
def test_modules_of_the_users_folder_win_over_ours_and_pythons(
    tmp_path: Path, run: Run, run_command: Run, method: str, script: Script
) -> None:
    for name in SHADOWS:
        script(f"mine = '{name}'\n", f"{name}.py")
    script(
        f"import importlib\nfor name in {SHADOWS!r}:\n    module = importlib.import_module(name)\n "
        "   print(name, getattr(module, 'mine', module))\n"
    )
    plain = run_command([sys.executable, "script.py"])
    # The current folder's launcher.py hides our package from `python -m launcher`, as it would any
    # other: so from outside.
    ours = run("--start", method, "--nproc-per-node", "2", str(tmp_path / "script.py"), cwd="/")
    assert plain.code == 0, plain.err
    assert ours.code == 0, ours.err
    assert ours.lines == sorted(
        f"[{rank}] {line}" for rank in range(2) for line in plain.out.splitlines()
    )


@pytest.mark.slow
def test_the_current_folder_cannot_break_the_launcher(
    run: Run, method: str, script: Script
) -> None:
    for name in (*HIDDEN, "argparse", "fcntl"):
        script("raise SystemExit('imported by the launcher')\n", f"{name}.py")
    script("print('fine')\nraise ValueError('mine')\n", "elsewhere/script.py")
    done = run("--start", method, "elsewhere/script.py")
    assert done.lines == ["[0] fine"]
    assert "imported by the launcher" not in done.err
    assert "ValueError: mine" in done.err
    assert done.code == 1


@pytest.mark.slow
def test_a_failure_in_a_folder_that_hides_json_is_still_explained(
    tmp_path: Path, run: Run, method: str, script: Script
) -> None:
    for name in ("json", "traceback", "linecache"):
        script("raise SystemExit('imported by the launcher')\n", f"{name}.py")
    script("raise ValueError('mine')\n")
    done = run(
        "--start", method, str(tmp_path / "script.py"), cwd="/", env={"TMPDIR": str(tmp_path)}
    )
    assert done.code == 1
    assert "FAILED: rank 0" in done.err
    assert 'script.py", line 1, in <module>' in done.err
    assert "imported by the launcher" not in done.err
