"""What a program is taken for, and what is said about one that cannot run, before anything
starts.
"""

import os
import sys
import zipfile

import pytest

from launcher.errors import LauncherError, SpawnError, UsageError
from launcher.options.spec import LaunchSpec
from launcher.plan.program import check_command, program_kind, starts_warm


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHON_EXEC", raising=False)
    return tmp_path


def write(path, text="", mode=0o644):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, newline="")
    path.chmod(mode)


def check(script, **how):
    check_command(LaunchSpec(script=script, **how))


def refused(script, **how):
    with pytest.raises(LauncherError) as error:
        check(script, **how)
    return error.value


@pytest.mark.parametrize(
    ("name", "options", "kind"),
    [
        ("script.py", {}, "script"),
        ("folder", {}, "package"),
        ("app.zip", {}, "package"),
        ("app", {}, "package"),
        ("script", {}, "script"),
        ("not_really.zip", {}, "script"),
        ("missing", {}, "script"),
        ("script.py", {"run_path": True}, "run_path"),
        ("script", {"module": True}, "module"),
        ("folder", {"no_python": True}, "command"),
    ],
)
def test_the_kind_of_program_is_what_python_takes_it_for(folder, name, options, kind):
    for script in ("script.py", "script", "not_really.zip"):
        write(folder / script, "print()")
    (folder / "folder").mkdir()
    for archive in ("app.zip", "app"):
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("__main__.py", "")
    assert program_kind(LaunchSpec(script=name, **options)) == kind


@pytest.mark.parametrize(
    ("options", "is_warm"),
    [
        ({"nproc_per_node": "2"}, True),
        ({}, False),
        ({"max_restarts": 1}, True),
        ({"start": "warm"}, True),
        ({"start": "spawn", "nproc_per_node": "2"}, False),
        ({"no_python": True, "nproc_per_node": "2"}, False),
    ],
)
def test_a_fork_server_is_tried_where_it_spares_an_import(options, is_warm):
    assert starts_warm(LaunchSpec(script="train.py", **options)) is is_warm


def test_a_wrapper_around_the_interpreter_is_started_for_each_worker(folder, monkeypatch):
    write(folder / "wrapper", '#!/bin/sh\nexec python "$@"\n')
    (folder / "wrapper").chmod(0o755)
    for python, is_warm in [(str(folder / "wrapper"), False), (sys.executable, True), ("", True)]:
        monkeypatch.setenv("PYTHON_EXEC", python)
        assert starts_warm(LaunchSpec(script="train.py", nproc_per_node="2")) is is_warm
        assert starts_warm(LaunchSpec(script="train.py", nproc_per_node="2", start="warm"))


@pytest.mark.parametrize(
    "name", ["train.py", "train", "my script.py", "übung.py", "-odd.py", "train.txt"]
)
def test_any_readable_file_is_run_by_python(folder, name):
    write(folder / name, "print(1)\n")
    check(name)


def test_a_folder_needs_a_main_file(folder):
    write(folder / "good" / "__main__.py")
    check("good")
    write(folder / "bad" / "train.py")
    error = refused("bad")
    assert error.message == "The folder bad has no file __main__.py to run."
    assert error.hint == "Did you mean bad/train.py?"
    assert error.exit_code == 2


@pytest.mark.parametrize(
    ("typed", "meant"), [("trian.py", "train.py"), ("train", "train.py"), ("Train.py", "train.py")]
)
def test_a_missing_script_gets_the_nearest_name(folder, typed, meant):
    write(folder / "train.py")
    error = refused(typed)
    assert isinstance(error, UsageError)
    assert error.exit_code == 2
    assert str(error) == f"There is no file {typed}. Did you mean {meant}?"


def test_a_missing_script_in_another_folder_is_looked_for_there(folder):
    write(folder / "src" / "train.py")
    assert refused("src/trane.py").hint == "Did you mean src/train.py?"
    assert refused("scr/train.py").hint.startswith(
        "There is no folder scr either; the current folder is /"
    )


def test_a_missing_script_that_is_a_module_gets_the_flag(folder):
    write(folder / "pack" / "__init__.py", "raise SystemExit('imported')")
    write(folder / "pack" / "fit.py")
    assert (
        refused("pack.fit").hint == "Did you mean the module? Type: python -m launcher -m pack.fit"
    )


def test_a_command_in_the_place_of_the_script_is_explained(folder, monkeypatch):
    write(folder / "bin" / "torchthing", "#!/bin/sh\n", 0o755)
    monkeypatch.setenv("PATH", str(folder / "bin"))
    assert refused("python3").hint == "Python is started anyway: leave python3 out."
    assert refused("python_fit.py").hint.startswith("The current folder is /")
    assert (
        refused("torchthing").hint
        == "Did you mean the command? Type: python -m launcher --no-python torchthing"
    )


def test_a_shell_script_gets_the_flag_for_commands(folder):
    write(folder / "run.sh", "#!/bin/bash\necho hello world\n")
    error = refused("run.sh")
    assert (
        str(error)
        == "The file run.sh is no Python file. Type: python -m launcher --no-python ./run.sh"
    )


def test_a_program_gets_the_flag_for_commands():
    assert refused(os.path.realpath(sys.executable)).hint.startswith(
        "Type: python -m launcher --no-python /"
    )


@pytest.mark.parametrize(
    "first_line", ["#!/usr/bin/env python3", "#!/bin/sh\n''':'\nexec python3 $0\n'''"]
)
def test_a_python_file_with_an_interpreter_line_is_fine(folder, first_line):
    write(folder / "tool", f"{first_line}\nprint(1)\n")
    check("tool")


def test_a_module_is_found_without_importing_its_parents(folder):
    write(folder / "pack" / "__init__.py", "raise SystemExit('imported')")
    write(folder / "pack" / "fit.py")
    write(folder / "pack" / "sub" / "__main__.py")
    check("pack.fit", module=True)
    check("pack.sub", module=True)
    check("json.tool", module=True)
    assert "pack" not in sys.modules


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere_at_all", "There is no module nowhere_at_all."),
        ("pack.fat", "The package pack has no module fat."),
        ("pack", "The package pack has no module __main__ and cannot be run by itself."),
        ("pack..fit", "'pack..fit' is no name of a module."),
        ("", "'' is no name of a module."),
    ],
)
def test_a_missing_module_is_named(folder, name, message):
    write(folder / "pack" / "__init__.py")
    write(folder / "pack" / "fit.py")
    error = refused(name, module=True)
    assert error.message == message
    assert error.exit_code == 2


def test_a_package_that_changes_its_path_is_left_to_python(folder):
    write(folder / "pack" / "__init__.py", "__path__.append('elsewhere')")
    check("pack.anything", module=True)


def test_a_file_name_behind_m_is_explained(folder):
    write(folder / "train.py")
    assert str(refused("train.py", module=True)) == (
        "-m needs the name of a module, and train.py is a file. Type: python -m launcher train.py"
    )


def test_a_command_of_path_is_fine():
    check("sh", no_python=True)


def test_an_unknown_command_is_127_as_in_a_shell(folder):
    error = refused("no-such-command", no_python=True)
    assert isinstance(error, SpawnError)
    assert error.exit_code == 127
    write(folder / "run.sh", "#!/bin/sh\n", 0o755)
    assert refused("run.sh", no_python=True).hint == "Type: python -m launcher --no-python ./run.sh"
    assert refused("", no_python=True).exit_code == 127


def test_a_command_without_the_x_bit_is_126(folder):
    write(folder / "run.sh", "#!/bin/sh\n")
    error = refused("./run.sh", no_python=True)
    assert (error.exit_code, error.hint) == (126, "Type: chmod +x ./run.sh")


def test_a_folder_as_command_is_126(folder):
    (folder / "bin").mkdir()
    error = refused("./bin", no_python=True)
    assert (error.exit_code, error.message) == (126, "./bin is a folder, not a command.")


@pytest.mark.parametrize(
    ("first_line", "words"),
    [
        ("#!/no/such/interpreter -x\n", "/no/such/interpreter"),
        ("#! /no/such/interpreter\n", "/no/such/interpreter"),
        ("#!/bin/sh\r\necho\r\n", "end as on Windows"),
        ("#!/bin\n", "names the interpreter /bin,"),
    ],
)
def test_a_bad_interpreter_line_is_126_and_names_it(folder, first_line, words):
    write(folder / "run", first_line, 0o755)
    error = refused("./run", no_python=True)
    assert error.exit_code == 126
    assert words in error.message


def test_a_good_interpreter_line_is_fine(folder):
    write(folder / "run", "#!/usr/bin/env -S sh -e\n", 0o755)
    check("./run", no_python=True)
