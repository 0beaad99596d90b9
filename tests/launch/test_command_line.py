"""The command line as a process: exit codes, what is printed where, and that torchrun's flags are
all known.
"""

from __future__ import annotations

import os
import sys

import pytest

from launcher.options.arguments import list_options
from launcher.options.spec import LaunchSpec
from tests.conftest import ROOT, Run, Script

pytestmark = pytest.mark.slow


def test_every_flag_of_torchrun_is_accepted_in_every_spelling(run_command: Run) -> None:
    pytest.importorskip("torch")
    code = (
        "from torch.distributed.run import get_args_parser as parser\n"
        "for action in parser()._actions:\n"
        "    for flag in action.option_strings: print(flag, action.nargs == 0, action.dest)\n"
    )
    torchrun = run_command([sys.executable, "-c", code])
    ours = {
        flag: option for option in list_options(LaunchSpec).values() for flag in option.spellings
    }
    lines = [line.split() for line in torchrun.out.splitlines()]
    assert len(lines) > 60, torchrun.err
    for flag, is_switch, dest in lines:
        assert flag in ours, f"{flag} is missing"
        assert (str(ours[flag].is_switch), ours[flag].name) == (is_switch, dest)


def test_a_missing_script_is_a_usage_error(run: Run) -> None:
    done = run("nothing.py")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("launcher: error: There is no file nothing.py.")


def test_a_name_that_is_no_text_is_printed_escaped(run: Run) -> None:
    done = run(b"\xff.py")
    assert done.code == 2
    assert "There is no file \\udcff.py" in done.err


def test_files_of_the_current_folder_do_not_replace_the_standard_library(
    run: Run, script: Script
) -> None:
    for name in ("argparse", "difflib", "signal", "selectors", "json", "random", "subprocess"):
        script("raise SystemExit('the user file was imported')", f"{name}.py")
    done = run("--help")
    assert (done.code, done.err) == (0, "")
    done = run("--nproc-per-node", "two", "x.py")
    assert done.code == 2
    assert "user file" not in done.err


def test_a_reader_that_leaves_early_causes_no_traceback(run: Run) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = run("--help", stdout=write_end)
    os.close(write_end)
    assert (done.code, done.err) == (0, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_behind_stdout_is_told(run: Run) -> None:
    with open("/dev/full", "w") as full:
        done = run("--help", stdout=full)
    assert done.code == 1
    assert done.err.startswith("launcher: error: The output cannot be written: ")
    assert "Traceback" not in done.err


def test_the_option_reference_is_current(run_command: Run) -> None:
    done = run_command([sys.executable, str(ROOT / "scripts/make_option_reference"), "--check"])
    assert done.code == 0, done.err
