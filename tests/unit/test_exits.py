"""Exit statuses in words, and the code that a shell would show."""

from __future__ import annotations

import os
import signal

import pytest

from launcher.exits import describe, exit_code_of, from_wait_status, shell_code, signal_name


@pytest.mark.parametrize(
    ("returncode", "words", "code"),
    [
        (0, "exit code 0", 0),
        (3, "exit code 3", 3),
        (127, "exit code 127 (command not found)", 127),
        (-9, "killed by SIGKILL (9)", 137),
        (-11, "killed by SIGSEGV (11), a crash in native code", 139),
        (-signal.SIGTERM, "killed by SIGTERM (15)", 143),
        (
            -signal.SIGXCPU,
            "killed by SIGXCPU (24), the limit of CPU time, which `ulimit -t` shows",
            152,
        ),
        (-77, "killed by signal 77 (77)", 205),
    ],
)
def test_an_exit_is_said_in_words_and_as_a_shell_shows_it(
    returncode: int, words: str, code: int
) -> None:
    assert describe(returncode).startswith(words)
    assert shell_code(returncode) == code


def test_signals_have_names() -> None:
    assert signal_name(15) == "SIGTERM"
    assert signal_name(4000) == "signal 4000"


def test_wait_statuses_become_return_codes() -> None:
    assert from_wait_status(os.CLD_EXITED, 7) == 7
    assert from_wait_status(os.CLD_KILLED, 9) == -9
    assert from_wait_status(os.CLD_DUMPED, 11) == -11


@pytest.mark.parametrize(
    ("exception", "code"),
    [
        (ValueError("x"), 1),
        (SystemExit(), 0),
        (SystemExit(3), 3),
        (SystemExit(256), 0),
        (SystemExit(-1), 255),
        (SystemExit(True), 1),
        (SystemExit("no data"), 1),
    ],
)
def test_the_exit_code_is_pythons(exception: BaseException, code: int) -> None:
    assert exit_code_of(exception) == code
